//go:build !linux

package loop

import "syscall"

const soReusePort = syscall.SO_REUSEPORT
