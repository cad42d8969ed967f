package clock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/overlay"
)

// program answers each line with its wall clock in seconds, and with how long it has run by the monotonic one.
const program = `package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func main() {
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		now := time.Now()
		fmt.Println(now.Unix(), int(now.Sub(began).Seconds()))
	}
}
`

func TestAStepMovesTheWallClockAlone(t *testing.T) {
	dir := t.TempDir()
	goroot, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	list, err := overlay.Write(strings.TrimSpace(string(goroot)), dir, patches...)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", list, "-o", "program", "main.go")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := Clock(filepath.Join(dir, "clock"))
	if err := c.Step(time.Hour); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), filepath.Join(dir, "program"))
	run.Env = append(os.Environ(), Variable+"="+string(c))
	in, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = run.Wait() })
	answers := bufio.NewReader(out)
	off := func() (wall, mono time.Duration) {
		fmt.Fprintln(in)
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		a, b, _ := strings.Cut(strings.TrimSpace(line), " ")
		now, _ := strconv.ParseInt(a, 10, 64)
		ran, _ := strconv.ParseInt(b, 10, 64)
		return time.Until(time.Unix(now, 0)), time.Duration(ran) * time.Second
	}
	for _, step := range []time.Duration{time.Hour, -90 * time.Second, 0} { // The first holds from the start.
		if err := c.Step(step); err != nil {
			t.Fatal(err)
		}
		var wall, mono time.Duration
		for deadline := time.Now().Add(10 * time.Second); ; {
			wall, mono = off()
			if (wall-step).Abs() < 5*time.Second || time.Now().After(deadline) {
				break
			}
		}
		if (wall-step).Abs() >= 5*time.Second || mono > time.Minute {
			t.Errorf("stepped by %v, it is off by %v and has run for %v", step, wall, mono)
		}
	}
	if err := c.Step(time.Millisecond); err == nil {
		t.Error("a step of a millisecond was taken")
	}
}
