//go:build amd64 || arm64

package loop

import (
	"syscall"
	"unsafe"
)

// send gives a socket as much of p as it takes at once. The scheduler is not told: the call waits for nothing.
func send(fd int, p []byte) int {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
