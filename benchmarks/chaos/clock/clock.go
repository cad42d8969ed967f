// Package clock builds Halley so that the wall clock of each of its processes can be stepped while it runs, and steps it. No program may
// step the machine's own clock, and a Go program reads it without a system call that others could answer; so the standard
// library is told to, by an overlay. Nothing of Halley's own is changed, nor the monotonic clock, which no step moves.
package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/overlay"
)

// Variable names, in the environment of a process, the file that says by how many seconds its clock is off.
const Variable = "CHAOS_CLOCK"

// seen is twice what a process takes at most to look at its file.
const seen = 100 * time.Millisecond

const source = "src/time/time.go"

// patches are of the Go release that go.mod asks for; another one that says this otherwise is refused.
var patches = []overlay.Patch{
	{File: source, Old: "import (\n\t\"errors\"\n", New: "import (\n\t\"errors\"\n\t\"sync/atomic\"\n\t\"syscall\"\n"},
	{
		File: source,
		Old:  "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n",
		New: `var clockOff atomic.Int64

func init() {
	if name, ok := syscall.Getenv("` + Variable + `"); ok {
		clockLook(name)
		go func() {
			for {
				Sleep(50 * Millisecond)
				clockLook(name)
			}
		}()
	}
}

// clockLook leaves the clock as it is where the file says nothing.
func clockLook(name string) {
	fd, err := open(name)
	if err != nil {
		return
	}
	var buf [24]byte
	n, err := read(fd, buf[:])
	closefd(fd)
	if err != nil || n < 2 || buf[n-1] != '\n' {
		return
	}
	digits, minus := buf[:n-1], buf[0] == '-'
	if minus {
		digits = digits[1:]
	}
	var off int64
	for _, d := range digits {
		off = off*10 + int64(d-'0')
	}
	if minus {
		off = -off
	}
	clockOff.Store(off)
}

func Now() Time {
	sec, nsec, mono := runtimeNow()
	sec += clockOff.Load()
`,
	},
}

// Build puts a halley whose clock can be stepped into dir, from the repository at root.
func Build(ctx context.Context, root, dir string) (binary string, err error) {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("clock: %w", err)
	}
	list, err := overlay.Write(strings.TrimSpace(string(goroot)), dir, patches...)
	if err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "halley-clock")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-overlay", list, "-o", binary, "./cmd/halley")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("clock: %w: %s", err, out)
	}
	return binary, nil
}

// Clock is one process's; it is the name of a file.
type Clock string

// Step sets it off by a whole number of seconds from the machine's; 0 sets it right. A process that runs has seen it when Step returns.
func (c Clock) Step(off time.Duration) error {
	if off%time.Second != 0 {
		return errors.New("clock: a step is whole seconds")
	}
	if err := os.WriteFile(string(c), fmt.Appendf(nil, "%d\n", off/time.Second), 0o600); err != nil {
		return err
	}
	time.Sleep(seen)
	return nil
}
