package main

import (
	"os"
	"runtime"
	"syscall"
)

const (
	// kernelSlack is what a process has that nobody gave another: how much later than asked, in nanoseconds, the kernel may end a sleep so
	// that it ends with others (PR_SET_TIMERSLACK in prctl(2)).
	kernelSlack = 50_000
	// nodeSlack is that of tiers and of the generator's processes, which wake up for single frames, hundreds of times a second and more. For
	// each of these Go's monitor thread looks every 20 microseconds whether a thread is stuck in a system call, and wakes up a processor
	// that would sleep for that: it is more work than the frame.
	nodeSlack = 1_000_000
)

// takeSlack gives the process nodeSlack, unless whoever started it chose one (TimerSlackNSec= in systemd). A thread inherits it from
// the one that makes it, and the monitor is there before main: so the program begins again, once, as the same process. Without
// permission for that it goes on as it is.
func takeSlack(environ []string) {
	runtime.LockOSThread() // The slack is a thread's, and the one that executes is the first of the program that begins again.
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return
	}
	if slack, _, errno := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_GET_TIMERSLACK, 0, 0); errno != 0 || slack != kernelSlack {
		return
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, nodeSlack, 0); errno != 0 {
		return
	}
	// A kernel that only pretends would have it begin again for ever.
	if slack, _, errno := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_GET_TIMERSLACK, 0, 0); errno != 0 || slack != nodeSlack {
		return
	}
	if err := syscall.Exec(self, os.Args, environ); err != nil {
		_, _ = raiseDescriptors() // The call has given up what Go's runtime raised for it. Whoever needs more says so.
	}
}
