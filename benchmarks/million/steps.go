package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/traffic"
)

const (
	flatDevices  = 2000
	flatRate     = 2000
	flatDuration = 20 * time.Second
	baseDuration = 10 * time.Second
	// atRest is after what time a process that has nothing to do has given back the memory that it does not need: twice 30 seconds.
	atRest = 65 * time.Second
)

func (m *million) flatFew(ctx context.Context) error { return m.flat(ctx, 2) }

func (m *million) flatMany(ctx context.Context) error {
	return m.flat(ctx, min(m.o.flatComets, m.o.comets))
}

// flat measures what a message costs with so many comets, under one load.
func (m *million) flat(ctx context.Context, comets int) error {
	defer m.phase(fmt.Sprintf("cost of a message with %d comets", comets))()
	if err := m.cluster.grow(ctx, comets); err != nil {
		return err
	}
	if err := sleep(ctx, 3*time.Second); err != nil {
		return err
	}
	a := readUsage()
	if err := sleep(ctx, baseDuration); err != nil {
		return err
	}
	base := between(a, readUsage())
	// Users of their own for each: a pair's first message has more to do than later ones.
	c := m.bench(seedFlat+uint64(comets)*100, flatDevices, m.cluster.targets(0, comets))
	c.Duration, c.Wait = flatDuration, 2*time.Minute
	r, spent, err := m.talk(ctx, c, flatRate)
	if err != nil {
		return err
	}
	messages := max(1, r.Rate*spent.Seconds)
	f := Flat{
		Comets: comets, Messages: int64(messages), IdleCores: base.cores(serverKinds...), IdleComets: base.cores(kindComet),
		CPUUs: spent.each(messages, base), Report: r,
	}
	f.AllUs = (spent.server() - base.server()/base.Seconds*spent.Seconds) / messages * 1e6
	f.WithIdleUs = spent.server() / messages * 1e6
	m.report.Flat = append(m.report.Flat, f)
	m.say("%d comets: %.0f µs of CPU per message, of which comets %.0f; %.2f cores without any", comets, f.AllUs, f.CPUUs[kindComet], f.IdleCores)
	return errors.Join(r.Err(), sleep(ctx, 2*time.Second))
}

// firstMessages is how many messages a second are sent on average while conversations are new.
const firstMessages = 50

// talk has pairs write to each other. The first message of each pair makes a conversation, and records in two users' logs: many times the
// work of a later one. So it begins slowly, until everybody has written. What is spent is that of the measured interval, without connects
// and first messages.
func (m *million) talk(ctx context.Context, c benchmarks.Config, rate float64) (*benchmarks.Report, Spent, error) {
	first := time.Duration(c.Connections) * time.Second / firstMessages
	c.Warmup = first + 20*time.Second
	load := benchmarks.Load{Rate: rate, Phases: []traffic.Phase{
		{For: first, To: 2 * firstMessages},
		{For: c.Warmup - first + c.Duration, From: rate, To: rate},
	}}
	return m.spend(ctx, func() (*benchmarks.Report, error) {
		return benchmarks.RunP2P(ctx, benchmarks.P2PConfig{Config: c, Load: load}, io.Discard)
	})
}

// spend runs the generator, and reads what was spent in the interval that it measured.
func (m *million) spend(ctx context.Context, run func() (*benchmarks.Report, error)) (*benchmarks.Report, Spent, error) {
	usage := record(ctx)
	r, err := run()
	list := usage.end()
	if err != nil {
		return nil, Spent{}, err
	}
	from, to := measured(r)
	spent, ok := within(list, from, to)
	if !ok {
		return nil, Spent{}, fmt.Errorf("nothing was read between %v and %v: the machine is too busy to be measured", from, to)
	}
	return r, spent, nil
}

// measured is the interval in which a run was measured, to the second.
func measured(r *benchmarks.Report) (from, to time.Time) {
	for _, p := range r.Series {
		if p.Phase != "measuring" {
			continue
		}
		to = r.Started.Add(time.Duration(p.AtS * float64(time.Second)))
		if from.IsZero() {
			from = to
		}
	}
	return from, to
}

