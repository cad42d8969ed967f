package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/lastknown"
	"github.com/halley-im/halley/pkg/presence/redis/redistest"
)

// cometProcess is a comet in a process of its own, which can be killed.
type cometProcess struct {
	tcp, admin string
	cmd        *exec.Cmd
	errs       *lockedBuffer
	ended      chan struct{}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func startComet(t *testing.T, settings ...string) *cometProcess {
	t.Helper()
	c := &cometProcess{tcp: freeAddress(t), admin: freeAddress(t), errs: &lockedBuffer{}, ended: make(chan struct{})}
	args := []string{"comet", "--tcp", c.tcp, "--websocket", "127.0.0.1:0", "--admin", c.admin}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	c.cmd = halley(t, t.TempDir(), args...)
	c.cmd.Stderr = c.errs
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(c.ended); _ = c.cmd.Wait() }()
	t.Cleanup(c.kill)
	return c
}

func (c *cometProcess) kill() {
	_ = c.cmd.Process.Kill()
	<-c.ended
}

// get reads a page of the admin port; empty where there is none.
func (c *cometProcess) get(page string) string {
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get("http://" + c.admin + page)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return ""
	}
	return string(text)
}

// sessions is how many devices have been let in and are there.
func (c *cometProcess) sessions() int {
	for line := range strings.Lines(c.get("/metrics")) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), `halley_comet_connections{transport="tcp"} `); ok {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				return int(n)
			}
		}
	}
	return -1
}

// stormKilled is how many devices the killed comet holds, with STORM_DEVICES=15000 10,000.
const stormKilled = 600

// completeWithin bounds how long a device may lack something after its comet was killed: ten times what is aimed at for 10,000.
const completeWithin = 200 * time.Second

// A comet is killed that holds two thirds of the devices, while they talk. They come back to the other one, once each, and have everything
// again.
func TestACometIsKilledUnderItsDevices(t *testing.T) {
	devices := stormKilled * 3 / 2
	if v := os.Getenv("STORM_DEVICES"); v != "" {
		var err error
		if devices, err = strconv.Atoi(v); err != nil {
			t.Fatalf("STORM_DEVICES: %v", err)
		}
	}
	nats, redis, keys := bustest.StartCluster(t, 1), redistest.Start(t), filepath.Join(t.TempDir(), "keys")
	key, err := auth.GenerateKeys(keys)
	if err != nil {
		t.Fatal(err)
	}
	w := startWire(t, 1, func(set *wireSettings) {
		set.conn, set.comets, set.registry = nats.Connect(), 0, redistest.Open(t, redis, prometheus.NewRegistry())
		set.presence = func(r presence.Registry) presence.Registry { return lastknown.New(r, lastknown.Limit) }
	})
	settings := []string{
		"nats.urls=" + nats.URLs()[0], "redis.addresses=" + redis, "auth.keys_file=" + keys, "comet.cpu_guard_percent=0",
	}
	victim, other := startComet(t, settings...), startComet(t, settings...)
	for _, c := range []*cometProcess{victim, other} {
		w.wait("the comet is ready", func() error {
			if c.get("/readyz") == "" {
				return fmt.Errorf("not ready\n%s", c.errs)
			}
			return nil
		})
	}
	cfg := benchmarks.Default()
	cfg.Connections, cfg.Transport, cfg.Key, cfg.Warmup = devices, "tcp", key[0], 0
	cfg.Targets = []string{victim.tcp, other.tcp, victim.tcp}
	cfg.ConnectTimeout, cfg.Duration = 3*time.Minute, 10*time.Minute
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	ended := make(chan *benchmarks.Report, 1)
	go func() {
		defer close(ended)
		r, err := benchmarks.RunStorm(ctx, benchmarks.StormConfig{Config: cfg, Load: benchmarks.Load{Rate: 200}}, io.Discard)
		if err != nil {
			t.Errorf("storm: %v", err)
			return
		}
		ended <- r
	}()
	const acked = "halley_logic_records_acked_total"
	killed := 0
	until := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.Now().Add(completeWithin)
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatalf("not within %v: %s\n%s", completeWithin, what, other.errs)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	until("all are connected", func() bool {
		killed = victim.sessions()
		return killed+other.sessions() == devices
	})
	before := w.counter(w.registry, acked)
	until("they talk", func() bool { return w.counter(w.registry, acked) > before+200 })
	from := time.Now()
	victim.kill()
	until("all are connected again", func() bool { return other.sessions() == devices })
	connected := time.Since(from)
	before = w.counter(w.registry, acked)
	until("they talk again", func() bool { return w.counter(w.registry, acked) > before+200 })
	enough()
	r := <-ended
	if r == nil {
		return
	}
	t.Logf("%d of %d devices lost their comet and were connected again after %v; complete after ms p50 %.0f, p90 %.0f, p99 %.0f, max %.0f",
		killed, devices, connected.Round(time.Millisecond), r.CompleteMs.P50, r.CompleteMs.P90, r.CompleteMs.P99, r.CompleteMs.Max)
	t.Logf("refusals %v, %d not answered", r.Refusals, r.Unanswered)
	if r.Failed() || r.Away != 0 || r.Unacked != 0 {
		t.Errorf("%v; %d devices are not complete, %d messages have no answer", r.Err(), r.Away, r.Unacked)
	}
	if r.CompleteMs.Max > float64(completeWithin.Milliseconds()) {
		t.Errorf("a device was not complete for %.0f ms", r.CompleteMs.Max)
	}
	if r.Reconnects != int64(killed) || killed < devices/2 {
		t.Errorf("%d reconnects of %d devices", r.Reconnects, killed)
	}
}
