package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/halley-im/halley/benchmarks/chaos/clock"
	"github.com/halley-im/halley/benchmarks/chaos/network"
)

// serve is everything in one process.
type serve struct {
	binary, dir string
	seed        uint64
	port        int

	mu     sync.Mutex
	cmd    *exec.Cmd     // guarded by mu; nil while none runs
	ended  chan struct{} // guarded by mu: closed when cmd has ended
	wanted bool          // guarded by mu: it was not us who ended it
	mayEnd bool          // guarded by mu: it may end by itself
	told   []string      // guarded by mu
}

const (
	serveWebSocket = iota
	serveTCP
	serveAPI
	serveAdmin
	servePorts
)

func newServe(binary, dir string, seed uint64) (*serve, error) {
	port, err := freePorts(firstPort+os.Getpid()%1000*servePorts, servePorts)
	if err != nil {
		return nil, err
	}
	s := &serve{binary: binary, dir: dir, seed: seed, port: port}
	if network.Isolated() {
		err = s.disk().mount()
	}
	return s, err
}

func (s *serve) endpoints() endpoints {
	at := func(i int) []string { return []string{address(s.port + i)} }
	return endpoints{websocket: at(serveWebSocket), tcp: at(serveTCP), api: at(serveAPI), admin: at(serveAdmin)}
}

func (s *serve) use(binary string) { s.binary = binary }

func (s *serve) data() string { return filepath.Join(s.dir, "data") }

func (s *serve) disk() disk { return disk{s.data()} }

const readyWithin = time.Minute

func (s *serve) up(ctx context.Context) error { return s.do(ctx, verbStart) }

func (s *serve) cold(ctx context.Context) error {
	if err := s.do(ctx, verbKill); err != nil {
		return err
	}
	return s.do(ctx, verbStart)
}

// do starts it, or signals the one that runs.
func (s *serve) do(ctx context.Context, v verb) error {
	switch v {
	case verbStart:
		ctx, cancel := context.WithTimeout(ctx, readyWithin)
		defer cancel()
		return until(ctx, func() error {
			if err := s.spawn(); err != nil { // Again, if the one that runs is about to end.
				return err
			}
			return ready(ctx, address(s.port+serveAdmin))
		})
	case verbStop:
		return s.signal(syscall.SIGTERM, true)
	case verbKill:
		return s.signal(syscall.SIGKILL, true)
	case verbPause:
		return s.signal(syscall.SIGSTOP, false)
	case verbResume:
		return s.signal(syscall.SIGCONT, false)
	}
	return fmt.Errorf("serve knows no %s", v)
}

func (s *serve) spawn() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has a descriptor of its own.
	at := func(i int) string { return address(s.port + i) }
	cmd := exec.Command(s.binary, "serve", "--data-dir", s.data(), "--websocket", at(serveWebSocket), //nolint:noctx // it outlives every call; down ends it.
		"--tcp", at(serveTCP), "--api", at(serveAPI), "--admin", at(serveAdmin))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.Env = append(os.Environ(), clock.Variable+"="+string(clockOf(s.dir, "serve")))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // A Ctrl-C is for the harness, which then ends it.
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	s.cmd, s.ended, s.wanted = cmd, ended, true
	go func() { // signal and down wait for it.
		err := cmd.Wait()
		s.mu.Lock()
		if s.wanted && !s.mayEnd {
			s.told = append(s.told, fmt.Sprintf("serve ended by itself: %v", err))
		}
		s.cmd = nil
		s.mu.Unlock()
		close(ended)
	}()
	return nil
}

// expect says whether it may end by itself.
func (s *serve) expect(end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mayEnd = end
}

// signal sends one, and for one that ends the process waits until it has.
func (s *serve) signal(sig syscall.Signal, ends bool) error {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	if cmd == nil {
		s.mu.Unlock()
		return nil
	}
	s.wanted = s.wanted && !ends
	err := cmd.Process.Signal(sig)
	s.mu.Unlock()
	if err == nil && ends {
		<-ended
	}
	return err
}

func (s *serve) down() {
	_ = s.signal(syscall.SIGKILL, true)
	if network.Isolated() {
		_ = s.disk().unmount() // It is gone with the run at the latest.
	}
}

// fullServe fills the disk under s, which may then end by itself, and is started again as a supervisor would. One that stays must work
// once there is room.
type fullServe struct{ s *serve }

// What was refused the moment before there was room may end it a moment later.
const endsWithin = 2 * time.Second

// Begin fills.
func (f fullServe) Begin(ctx context.Context) error {
	f.s.expect(true)
	return f.s.disk().Begin(ctx)
}

// End frees.
func (f fullServe) End(ctx context.Context) error {
	defer f.s.expect(false)
	if err := f.s.disk().End(ctx); err != nil {
		return err
	}
	sleep(ctx, endsWithin)
	return f.s.do(ctx, verbStart)
}

func (s *serve) faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

func (s *serve) kinds(gates []*gate) []Kind {
	kinds := append(gateKinds(gates), killed("serve", s), paused("serve", s), restarted("serve", s), clockWrong(s.seed, s.dir, "serve"))
	if network.Isolated() {
		kinds = append(kinds, diskFilled("serve", fullServe{s}))
	}
	return kinds
}

func (s *serve) secrets() (tokenKeys, apiKey string, err error) {
	data, err := os.ReadFile(filepath.Join(s.data(), "development-api-key"))
	return filepath.Join(s.data(), "token-keys"), strings.TrimSpace(string(data)), err
}