// memory measures what a connection takes in a comet that has few, and in one that has as many as it may. Both were just started, and
// have had some: what a process touches with its first connections is not of any one.
func (m *million) memory(ctx context.Context) error {
	full := min(19_000, perComet(), max(1000, m.o.connections))
	defer m.phase(fmt.Sprintf("memory of 1,000 connections in one comet, and of %d", full))()
	at := m.cluster.comets
	for i, n := range []int{1000, full} {
		if err := m.cluster.grow(ctx, at+i+1); err != nil {
			return err
		}
		p := PerProcess{Connections: n}
		admin := admins(at + i + 1)[2+at+i]
		targets := m.cluster.targets(at+i, 1)
		warm := m.bench(seedMemory, 200, targets)
		if _, err := benchmarks.RunHeld(ctx, benchmarks.ConnConfig{Config: warm}, func(context.Context, *benchmarks.Held) error { return nil }, io.Discard); err != nil {
			return err
		}
		// The slots of those who left are used again after a while.
		if err := sleep(ctx, 5*time.Second); err != nil {
			return err
		}
		before, err := collected(ctx, admin)
		if err != nil {
			return err
		}
		kernel := readKernel()
		_, err = benchmarks.RunHeld(ctx, benchmarks.ConnConfig{Config: m.bench(seedMemory, n, targets)}, func(ctx context.Context, _ *benchmarks.Held) error {
			// Without a collection of our own: this is what an operator sees.
			if err := sleep(ctx, atRest); err != nil {
				return err
			}
			asIs, err := scrape(ctx, []string{admin})
			if err != nil {
				return err
			}
			after, err := collected(ctx, admin)
			if err != nil {
				return err
			}
			each := func(of func(metrics) float64) float64 { return (of(after) - of(before)) / float64(n) }
			p.LiveBytes = each(func(s metrics) float64 { return s[heapLive] + s[stackInUse] })
			p.RSSBytes = (asIs[rssBytes] - before[rssBytes]) / float64(n)
			p.KernelBytes = float64(readKernel().SlabBytes-kernel.SlabBytes) / float64(n)
			return nil
		}, io.Discard)
		if err != nil {
			return err
		}
		m.report.Memory = append(m.report.Memory, p)
		m.say("%d in one comet: %.0f live bytes each, %.0f of RSS, %.0f of the kernel for both ends", n, p.LiveBytes, p.RSSBytes, p.KernelBytes)
	}
	return nil
}

// collected is what a node says after a collection of its garbage.
func collected(ctx context.Context, admin string) (metrics, error) {
	for range 2 { // What the first one finalizes the second frees.
		if _, err := get(ctx, admin+"/debug/pprof/heap?gc=1"); err != nil {
			return nil, err
		}
	}
	return scrape(ctx, []string{admin})
}

// empty measures comets without a connection.
func (m *million) empty(ctx context.Context) error {
	defer m.phase("comets without a connection")()
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	a := readUsage()
	if err := sleep(ctx, 20*time.Second); err != nil {
		return err
	}
	m.report.EmptyCores = between(a, readUsage()).cores(kindComet)
	m.say("%.3f cores for %d comets without a connection", m.report.EmptyCores, m.cluster.comets)
	return nil
}

// connectedAll reads what connecting cost, and what connections take.
func (m *million) connectedAll(ctx context.Context, begin mark) error {
	n := float64(m.o.connections)
	spent := between(begin.usage, readUsage())
	if err := sleep(ctx, atRest); err != nil { // Garbage of connecting goes.
		return err
	}
	now, err := m.mark(ctx)
	if err != nil {
		return err
	}
	c := &m.report.Connected
	c.Connections = int64(now.comets[connected])
	c.Seconds, c.PerSecond = spent.Seconds, n/spent.Seconds
	c.CPUUs = map[string]float64{}
	for kind, cpu := range spent.CPU {
		c.CPUUs[kind] = cpu / n * 1e6
	}
	c.RSSBytes = map[string]float64{}
	for kind, r := range now.usage.Kinds {
		c.RSSBytes[kind] = float64(r.RSSBytes-begin.usage.Kinds[kind].RSSBytes) / n
	}
	c.CometRSSBytes = now.usage.Kinds[kindComet].RSSBytes
	c.CometHeapBytes = (now.comets[heapLive] - begin.comets[heapLive]) / n
	c.KernelBytes = float64(now.kernel.SlabBytes-begin.kernel.SlabBytes) / n
	c.SlabBytes = map[string]float64{}
	for name, bytes := range now.kernel.SlabBytesByName {
		c.SlabBytes[name] = float64(bytes-begin.kernel.SlabBytesByName[name]) / n
	}
	c.Kernel = now.kernel
	d := now.all.minus(begin.all)
	c.RedisCommands, c.StoreReads = d[redisCalls]/n, d[storeReads]/n
	c.Pauses = now.comets.minus(begin.comets).pauses()
	m.say("%d connected, %.0f/s; comets %.0f B of RSS each, kernel %.0f B for both ends, generator %.0f B, Redis %.0f B",
		c.Connections, c.PerSecond, c.RSSBytes[kindComet], c.KernelBytes, c.RSSBytes[kindGenerator], c.RSSBytes[kindRedis])
	m.say("CPU per connect: comets %.0f µs, logic %.0f, Redis %.0f, NATS %.0f, Cassandra %.0f, generator %.0f; %.1f commands to Redis, %.1f reads of the store",
		c.CPUUs[kindComet], c.CPUUs[kindLogic], c.CPUUs[kindRedis], c.CPUUs[kindNATS], c.CPUUs[kindCassandra], c.CPUUs[kindGenerator], c.RedisCommands, c.StoreReads)
	return nil
}

