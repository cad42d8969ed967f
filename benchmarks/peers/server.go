package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// rig is the place where servers are run and measured: one at a time, on a core of its own.
type rig struct {
	repository string
	binary     string // Halley's.
	dir        string // For data on the disk.
	core       int    // The servers'.
	loops      int    // Of the generator, on the other cores.
	sizes      sizes
	port       int // The next to try.
}

// The ports of the servers lie below those that the kernel gives to clients.
const (
	firstPort = 21000
	lastPort  = 21999
)

// ports are n that are free, each used once in a run: connections of the server before may linger.
func (r *rig) ports(n int) (free []int, err error) {
	for ; len(free) < n; r.port++ {
		if r.port > lastPort {
			return nil, fmt.Errorf("no free ports between %d and %d", firstPort, lastPort)
		}
		l, err := net.Listen("tcp", address(r.port))
		if err != nil {
			continue
		}
		_ = l.Close()
		free = append(free, r.port)
	}
	return free, nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// command runs something that is not measured, to its end, and returns what it printed.
func (r *rig) command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.repository
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(name), err, lastLine(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// install has the script of the local services bring what a peer needs.
func (r *rig) install(ctx context.Context, what string) error {
	_, err := r.command(ctx, filepath.Join(r.repository, "deploy", "local", "install.sh"), what)
	return err
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// program finds a server that a package installed; those of root may not be in the user's path.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// server is a running server.
type server struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	once  sync.Once
}

// start runs a server on its core, in a folder of its own.
func (r *rig) start(name, dir string, environment []string, command ...string) (*server, error) {
	s := &server{name: name, log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()                                                                            //nolint:errcheck // the process has a descriptor of its own.
	s.cmd = exec.Command("taskset", append([]string{"-c", strconv.Itoa(r.core)}, command...)...) //nolint:noctx // stop ends it.
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, log, log
	s.cmd.Env = append(os.Environ(), environment...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // A Ctrl-C is for the run, which then ends it.
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // Whether it was to end is known to who waits for it.
		close(s.ended)
	}()
	return s, nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// startWithin is how long a server may take to listen.
const startWithin = 60 * time.Second

// listens waits until all ports are open.
func (s *server) listens(ctx context.Context, ports ...int) error {
	for _, port := range ports {
		if err := s.until(ctx, func() error {
			c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address(port))
			if err == nil {
				err = c.Close()
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// until waits until f has no fault to find.
func (s *server) until(ctx context.Context, f func() error) error {
	for deadline := time.Now().Add(startWithin); ; pause(ctx, 50*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			text, _ := os.ReadFile(s.log)
			return fmt.Errorf("%s ended: %s", s.name, lastLine(string(text)))
		default:
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", s.name, errors.Join(err, ctx.Err()))
		}
	}
}

// stop ends it.
func (s *server) stop() {
	s.once.Do(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.ended
		}
	})
}

// newSecret is a key that signs tokens, or a password.
func newSecret() (string, error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// tokens signs JSON Web Tokens of users with HS256.
func tokens(secret []byte, claims func(user string, expires int64) any) func(user string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v) //nolint:errchkjson // maps of strings and numbers.
		return base64.RawURLEncoding.EncodeToString(text)
	}
	head := part(map[string]string{"alg": "HS256", "typ": "JWT"})
	return func(user string) string {
		text := head + "." + part(claims(user, time.Now().Add(12*time.Hour).Unix()))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
}

// write puts a file into a server's folder.
func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}
