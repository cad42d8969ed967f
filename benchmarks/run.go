package benchmarks

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
)

const (
	// maxConnecting bounds the connects on their way; more of them would only wait in the server's backlog.
	maxConnecting = 256
	dialers       = 16
	tickClosed    = 10 * time.Millisecond
	tickOpen      = time.Millisecond
	tokenLifetime = 12 * time.Hour
)

// run is what the verbs share: the fleet, what was measured when, and the report.
type run struct {
	cfg    Config
	out    io.Writer
	report *Report
	fleet  *generator.Fleet

	idle      sample // Before the first connect.
	connected sample
	from, to  sample // The ends of the measured interval.
	selfFrom  usage
	selfTo    usage
	heapIdle  float64
}

func newRun(verb string, cfg Config, tick time.Duration, out io.Writer) (*run, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sources, err := parseSources(cfg.Sources)
	if err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, out: out, heapIdle: heap()}
	r.report = &Report{
		Verb: verb, Command: cfg.Command, Started: time.Now().UTC(), Environment: environment(),
		Closes: map[string]int64{},
		Config: Settings{
			Connections: cfg.Connections, DurationS: cfg.Duration.Seconds(), WarmupS: cfg.Warmup.Seconds(),
			RampS: cfg.Ramp.Seconds(), Transport: cfg.Transport, Codec: cfg.Codec, Size: cfg.Size, Seed: cfg.Seed,
			Workers: cfg.workers(), Targets: cfg.Targets,
		},
	}
	r.fleet, err = generator.New(generator.Config{
		Workers: cfg.workers(), Transport: generator.Transport(cfg.Transport), Targets: cfg.Targets,
		Path: cfg.Path, Subprotocol: protocol.SubprotocolProto, Sources: sources, Tick: tick,
		Dialers: dialers, Seed: cfg.Seed,
	}, cfg.Connections)
	return r, err
}

// prefix is how this run's users are named. Runs of one seed share their users, as days of one app do.
func (c Config) prefix() string { return fmt.Sprintf("bench.%d.", c.Seed) }

// token signs the token of one of the run's users.
func (c Config) token(user, device string) (string, error) {
	now := time.Now()
	return auth.Issue(c.Key, auth.Claims{
		App: c.App, User: user, Device: device, Audience: c.Audience, IssuedAt: now, Expires: now.Add(tokenLifetime),
	})
}

// sample reads the tiers; a tier that does not answer is a warning, for the verdict does not depend on it.
func (r *run) sample(ctx context.Context) sample {
	s, err := scrape(context.WithoutCancel(ctx), r.cfg.Admin)
	if err != nil {
		r.report.warn("server figures are incomplete: %v", err)
	}
	return s
}

