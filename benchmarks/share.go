package benchmarks

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/halley-im/halley/benchmarks/floor"
	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/traffic"
	"github.com/halley-im/halley/protocol"
)

// work is what the connections of a share do.
type work interface {
	Connect(i int)
	// Up is how many connections stand, and how many never will.
	Up() (up, ended int64, last error)
	WaitSettled(ctx context.Context) error
	Begin(warmup time.Duration)
	Live() traffic.Live
	// Recent are the latencies of deliveries since the last call.
	Recent(ctx context.Context) generator.Histogram
	Halt()
	Settle(ctx context.Context, wait time.Duration) []error
	// Judge is called when nothing runs any more.
	Judge() *traffic.Result
}

// still is the work of those who say nothing.
type still struct{}

func (still) WaitSettled(context.Context) error                    { return nil }
func (still) Begin(time.Duration)                                  {}
func (still) Live() (l traffic.Live)                               { return l }
func (still) Recent(context.Context) (none generator.Histogram)    { return none }
func (still) Halt()                                                {}
func (still) Settle(context.Context, time.Duration) (none []error) { return nil }

// step is one of the steps that all parts of a run take together, in this order.
type step string

const (
	stepConnect step = "connect"
	stepBegin   step = "begin"
	stepMark    step = "mark" // At both ends of the measured interval.
	stepCut     step = "cut"
	stepBack    step = "back"
	stepExpect  step = "expect" // Of idle devices.
	stepHeard   step = "heard"
	stepHalt    step = "halt"
	stepSettle  step = "settle"
	stepJudge   step = "judge"

	stepPrepare step = "prepare" // The first, of processes.
	stepLook    step = "look"    // At any time.
)

type order struct {
	Step  step
	Plan  *plan         // Of stepPrepare.
	Times int64         // Of stepBack: how often each device was to come back.
	For   time.Duration // Longest duration of stepBack.

	Broadcast *Broadcast // Of stepExpect.
	Pull      bool       // Of stepHeard: who lacks something asks for it.
}

type answer struct {
	Failure   string
	Warnings  []string
	HeapBytes float64 // What connecting added.
	Mark      *mark
	Moment    *moment
	Heard     *Heard
	Tally     *tally
}

// mark is one end of the measured interval.
type mark struct {
	Spent usage
	Live  traffic.Live
}

// moment is what is shown while a run goes on.
type moment struct {
	Up      int64
	Live    traffic.Live
	Deliver generator.Histogram // Since the moment before.
}

// tally is what a part of a run came to.
type tally struct {
	Result     *traffic.Result
	Reconnects int64
	Failures   int64
	Closes     map[string]int64
	Connect    generator.Histogram
	Lag        generator.Histogram
}

// newTally is the tally of nothing.
func newTally() *tally {
	return &tally{
		Result: traffic.NewResult(), Closes: map[string]int64{},
		Connect: generator.NewHistogram(), Lag: generator.NewHistogram(),
	}
}

func (t *tally) merge(o *tally) {
	t.Result.Merge(o.Result)
	t.Reconnects += o.Reconnects
	t.Failures += o.Failures
	for word, n := range o.Closes {
		t.Closes[word] += n
	}
	t.Connect.Add(o.Connect)
	t.Lag.Add(o.Lag)
}

// share holds a part of a run's connections in this process.
type share struct {
	plan     plan
	fleet    *generator.Fleet
	work     work
	all      *traffic.Traffic // The work, where it is of devices that talk.
	idle     *idlers          // Or where it is of those who only hold their sessions.
	heapIdle float64
	stopped  bool
}

// newShare starts the loops. It connects nothing.
func newShare(p plan) (*share, error) {
	cfg := p.Config
	sources, err := parseSources(cfg.Sources)
	if err != nil {
		return nil, err
	}
	secured, err := cfg.secured()
	if err != nil {
		return nil, err
	}
	tick := tickClosed
	switch {
	case p.Load.Rate > 0:
		tick = tickOpen
	case p.Verb == verbConn:
		tick = tickIdle
	}
	s := &share{plan: p, heapIdle: heap()}
	s.fleet, err = generator.New(generator.Config{
		Workers: cfg.workers(), Transport: framings[cfg.Transport], TLS: secured, Targets: cfg.Targets,
		Path: cfg.Path, Subprotocol: protocol.SubprotocolProto, Sources: sources, Tick: tick,
		Dialers: dialers, Seed: cfg.Seed + uint64(p.Part)<<32,
	}, cfg.Connections)
	if err != nil {
		return nil, err
	}
	switch p.Verb {
	case verbConn:
		s.idle = newIdlers(p, s.fleet)
		s.work = s.idle
	case verbFloor:
		s.work = echoes{PingPong: floor.NewPingPong(s.fleet, cfg.Connections, p.Load.Outstanding, cfg.Size)}
	default:
		s.all, err = traffic.New(traffic.Config{
			App: cfg.App, Prefix: cfg.prefix(), Token: cfg.token, Seed: cfg.Seed, Size: cfg.Size, Tick: tick,
			Group: p.Group, Conversations: cfg.Connections / p.Members, Members: p.Members, Senders: p.Senders,
			First: p.First / p.Members, Part: p.Part, Parts: p.Parts,
			Outstanding: p.Load.Outstanding, Rate: p.Load.Rate, Phases: p.Load.Phases, Zipf: p.Load.Zipf, AnswerTimeout: cfg.AnswerTimeout,
		}, s.fleet)
		if err != nil {
			return nil, err
		}
		s.work = s.all
	}
	return s, s.fleet.Start()
}

