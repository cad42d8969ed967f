// Package integration tests Halley as its users meet it: real servers from deploy/local, the built binary, the commands of
// the README. It holds no product code; its tests need the build tag integration, and are run by `make integration`.
package integration