// p2p has some talk while all others are idle.
func (m *million) p2p(ctx context.Context) error {
	defer m.phase(fmt.Sprintf("%d devices talk", m.o.talkers))()
	begin, err := m.mark(ctx)
	if err != nil {
		return err
	}
	c := m.bench(seedP2P, m.o.talkers, m.cluster.targets(0, m.o.comets))
	c.Duration, c.Wait, c.Admin = time.Duration(m.o.seconds)*time.Second, 3*time.Minute, admins(m.o.comets)
	c.Ramp, c.Worker = ramp(m.o.talkers), m.worker(niceComet)
	r, spent, err := m.talk(ctx, c, m.o.rate)
	if err != nil {
		return err
	}
	now, err := m.mark(ctx)
	if err != nil {
		return err
	}
	m.report.P2P = &Step{Report: r, Spent: spent, Pauses: now.comets.minus(begin.comets).pauses()}
	m.say("%.0f messages/s, delivered p50 %.1f ms, p99 %.1f, max %.1f; %s", r.Rate, r.DeliverMs.P50, r.DeliverMs.P99, r.DeliverMs.Max, verdict(r))
	return nil // The verdict is in the report: what follows is worth having all the same.
}

// ramp is how long so many devices, who ask for what they lack as well, take to connect beside the idle ones: as fast as they can they
// would take the processors from those whose leases have to be renewed.
func ramp(n int) time.Duration { return time.Duration(n) * time.Second / 500 }

func verdict(r *benchmarks.Report) string {
	if err := r.Err(); err != nil {
		return err.Error()
	}
	return "every message accounted for"
}

// idle measures what holding costs.
func (m *million) idle(ctx context.Context) error {
	defer m.phase("everybody is idle")()
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	begin, err := m.mark(ctx)
	if err != nil {
		return err
	}
	// A scrape of fifty nodes is work as well: it is done before and after.
	a := readUsage()
	if err := sleep(ctx, time.Duration(m.o.seconds)*time.Second); err != nil {
		return err
	}
	spent := between(a, readUsage())
	now, err := m.mark(ctx)
	if err != nil {
		return err
	}
	d := now.comets.minus(begin.comets)
	m.report.Idle = &Idle{
		Spent: spent, CometCores: spent.cores(kindComet), EmptyCores: m.report.EmptyCores, Pauses: d.pauses(),
		PingsPerSecond: d[framesTaken] / now.usage.At.Sub(begin.usage.At).Seconds(), RedisCores: spent.cores(kindRedis), LogicCores: spent.cores(kindLogic),
		Connections: int64(now.comets[connected]),
	}
	m.say("idle: %.3f cores for all comets (%.3f without a connection), %.0f pings/s", spent.cores(kindComet), m.report.EmptyCores, m.report.Idle.PingsPerSecond)
	return nil
}

// left waits until the comets have seen that a part of the devices left: there is no room for these and others.
func (m *million) left(ctx context.Context) error {
	stay := float64(m.o.connections - m.o.storm)
	for end := time.Now().Add(2 * time.Minute); ; {
		s, err := scrape(ctx, admins(m.cluster.comets)[2:])
		if err != nil {
			return err
		}
		if s[connected] <= stay {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%.0f connections are left where %.0f were to be", s[connected], stay)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// storm has as many devices as left connect, talk a little, and lose their connections at once.
func (m *million) storm(ctx context.Context) error {
	if !m.o.has(stepStorm) {
		return nil
	}
	done := m.phase(fmt.Sprintf("storm of %d", m.o.storm))
	if err := m.left(ctx); err != nil {
		return err
	}
	begin, err := m.mark(ctx)
	if err != nil {
		return err
	}
	c := m.bench(seedStorm, m.o.storm, m.cluster.targets(m.stormFrom, m.o.comets-m.stormFrom))
	// Who asks again before the answer could come only makes it come later.
	c.Duration, c.Warmup, c.Wait, c.AnswerTimeout, c.Admin = 10*time.Minute, 5*time.Second, 3*time.Minute, time.Minute, admins(m.o.comets)
	c.Ramp = ramp(m.o.storm)
	// Few talk much, and most are silent: a hundred thousand pairs in turn would make new conversations all the while.
	load := benchmarks.Load{Rate: 100, Zipf: 1.5}
	r, err := benchmarks.RunStorm(ctx, benchmarks.StormConfig{Config: c, Load: load, Cuts: 1}, io.Discard)
	if err != nil {
		return err
	}
	now, err := m.mark(ctx)
	if err != nil {
		return err
	}
	done()
	m.report.Storm = &Step{
		Report: r, Spent: between(begin.usage, now.usage), Pauses: now.comets.minus(begin.comets).pauses(),
		Peak: m.report.Phases[len(m.report.Phases)-1].Peak,
	}
	m.say("storm: %d came back, complete p50 %.1f s, p99 %.1f, max %.1f; %.1f commands to Redis and %.1f reads of the store each; %s",
		r.Reconnects, r.CompleteMs.P50/1000, r.CompleteMs.P99/1000, r.CompleteMs.Max/1000, r.Server.RedisPerReconnect, r.Server.StorePerReconnect, verdict(r))
	return nil
}
