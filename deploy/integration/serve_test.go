//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	bannerWithin = 20 * time.Second
	exitWithin   = 2 * time.Second
)

// clone copies what a clone of this tree would hold into an empty folder: what git tracks or would be asked to track.
func clone(t *testing.T) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = servers.root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	dir := t.TempDir()
	for _, name := range strings.Split(strings.Trim(string(out), "\x00"), "\x00") {
		copyFile(t, filepath.Join(servers.root, name), filepath.Join(dir, name))
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if os.IsNotExist(err) {
		return // Tracked and deleted.
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

// goAlone is a command in dir on a machine without a C compiler, with none of its user's settings.
func goAlone(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "HALLEY_") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Env = append(cmd.Env, "CC=/nonexistent", "MAKEFLAGS=")
	// A server that outlives the test would hold its ports.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// serve is a running `make run`.
type serve struct {
	cmd  *exec.Cmd
	done chan error
	curl string
	mu   sync.Mutex
	out  bytes.Buffer // guarded by mu
}

// startServe starts the command and waits for the line that sends a message.
func startServe(t *testing.T, cmd *exec.Cmd) *serve {
	t.Helper()
	s := &serve{cmd: cmd, done: make(chan error, 1)}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = s
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		r := bufio.NewScanner(io.TeeReader(stdout, s))
		for r.Scan() {
			select {
			case lines <- r.Text():
			default: // Nobody reads any more.
			}
		}
		s.done <- cmd.Wait()
	}()
	deadline := time.After(bannerWithin)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("ended before its banner:\n%s", s.output())
			}
			if i := strings.Index(line, "curl -fsS"); i >= 0 && strings.TrimSpace(line[:i]) == "" {
				s.curl = strings.TrimSpace(line)
				return s
			}
		case <-deadline:
			t.Fatalf("no line that begins with `curl -fsS` within %v:\n%s", bannerWithin, s.output())
		}
	}
}

func (s *serve) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *serve) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// send runs the banner's line as a person would, in a shell, and returns the message's seq.
func (s *serve) send(t *testing.T) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-c", s.curl)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s\n%v: %s\nthe server said:\n%s", s.curl, err, stderr.Bytes(), s.output())
	}
	// Ids are strings in JSON; a seq is a number that a string may hold.
	var answer struct{ ID, Seq any }
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("%s\nanswers %q: %v", s.curl, out, err)
	}
	seq, err := strconv.ParseUint(fmt.Sprint(answer.Seq), 10, 64)
	if err != nil || answer.ID == nil || answer.ID == "" {
		t.Fatalf("%s\nanswers %s: want id and seq (%v)", s.curl, out, err)
	}
	return seq
}

// kill is kill -9 of the server and of the make around it.
func (s *serve) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.done
}

// stop is SIGTERM, with no client connected.
func (s *serve) stop(t *testing.T) {
	t.Helper()
	start := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.done:
		if took := time.Since(start); err != nil || took > exitWithin {
			t.Errorf("SIGTERM without clients: took %v (at most %v), %v\n%s", took, exitWithin, err, s.output())
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("did not end:\n%s", s.output())
	}
}
