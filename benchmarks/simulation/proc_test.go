package simulation

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/feature/all"
	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// proc is a logic process: true partition.Partition, and around it everything that it reaches the world by. A paused one is as
// after SIGSTOP at the next thing it does to the world; a dead one does nothing to the world any more.
type proc struct {
	w    *world
	name string
	dice *dice

	mu      sync.Mutex
	paused  chan struct{} // closed when it goes on; nil while it runs
	dead    bool
	serving bool
	yield   context.CancelFunc // ends the reign that there is
	kill    context.CancelFunc
}

// gate holds what a paused process does, and refuses what a dead one does.
func (p *proc) gate() error {
	for {
		p.mu.Lock()
		paused, dead := p.paused, p.dead
		p.mu.Unlock()
		switch {
		case dead:
			return errDead
		case paused == nil:
			return nil
		}
		<-paused
	}
}

func (p *proc) pause() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead || p.paused != nil {
		return false
	}
	p.paused = make(chan struct{})
	return true
}

func (p *proc) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused != nil {
		close(p.paused)
		p.paused = nil
	}
}

func (p *proc) die() {
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.goOn()
	p.kill()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.procs = slices.DeleteFunc(p.w.procs, func(o *proc) bool { return o == p })
	p.w.attached = slices.DeleteFunc(p.w.attached, func(a *attachment) bool { return a.p == p })
}

// silent reports whether others would think it dead.
func (p *proc) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead || p.paused != nil
}

func (p *proc) reigns() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serving
}

// start runs a logic process until it is killed or the world ends.
func (w *world) launch(name string) *proc {
	ctx, kill := context.WithCancel(w.ctx)
	p := &proc{w: w, name: name, dice: w.dice("proc " + name), kill: kill, yield: func() {}}
	w.mu.Lock()
	w.procs = append(w.procs, p)
	w.mu.Unlock()
	w.step("proc: %s starts", name)
	w.wg.Go(func() { p.run(ctx) })
	return p
}

// run is what logic's manager does for one partition: take it over, wait for who has it, begin again after an end.
func (p *proc) run(ctx context.Context) {
	features := all.Features(nil)
	handlers, err := all.Handlers(features)
	if err != nil {
		p.w.violated("setup", "%v", err)
		return
	}
	for ctx.Err() == nil {
		reign, yield := context.WithCancel(ctx)
		p.mu.Lock()
		p.yield = yield
		p.mu.Unlock()
		cfg := settings
		cfg.RefusedWrites = p.w.refusals
		part := partition.New(0, 1, cfg, p.deps(handlers, features))
		err := p.serve(reign, part)
		yield()
		if p.gate() == nil {
			p.w.step("proc: %s ended: %v", p.name, err)
		}
		p.w.wait(p.dice.between(50*time.Millisecond, time.Second))
	}
}

func (p *proc) serve(ctx context.Context, part *partition.Partition) error {
	c := part.Candidate()
	for {
		err := part.Run(ctx, c, func(on bool) {
			p.mu.Lock()
			p.serving = on
			p.mu.Unlock()
			if on {
				p.w.step("proc: %s serves", p.name)
				p.w.count(func(c *counts) { c.takeovers++ })
			}
		})
		if !errors.Is(err, partition.ErrHeld) || ctx.Err() != nil {
			return err
		}
		if err := c.CatchUp(ctx); err != nil {
			return err
		}
		if !p.w.wait(p.dice.between(50*time.Millisecond, 150*time.Millisecond)) {
			return nil
		}
	}
}

// settings are small, so that every bound is met.
var settings = func() partition.Config {
	c := partition.Default()
	c.QueueRequests, c.HoldRequests = 24, 16
	c.BlockRecords, c.WindowRecords = 6, 4
	c.Conversations = 6
	c.TailBytes, c.TailRecords = 2500, 150
	c.AppendTimeoutMs, c.AppendPatienceMs = 700, 4000
	c.DeliveryParcels = 6
	c.CursorFlushMs = 1500
	c.RedeliverWithinMs = 3000
	return c
}()

func (p *proc) deps(handlers handlers, features []feature.Feature) partition.Deps {
	slots := make(chan struct{}, 3)
	async := func(fn func(context.Context)) bool {
		select {
		case slots <- struct{}{}:
		default:
			return false
		}
		p.w.wg.Go(func() {
			defer func() { <-slots }()
			fn(p.w.ctx)
		})
		return true
	}
	floorDice := p.w.dice("floor " + p.name)
	floor := func(ctx context.Context) (uint64, error) {
		ctx, cancel := bounded(ctx)
		defer cancel()
		return call(ctx, p, p.w.trip(floorDice), func() (uint64, error) { return p.w.follower.readFloor(), nil })
	}
	present := &presenceClient{Registry: p.w.presence, p: p, dice: p.w.dice("presence " + p.name)}
	return partition.Deps{
		Node: p.name, Log: &logClient{p: p, dice: p.w.dice("log " + p.name)},
		Leases: &leaseClient{p: p, dice: p.w.dice("lease " + p.name)},
		Floor:  floor, UserlogFloor: floor,
		Presence: present, Sender: newSender(p), Attach: p.attach,
		Handlers: handlers, Features: features,
		Services: feature.Services{Store: &storeClient{p: p, dice: p.w.dice("store " + p.name)}, Presence: present},
		Go:       async, Load: async, Logger: quiet, Metrics: p.w.metrics,
		Now: func() time.Time {
			_ = p.gate() // A paused process decides nothing.
			return time.Now()
		},
	}
}

// presenceClient is a process's way to presence.
type presenceClient struct {
	presence.Registry
	p    *proc
	dice *dice
}

// Lookup reads at one moment between the question and the answer.
func (c *presenceClient) Lookup(ctx context.Context, users []presence.User, _ [][]presence.Entry) ([][]presence.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	asked := slices.Clone(users)
	t := c.p.w.trip(c.dice)
	if c.p.w.is(slow) { // Not so slow that its answer is given up.
		t.there, t.back = t.there/5, t.back/5
	}
	return call(ctx, c.p, t, func() ([][]presence.Entry, error) {
		if c.p.w.presentF.is() {
			return nil, presence.ErrUnavailable
		}
		return c.Registry.Lookup(context.Background(), asked, nil)
	})
}

// attachment is a process that takes requests. Two may at once: the one before may be paused.
type attachment struct {
	p     *proc
	in    link.Inbox
	pipes []*pipe // by node
}

func (p *proc) attach(epoch uint64, in link.Inbox) (func(), error) {
	if err := p.gate(); err != nil {
		return nil, err
	}
	a := &attachment{p: p, in: in}
	for _, n := range p.w.nodes {
		a.pipes = append(a.pipes, p.w.pipe("requests "+n.name+" "+p.name))
		if !p.w.is(storm) || !p.dice.one(3) { // Else the word is lost, and the first answer tells.
			p.w.later(p.dice.between(100*time.Microsecond, 20*time.Millisecond), func() { n.hear(epoch) })
		}
	}
	p.w.mu.Lock()
	p.w.attached = append(p.w.attached, a)
	p.w.mu.Unlock()
	return func() {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		p.w.attached = slices.DeleteFunc(p.w.attached, func(o *attachment) bool { return o == a })
	}, nil
}
