package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slacks are those of a process's threads, which only some may see of others.
func slacks(t *testing.T, pid int) (list []string) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		slack, err := os.ReadFile(filepath.Join("/proc", thread.Name(), "timerslack_ns"))
		switch {
		case errors.Is(err, os.ErrPermission):
			t.Skip("needs CAP_SYS_NICE")
		case err == nil: // Else the thread has ended.
			list = append(list, strings.TrimSpace(string(slack)))
		}
	}
	return list
}

// TestNodesTakeSlack is about the threads of a process of the generator, which begins as a node does: all of them, the one included that
// the runtime starts before main.
func TestNodesTakeSlack(t *testing.T) {
	for _, c := range []struct {
		name    string
		inherit uintptr // In nanoseconds; 0 is the kernel's default.
		want    string
	}{
		{"of its own", 0, fmt.Sprint(nodeSlack)},
		{"chosen by whoever starts it", 200_000, "200000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			worker := halley(t, t.TempDir(), "bench", "worker")
			stdin, err := worker.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			startWithSlack(t, c.inherit, worker.Start)
			defer worker.Wait()
			defer stdin.Close()
			var got []string
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
				got = slacks(t, worker.Process.Pid)
				if len(got) > 2 && !slices.ContainsFunc(got, func(slack string) bool { return slack != c.want }) {
					return
				}
			}
			t.Fatalf("its threads have %v ns, where all should have %s", got, c.want)
		})
	}
}

// startWithSlack has the child inherit it: a child's is that of the thread that starts it.
func startWithSlack(t *testing.T, ns uintptr, start func() error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, slack := range []uintptr{max(ns, kernelSlack), kernelSlack} {
		if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, slack, 0); errno != 0 {
			t.Fatal(errno)
		}
		if start != nil {
			if err := start(); err != nil {
				t.Fatal(err)
			}
		}
		start = nil
	}
}