// do takes one step.
func (s *share) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Step {
	case stepConnect:
		err = s.connect(ctx)
		a.HeapBytes = heap() - s.heapIdle
	case stepBegin:
		s.work.Begin(s.plan.Config.Warmup)
	case stepMark:
		a.Mark = &mark{Spent: spent(), Live: s.work.Live()}
	case stepCut:
		s.all.Cut()
	case stepBack:
		bounded, cancel := context.WithTimeoutCause(ctx, o.For, errLate)
		defer cancel()
		if late := s.all.WaitBack(bounded, o.Times*int64(s.plan.Config.Connections)); late != nil {
			a.Warnings = append(a.Warnings, late.Error())
		}
	case stepExpect:
		a.Heard = s.idle.expect(ctx, o.Broadcast)
	case stepHeard:
		a.Heard = s.idle.heard(ctx, o.Pull)
	case stepHalt:
		s.work.Halt()
	case stepSettle:
		for _, late := range s.work.Settle(ctx, s.plan.Config.Wait) {
			a.Warnings = append(a.Warnings, late.Error())
		}
	case stepJudge:
		a.Tally = s.judge()
	default:
		err = fmt.Errorf("no step %q", o.Step)
	}
	return a, err
}

// connect brings all connections up, spread over the ramp, and every conversation to where messages can be sent.
func (s *share) connect(ctx context.Context) error {
	cfg, start := s.plan.Config, time.Now()
	n := cfg.Connections
	most := max(8, maxConnecting/s.plan.Parts)
	// Fifty processes need not look as often as one, for each has its part of the connects.
	tick := time.NewTicker(time.Duration(max(1, s.plan.Parts/4)) * time.Millisecond)
	defer tick.Stop()
	best, moved := int64(0), start
	for next := 0; ; {
		up, ended, last := s.work.Up()
		if err := s.fleet.Err(); err != nil {
			return err
		}
		if ended > 0 {
			return fmt.Errorf("%d connections were turned away for good: %w", ended, last)
		}
		if int(up) >= n {
			break
		}
		due := n
		if cfg.Ramp > 0 {
			due = min(n, int(float64(n)*float64(time.Since(start))/float64(cfg.Ramp)))
		}
		if up > best || int(up) >= due {
			best, moved = max(best, up), time.Now()
		}
		if time.Since(moved) > cfg.ConnectTimeout {
			return fmt.Errorf("%d of %d connected, and no more for %v (last failure: %w)", up, n, cfg.ConnectTimeout, last)
		}
		for ; next < min(due, int(up)+most); next++ {
			s.work.Connect(next)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d connected: %w", up, n, context.Cause(ctx))
		case <-tick.C:
		}
	}
	bounded, cancel := context.WithTimeoutCause(ctx, cfg.ConnectTimeout, errLate)
	defer cancel()
	return s.work.WaitSettled(bounded)
}

// look may be called at any time, also while a step is taken.
func (s *share) look(ctx context.Context) (m moment, err error) {
	m.Up, _, _ = s.work.Up()
	m.Live, m.Deliver = s.work.Live(), s.work.Recent(ctx)
	return m, nil
}

func (s *share) judge() *tally {
	s.close()
	t := newTally()
	for _, w := range s.fleet.Workers() {
		c := &w.Counts
		t.merge(&tally{
			Result: traffic.NewResult(), Reconnects: c.Reconnects, Failures: c.Failures, Closes: maps.Clone(c.Closes),
			Connect: c.ConnectNs, Lag: w.Lag(),
		})
	}
	t.Result.Merge(s.work.Judge())
	return t
}

// close ends all connections.
func (s *share) close() {
	if !s.stopped {
		s.stopped = true
		s.fleet.Stop()
	}
}
