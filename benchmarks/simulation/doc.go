// Package simulation runs the write path and the job behind it against a log, leases, a store, links and devices that fail as a seed
// tells them to, in false time. It holds no product code: its tests make the world, and say after each run whether the promises were kept.
package simulation
