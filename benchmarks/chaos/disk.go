package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// disk is a file system of the run's own, in memory, that can be made to have no room left.
type disk struct{ dir string }

// diskSize is more than a run writes.
const diskSize = 1 << 30

// mount makes it, empty.
func (d disk) mount() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return execute("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", diskSize), "halley-chaos", d.dir)
}

// unmount leaves what was on it in its folder, where the run keeps everything.
func (d disk) unmount() error {
	kept := d.dir + ".kept"
	if err := execute("cp", "-a", d.dir, kept); err != nil {
		return err
	}
	if err := execute("umount", "--lazy", d.dir); err != nil {
		return err
	}
	if err := os.Remove(d.dir); err != nil {
		return err
	}
	return os.Rename(kept, d.dir)
}

// Begin takes away all the room that is free.
func (d disk) Begin(ctx context.Context) error {
	// What is written between the look and the change makes it fail.
	return until(ctx, func() error {
		var s syscall.Statfs_t
		if err := syscall.Statfs(d.dir, &s); err != nil {
			return err
		}
		return d.resize((uint64(s.Blocks) - uint64(s.Bfree)) * uint64(s.Bsize)) //nolint:unconvert // the types differ between systems.
	})
}

// End gives it back.
func (d disk) End(context.Context) error { return d.resize(diskSize) }

func (d disk) resize(bytes uint64) error {
	return execute("mount", "-o", fmt.Sprintf("remount,size=%d", bytes), d.dir)
}

func execute(program string, args ...string) error {
	out, err := exec.Command(program, args...).CombinedOutput() //nolint:noctx // it ends at once.
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func diskFilled(name string, f Fault) Kind {
	return Kind{Name: "fill-disk-" + name, Targets: []string{name}, Least: 4 * time.Second, Most: 12 * time.Second, Fault: f}
}

// fullDisk fills the disk under a NATS server, and when there is room again has it start anew, as its operator must: one whose disk was
// full does no more until then.
type fullDisk struct {
	disk   disk
	server process
}

// Begin fills.
func (f fullDisk) Begin(ctx context.Context) error { return f.disk.Begin(ctx) }

// End frees and restarts.
func (f fullDisk) End(ctx context.Context) error {
	if err := f.disk.End(ctx); err != nil {
		return err
	}
	if err := f.server.do(ctx, verbKill); err != nil {
		return err
	}
	return f.server.do(ctx, verbStart)
}
