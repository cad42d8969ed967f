package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks"
)

// million is one run.
type million struct {
	o       options
	dir     string
	out     io.Writer
	report  *Report
	cluster *cluster
	watcher watcher

	stormFrom int // The first comet of those whose devices leave before the storm.
}

func newMillion(o options, dir string, out io.Writer) *million {
	return &million{o: o, dir: dir, out: out, report: &Report{
		Started: time.Now().UTC(), Command: o.repeat(), Connections: o.connections, Comets: o.comets, Talkers: o.talkers,
		Commit: commit(o.root), Transport: o.transport, NATS: o.nats, Steps: o.steps, DescriptorsPerProcess: descriptors(),
	}}
}

// commit is what is measured; a tree without history has none.
func commit(root string) string {
	out, err := exec.Command("git", "-C", root, "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// repeat is the line that runs the same again.
func (o options) repeat() string {
	return fmt.Sprintf("make million CONNECTIONS=%d COMETS=%d STEPS=%s", o.connections, o.comets, strings.Join(o.steps, ","))
}

// Users of the parts of a run have names of their own, by the seed.
const (
	seedP2P = 1 + iota
	seedStorm
	seedFlat
	seedMemory
	seedCosts  = 500_000   // And those after it.
	seedCrowds = 1_000_000 // And those after it.
)

func (m *million) say(format string, args ...any) { say(m.out, format, args...) }

// phase tells what is begun, and counts its time.
func (m *million) phase(name string) (done func()) {
	m.say("%s", name)
	start := time.Now()
	return func() {
		p := Phase{Name: name, Seconds: time.Since(start).Seconds(), Peak: m.watcher.take()}
		m.report.Phases = append(m.report.Phases, p)
		m.say("%s: done in %.0f s, %.1f GiB of memory left at least", name, p.Seconds, gib(p.Peak.LeastAvailable))
	}
}

func (m *million) run(ctx context.Context) error {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	var err error
	if m.cluster, err = newCluster(m.o, m.dir, lost); err != nil {
		return err
	}
	go m.watcher.run(ctx, func(available int64) {
		lost(fmt.Errorf("%w: memory is short: %.2f GiB are available on the machine; the run ends before the kernel chooses a victim", benchmarks.ErrAbandoned, gib(available)))
	})
	done := m.phase("start NATS, Redis, Cassandra, logic and job")
	if err := m.cluster.up(ctx); err != nil {
		return m.cause(ctx, err)
	}
	done()
	switch {
	case m.o.has(stepOne):
		return m.cause(ctx, m.one(ctx))
	case m.o.has(stepCosts):
		return m.cause(ctx, m.costs(ctx))
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{stepFlat, m.flatFew}, {stepMemory, m.memory}, {stepFlat, m.flatMany}} {
		if m.o.has(step.name) {
			if err := step.do(ctx); err != nil {
				return m.cause(ctx, fmt.Errorf("%s: %w", step.name, err))
			}
		}
	}
	return m.cause(ctx, m.hold(ctx))
}

// cause is why the run ended, where it was ended.
func (m *million) cause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// worker is the command of a process of the generator.
func (m *million) worker(nice string) []string {
	return []string{"env", "GOMAXPROCS=1", "GOGC=50", "nice", "-n", nice, m.o.binary, "bench", "worker"}
}

// bench is what all runs of the generator have in common.
func (m *million) bench(seed uint64, n int, targets []string) benchmarks.Config {
	c := benchmarks.Default()
	c.Connections, c.Seed, c.Targets, c.Transport = n, seed, targets, m.o.transport
	c.Key = m.cluster.key
	// One loop in each process, and little garbage: there may be fifty of them.
	c.Worker = m.worker(niceGenerator)
	c.Processes = max(2, (n+descriptors()-generatorSpare-1)/(descriptors()-generatorSpare))
	c.Workers = c.Processes
	c.ConnectTimeout = 5 * time.Minute
	c.Command = m.report.Command
	return c
}

// hold is the main part: everybody connects, and what else is measured is measured beside that.
func (m *million) hold(ctx context.Context) error {
	c := m.cluster
	done := m.phase(fmt.Sprintf("start %d comets", m.o.comets))
	if err := c.grow(ctx, m.o.comets); err != nil {
		return err
	}
	done()
	parts := m.crowds()
	if m.o.has(stepBroadcast) {
		if err := m.makeGroups(ctx, parts); err != nil {
			return err
		}
	}
	if err := m.empty(ctx); err != nil {
		return err
	}
	begin, err := m.mark(ctx)
	if err != nil {
		return err
	}
	done = m.phase(fmt.Sprintf("connect %d", m.o.connections))
	return m.connect(ctx, parts, func(ctx context.Context) error {
		done()
		if err := m.connectedAll(ctx, begin); err != nil {
			return err
		}
		for _, step := range []struct {
			name string
			do   func(context.Context) error
		}{
			{stepP2P, m.p2p}, {stepIdle, m.idle},
			{stepBroadcast, func(ctx context.Context) error { return m.broadcast(ctx, parts) }},
		} {
			if !m.o.has(step.name) {
				continue
			}
			if err := step.do(ctx); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
		}
		return nil
	})
}

// crowd is a part of those who only hold their connections.
type crowd struct {
	config benchmarks.Config
	leaves bool // Before the storm, whose devices take the place.
	held   *benchmarks.Held
	groups benchmarks.Broadcast
}

// crowdComets is how many comets fill up at the same time. With all of them at once each would see a connect now and then, and wake up for
// each by itself, as would all processes of the generator: on two cores that is most of the work.
const crowdComets = 4

// crowds are parts of connections, each with comets of its own. Those that leave before the storm have theirs to themselves.
func (m *million) crowds() (parts []*crowd) {
	stay, leave := m.o.connections, 0
	comets := m.o.comets
	if m.o.has(stepStorm) {
		leave = m.o.storm
		stay -= leave
		m.stormFrom = 1
		fullest := func(from int) int { return max(stay/from, leave/(comets-from)) }
		for from := 2; from < comets; from++ {
			if fullest(from) < fullest(m.stormFrom) {
				m.stormFrom = from
			}
		}
	} else {
		m.stormFrom = comets
	}
	add := func(from, to, connections int, leaves bool) {
		for at := from; at < to; at += crowdComets {
			n := min(crowdComets, to-at)
			share := connections * n / (to - at)
			connections -= share
			seed := seedCrowds + uint64(len(parts))
			parts = append(parts, &crowd{config: m.bench(seed, share, m.cluster.targets(at, n)), leaves: leaves})
		}
	}
	add(0, m.stormFrom, stay, false)
	add(m.stormFrom, comets, leave, true)
	return parts
}

// connect brings the parts up, one after the other, and does what is done while all of them hold. Then they leave, the last first; when those
// that leave before the storm have, it is time for it.
func (m *million) connect(ctx context.Context, parts []*crowd, all func(context.Context) error) error {
	if len(parts) == 0 {
		return all(ctx)
	}
	part := parts[0]
	report, err := benchmarks.RunHeld(ctx, benchmarks.ConnConfig{Config: part.config}, func(ctx context.Context, h *benchmarks.Held) error {
		part.held = h
		m.say("%d connected", part.config.Connections)
		if err := m.connect(ctx, parts[1:], all); err != nil {
			return err
		}
		if !part.leaves && len(parts) > 1 && parts[1].leaves {
			return m.storm(ctx)
		}
		return nil
	}, io.Discard)
	if err != nil {
		return err
	}
	m.report.Held = append(m.report.Held, report)
	return nil
}

// mark is a reading of everything.
type mark struct {
	usage  Usage
	comets metrics
	all    metrics // Logic and job as well.
	kernel Kernel
}

func (m *million) mark(ctx context.Context) (mark, error) {
	k := mark{usage: readUsage(), kernel: readKernel()}
	rest, err := scrape(ctx, admins(0))
	if err != nil {
		return k, err
	}
	if k.comets, err = scrape(ctx, admins(m.cluster.comets)[2:]); err != nil {
		return k, err
	}
	k.all = rest
	for name, value := range k.comets {
		k.all[name] += value
	}
	return k, nil
}

// sleep waits for d, or returns why it was not to be.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
