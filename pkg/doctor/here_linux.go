package doctor

import (
	"fmt"
	"os"
	"syscall"
)

// Here is the machine that this process runs on.
func Here() (Machine, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return Machine{}, fmt.Errorf("limit of open files: %w", err)
	}
	return Machine{Root: os.DirFS("/"), Soft: limit.Cur, Hard: limit.Max, Synchronized: synchronized}, nil
}

// synchronized asks the kernel, and changes nothing.
func synchronized() (bool, error) {
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	const unsynchronized = 0x40 // STA_UNSYNC of adjtimex(2)
	return t.Status&unsynchronized == 0, nil
}
