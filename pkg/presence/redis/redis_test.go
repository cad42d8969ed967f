package redis

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/presencetest"
)

// clock runs with the machine's and can be put forward.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func config(address string) Config {
	cfg := Default()
	cfg.Addresses = []string{address}
	return cfg
}

func open(t testing.TB, cfg Config, now func() time.Time) *Registry {
	t.Helper()
	r, err := New(cfg, Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

// miniredis has Redis's commands but no INFO of its replication and no two clocks; the integration tests run the same suite on
// the real one.
func TestSuiteOnMiniredis(t *testing.T) {
	presencetest.Run(t, func(t *testing.T) presencetest.Harness {
		m := miniredis.RunT(t)
		c := new(clock)
		return presencetest.Harness{
			Registry: open(t, config(m.Addr()), c.Now), Other: open(t, config(m.Addr()), c.Now),
			Advance: func(d time.Duration) { c.Advance(d); m.FastForward(d) }, Staleness: staleness, Wipe: m.FlushAll,
		}
	})
}

// An epoch must rise even when the clock of Redis steps back, by a failover for example.
func TestEpochsRiseThoughTheClockStepsBack(t *testing.T) {
	m := miniredis.RunT(t)
	r := open(t, config(m.Addr()), nil)
	m.SetTime(time.Now())
	first, err := r.Acquire(t.Context(), "comet-1")
	if err != nil {
		t.Fatal(err)
	}
	m.FastForward(time.Minute)
	m.SetTime(time.Now().Add(-time.Hour))
	second, err := r.Acquire(t.Context(), "comet-1")
	if err != nil || second <= first {
		t.Fatalf("epoch %d, %v follows %d", second, err, first)
	}
}

func TestJanitorRemovesOnlyWhatDeadNodesLeft(t *testing.T) {
	m := miniredis.RunT(t)
	c := new(clock)
	cfg := config(m.Addr())
	cfg.JanitorUsersPerSecond = 100_000
	r := open(t, cfg, c.Now)
	ctx := t.Context()
	dead, _ := r.Acquire(ctx, "comet-dead")
	m.FastForward(presence.TTL)
	c.Advance(presence.TTL + staleness)
	live, _ := r.Acquire(ctx, "comet-live")
	var regs []presence.Registration
	for i := range 200 {
		e := presence.Entry{Device: "phone", Node: "comet-dead", Epoch: dead, Codec: link.CodecProto}
		if i%4 == 0 {
			e.Node, e.Epoch = "comet-live", live
		}
		regs = append(regs, presence.Registration{User: presence.User{App: "main", User: fmt.Sprint("u", i)}, Entry: e})
	}
	if err := r.Register(ctx, regs); err != nil {
		t.Fatal(err)
	}
	group := presence.RoomID{App: "main", Conversation: "g:x"}
	if err := r.EnterRoom(ctx, []presence.Room{
		{RoomID: group, Node: "comet-dead", Epoch: dead}, {RoomID: group, Node: "comet-live", Epoch: live},
		{RoomID: presence.RoomID{App: "main", Conversation: "g:y"}, Node: "comet-dead", Epoch: dead},
	}); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- r.Run(running) }()
	// A key each for the janitor, the live node, two nodes' last epochs, and the room that it is in.
	deadline := time.Now().Add(10 * time.Second)
	for fields, _ := m.HKeys("g:{main/g:x}"); len(m.Keys()) != 50+5 || len(fields) != 1; fields, _ = m.HKeys("g:{main/g:x}") {
		if time.Now().After(deadline) {
			t.Fatalf("%d keys are left, want 55; in the room are %v", len(m.Keys()), fields)
		}
		<-time.After(time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.metrics.removed)
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if got := gathered[0].GetMetric()[0].GetCounter().GetValue(); got != 152 {
		t.Fatalf("%v entries counted as removed, want 152", got)
	}
}

// Two processes run the janitor; one of them works.
func TestOneJanitorAtATime(t *testing.T) {
	m := miniredis.RunT(t)
	a, b := &janitor{r: open(t, config(m.Addr()), nil), who: "a"}, &janitor{r: open(t, config(m.Addr()), nil), who: "b"}
	for i, step := range []struct {
		j    *janitor
		want bool
		wait time.Duration
	}{{a, true, 0}, {b, false, 0}, {a, true, 0}, {b, true, janitorTTL}, {a, false, 0}} {
		m.FastForward(step.wait)
		if got, err := step.j.hold(t.Context()); err != nil || got != step.want {
			t.Fatalf("step %d: %s holds = %v, %v", i, step.j.who, got, err)
		}
	}
}

// A janitor that found nothing rests; one that did goes on at once.
func TestAJanitorRestsAfterARoundThatFoundNothing(t *testing.T) {
	m := miniredis.RunT(t)
	c := new(clock)
	r := open(t, config(m.Addr()), c.Now)
	ctx := t.Context()
	j := &janitor{r: r, who: "a"}
	round := func() {
		t.Helper()
		for first := true; first || len(j.todo) > 0; first = false {
			if err := j.step(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	epoch, _ := r.Acquire(ctx, "comet-1")
	reg := presence.Registration{
		User: presence.User{App: "main", User: "alice"}, Entry: presence.Entry{Device: "phone", Node: "comet-1", Epoch: epoch},
	}
	if err := r.Register(ctx, []presence.Registration{reg}); err != nil {
		t.Fatal(err)
	}
	round()
	if rest := j.rest.Sub(j.began); j.removed != 0 || rest <= 0 {
		t.Errorf("%d removed of a live node, rest %v", j.removed, rest)
	}
	m.FastForward(presence.TTL)
	c.Advance(presence.TTL + staleness)
	round()
	if j.removed != 1 || j.resting(time.Now()) {
		t.Errorf("%d removed of a dead node; resting: %v", j.removed, j.resting(time.Now()))
	}
	for _, at := range []struct {
		took, rest time.Duration
		removed    int
	}{{10 * time.Second, 90 * time.Second, 0}, {time.Hour, mostRest, 0}, {10 * time.Second, 0, 1}} {
		now := time.Now()
		j.began, j.removed = now.Add(-at.took), at.removed
		j.finished(now)
		if j.rest.Sub(now) != at.rest || j.resting(now) != (at.rest > 0) || j.resting(now.Add(at.rest)) {
			t.Errorf("a round of %v that removed %d: rest %v, want %v", at.took, at.removed, j.rest.Sub(now), at.rest)
		}
	}
}

// ask looks one user up and says how long that took.
func ask(t *testing.T, r *Registry) (time.Duration, error) {
	t.Helper()
	start := time.Now()
	_, err := r.Lookup(t.Context(), []presence.User{{App: "main", User: "alice"}}, nil)
	return time.Since(start), err
}

// A Redis that takes connections and never answers: each call ends in its time, and soon costs nothing.
func TestSilentRedis(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := config(l.Addr().String())
	cfg.BreakerOpenMilliseconds = 60_000
	r := open(t, cfg, nil)
	for i := range cfg.BreakerFailures {
		d, err := ask(t, r)
		if !errors.Is(err, presence.ErrUnavailable) || d > 600*time.Millisecond {
			t.Fatalf("look-up %d took %v: %v", i, d, err)
		}
	}
	if d, err := ask(t, r); !errors.Is(err, presence.ErrUnavailable) || d > 50*time.Millisecond {
		t.Fatalf("with an open breaker a look-up took %v: %v", d, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := r.Renew(ctx, "comet-1", 1); !errors.Is(err, presence.ErrUnavailable) || errors.Is(err, presence.ErrLost) {
		t.Fatalf("Renew = %v: nothing may be concluded", err)
	}
	if d := time.Since(start); d > 600*time.Millisecond {
		t.Fatalf("Renew took %v, its context ended after 30 ms", d)
	}
}

// What a caller gives up says nothing about Redis.
func TestCallersCancelDoesNotOpenTheBreaker(t *testing.T) {
	m := miniredis.RunT(t)
	r := open(t, config(m.Addr()), nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if _, err := r.Lookup(gone, []presence.User{{App: "main", User: "alice"}}, nil); !errors.Is(err, presence.ErrUnavailable) {
			t.Fatalf("Lookup = %v", err)
		}
	}
	if _, err := ask(t, r); err != nil {
		t.Fatal(err)
	}
}

func TestRedisComesBack(t *testing.T) {
	m := miniredis.RunT(t)
	r := open(t, config(m.Addr()), nil)
	if _, err := ask(t, r); err != nil {
		t.Fatal(err)
	}
	m.SetError("LOADING Redis is loading the dataset in memory")
	for range 10 {
		if _, err := ask(t, r); !errors.Is(err, presence.ErrUnavailable) {
			t.Fatalf("while loading: %v", err)
		}
	}
	m.SetError("")
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := ask(t, r); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestUserAndPassword(t *testing.T) {
	m := miniredis.RunT(t)
	m.RequireUserAuth("halley", "s3cret")
	for password, ok := range map[string]bool{"s3cret": true, "wrong": false, "": false} {
		cfg := config(m.Addr())
		cfg.Username, cfg.Password = "halley", password
		if _, err := ask(t, open(t, cfg, nil)); (err == nil) != ok || err != nil && !errors.Is(err, presence.ErrUnavailable) {
			t.Errorf("password %q: %v", password, err)
		}
	}
}

func TestTLS(t *testing.T) {
	// httptest brings a certificate for 127.0.0.1 and example.com.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	m := miniredis.NewMiniRedis()
	if err := m.StartTLS(&tls.Config{Certificates: web.TLS.Certificates}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config(m.Addr())
	cfg.TLS = TLS{Enabled: true, CAFile: ca}
	if _, err := ask(t, open(t, cfg, nil)); err != nil {
		t.Errorf("with the right CA: %v", err)
	}
	cfg.TLS.ServerName = "other.example"
	if _, err := ask(t, open(t, cfg, nil)); !errors.Is(err, presence.ErrUnavailable) {
		t.Errorf("with another name: %v", err)
	}
	cfg.TLS = TLS{Enabled: true}
	if _, err := ask(t, open(t, cfg, nil)); !errors.Is(err, presence.ErrUnavailable) {
		t.Errorf("without the CA: %v", err)
	}
	cfg.TLS.CAFile = ca + ".missing"
	if _, err := New(cfg, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a CA file that is not there was accepted")
	}
}

func TestForeignFieldsAreNoEntries(t *testing.T) {
	for _, s := range []string{"", "1", "1|2|3", "x|2|3|1|node", "1|2|-3|1|node"} {
		if e, ok := unpack("phone", s); ok {
			t.Errorf("unpack(%q) = %+v", s, e)
		}
	}
	want := presence.Entry{Device: "phone", Node: "comet-1", Epoch: 1<<64 - 1, Conn: 1<<64 - 1, Codec: link.CodecJSON, Generation: 1 << 52}
	if got, ok := unpack("phone", fmt.Sprint(want.Generation)+packTail(&want)); !ok || got != want {
		t.Errorf("unpack = %+v, want %+v", got, want)
	}
}

func TestConfig(t *testing.T) {
	good := Default()
	if err := good.Validate(); err != nil {
		t.Fatalf("Default: %v", err)
	}
	for name, spoil := range map[string]func(*Config){
		"mode":      func(c *Config) { c.Mode = "ring" },
		"addresses": func(c *Config) { c.Addresses = nil },
		"two":       func(c *Config) { c.Addresses = []string{"a:1", "b:2"} },
		"no master": func(c *Config) { c.Mode = ModeSentinel },
		"master":    func(c *Config) { c.Master = "x" },
		"db":        func(c *Config) { c.Mode, c.DB = ModeCluster, 1 },
		"tls":       func(c *Config) { c.TLS.CertFile = "x" },
		"enabled":   func(c *Config) { c.TLS.CAFile = "x" },
		"pool":      func(c *Config) { c.PoolSize = -1 },
		"janitor":   func(c *Config) { c.JanitorUsersPerSecond = 0 },
		"breaker":   func(c *Config) { c.BreakerFailures = 0 },
	} {
		c := Default()
		if spoil(&c); c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkLookupMiniredis(b *testing.B) {
	m := miniredis.RunT(b)
	benchmarkLookup(b, open(b, config(m.Addr()), nil))
}

func benchmarkLookup(b *testing.B, r *Registry) {
	epoch, err := r.Acquire(b.Context(), "comet-1")
	if err != nil {
		b.Fatal(err)
	}
	users := make([]presence.User, 100)
	regs := make([]presence.Registration, 100)
	for i := range users {
		users[i] = presence.User{App: "main", User: fmt.Sprint("user", i)}
		regs[i] = presence.Registration{User: users[i], Entry: presence.Entry{Device: "phone", Node: "comet-1", Epoch: epoch}}
	}
	if err := r.Register(b.Context(), regs); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Lookup(b.Context(), users, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/user")
}
