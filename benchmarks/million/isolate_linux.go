package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// insideVariable holds the folder of the run, within its namespaces.
const insideVariable = "MILLION_INSIDE"

// isolate runs this program again in a network, a mount and a process namespace of its own. There its first process is that program: when
// it ends, however it does, the kernel ends all others, and what they mounted and listened on is gone. sockets is how many it will have.
func isolate(ctx context.Context, dir string, args []string, sockets int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	// It writes down what it has, and ends.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	restore := tableFor(sockets)
	err = cmd.Start()
	restore()
	if err != nil {
		return fmt.Errorf("namespaces of its own: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return errors.New("the run failed")
	}
	return nil
}

// tableFor gives the next network namespace a table of established connections of its own with a place for each (ip-sysctl of the kernel's
// documentation, tcp_child_ehash_entries). Without, it shares the machine's, in which the kernel looks for every packet's socket among
// all those of a place. A kernel that knows no such table is left as it is.
func tableFor(sockets int) (restore func()) {
	const path, most = "/proc/sys/net/ipv4/tcp_child_ehash_entries", 1 << 24
	before, err := os.ReadFile(path)
	if err != nil {
		return func() {}
	}
	entries := 1 << bits.Len(uint(sockets))
	if os.WriteFile(path, []byte(strconv.Itoa(min(entries, most))), 0) != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(path, bytes.TrimSpace(before), 0) }
}

// settle makes the namespaces fit to work in.
func settle() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("/proc of its own: %w", err)
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return tune()
}

func loopback() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd) //nolint:errcheck // nothing was written.
	// struct ifreq of netdevice(7): a name, and flags.
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