// connect brings all connections up, spread over the ramp. standing tells how many are up and how many will never be.
func (r *run) connect(ctx context.Context, connect func(i int), standing func() (up, ended int64, last error)) error {
	r.idle = r.sample(ctx)
	start := time.Now()
	n := r.cfg.Connections
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.Ramp+r.cfg.ConnectTimeout,
		fmt.Errorf("not all connected within %v", r.cfg.Ramp+r.cfg.ConnectTimeout))
	defer cancel()
	defer progress(r.cfg.Progress, r.out, func() string {
		up, _, _ := standing()
		return fmt.Sprintf("connecting: %d of %d", up, n)
	})()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for next := 0; ; {
		up, ended, last := standing()
		if err := r.fleet.Err(); err != nil {
			return err
		}
		if ended > 0 {
			return fmt.Errorf("%d connections were turned away for good: %w", ended, last)
		}
		if int(up) >= n {
			break
		}
		due := n
		if r.cfg.Ramp > 0 {
			due = int(float64(n) * float64(time.Since(start)) / float64(r.cfg.Ramp))
		}
		for ; next < min(n, due, int(up)+maxConnecting); next++ {
			connect(next)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d connected: %w (last failure: %w)", up, n, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
	r.connected = r.sample(ctx)
	r.report.ConnectRate = float64(n) / time.Since(start).Seconds()
	r.report.Server.CPUUsPerConnect = (r.connected.cpu() - r.idle.cpu()) / float64(n) * 1e6
	r.report.Generator.HeapBytesPerConnected = (heap() - r.heapIdle) / float64(n)
	return nil
}

// finish stops the fleet and fills in what the verbs have in common.
func (r *run) finish(messages, deliveries int64) {
	r.fleet.Stop()
	rep := r.report
	connect, lag := generator.NewHistogram(), generator.NewHistogram()
	for _, w := range r.fleet.Workers() {
		rep.Reconnects += w.Counts.Reconnects
		rep.Failures += w.Counts.Failures
		for word, n := range w.Counts.Closes {
			rep.Closes[word] += n
		}
		connect.Merge(w.Counts.ConnectNs)
		lag.Merge(w.Lag())
	}
	rep.ConnectMs = latency(connect)
	rep.Generator.LagMs = latency(lag)
	rep.Seconds = r.selfTo.at.Sub(r.selfFrom.at).Seconds()
	if rep.Seconds > 0 {
		rep.Rate = float64(messages) / rep.Seconds
		rep.DeliveryRate = float64(deliveries) / rep.Seconds
	}
	r.serverFigures(messages, deliveries)
	r.generatorFigures(messages)
}

func (r *run) serverFigures(messages, deliveries int64) {
	s := &r.report.Server
	if len(r.cfg.Admin) == 0 {
		r.report.warn("no --admin: what the server spent is not known")
		return
	}
	if !r.idle.sameProcesses(r.from) || !r.from.sameProcesses(r.to) {
		*s = Server{RSSBytes: r.to.rss()}
		r.report.warn("a tier was restarted: what the server spent is not known")
		return
	}
	s.RSSBytes = r.to.rss()
	s.CPUSeconds = r.to.cpu() - r.from.cpu()
	if seconds := r.to.at.Sub(r.from.at).Seconds(); seconds > 0 {
		s.Cores = s.CPUSeconds / seconds
	}
	s.CPUUsPerMessage = per(s.CPUSeconds*1e6, messages)
	s.CPUUsPerDelivery = per(s.CPUSeconds*1e6, deliveries)
	reconnects := r.report.Reconnects
	s.RedisPerReconnect = per(r.to.sum(func(t tierSample) float64 { return t.redis })-r.from.sum(func(t tierSample) float64 { return t.redis }), reconnects)
	s.StorePerReconnect = per(r.to.sum(func(t tierSample) float64 { return t.reads })-r.from.sum(func(t tierSample) float64 { return t.reads }), reconnects)
	s.GCCycles = r.to.sum(func(t tierSample) float64 { return t.gcs }) - r.from.sum(func(t tierSample) float64 { return t.gcs })
	s.Goroutines = r.to.sum(func(t tierSample) float64 { return t.goroutines })
	for i, url := range r.cfg.Admin {
		s.Tiers = append(s.Tiers, Tier{
			URL: url, RSSBefore: r.idle.tiers[i].rss, RSSBytes: r.to.tiers[i].rss,
			CPUSeconds: r.to.tiers[i].cpu - r.from.tiers[i].cpu,
		})
	}
}

func (r *run) generatorFigures(messages int64) {
	g, a, b := &r.report.Generator, r.selfFrom, r.selfTo
	g.CPUSeconds, g.RSSBytes = b.cpu-a.cpu, b.rss
	g.CPUUsPerMessage = per(g.CPUSeconds*1e6, messages)
	g.GCCycles, g.GCPauseMs = b.gcs-a.gcs, float64(b.pauseNs-a.pauseNs)/1e6
	if r.report.Seconds > 0 {
		g.Cores = g.CPUSeconds / r.report.Seconds
	}
	if workers := float64(r.cfg.workers()); g.Cores > 0.85*workers {
		r.report.warn("the generator is the bottleneck: its %.0f loops used %.2f cores; give it more --workers or a machine of its own",
			workers, g.Cores)
	}
	if p99 := g.LagMs.P99; p99 > 20 {
		r.report.warn("the generator came late to its ticks (p99 %.0f ms): the machine is too busy for the latencies to be the server's alone", p99)
	}
}

func per(total float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return total / float64(n)
}
