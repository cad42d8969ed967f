package simulation

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job/history"
	"github.com/halley-im/halley/pkg/bus"
)

// followerServer is the log's consumer under the name of history: it gives blocks out, to be acknowledged within a time, and keeps
// up to where all are.
type followerServer struct {
	w *world

	mu    sync.Mutex
	floor uint64
	acked map[uint64]bool      // above the floor
	out   map[uint64]time.Time // until when a block is somebody's
	times map[uint64]int       // how often it was given out
}

// ackWait is how long a block may be in hand.
const ackWait = 1500 * time.Millisecond

// readFloor is history's floor as a process hears of it.
func (s *followerServer) readFloor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor
}

// given is a block and how often it was given out before.
type given struct {
	bus.Message
	times int
}

// give takes blocks that nobody has in hand.
func (s *followerServer) give(most int) []given {
	last := s.w.log.state().Last
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var out []given
	for seq := s.floor + 1; seq <= last && len(out) < most; seq++ {
		if s.acked[seq] || now.Before(s.out[seq]) {
			continue
		}
		m, err := s.w.log.get(seq)
		if err != nil {
			s.w.violated("kept until stored", "block %d is gone, and history has only up to %d", seq, s.floor)
		}
		s.out[seq] = now.Add(ackWait)
		out = append(out, given{m, s.times[seq]})
		s.times[seq]++
	}
	return out
}

// answer takes a word about a block, however old.
func (s *followerServer) answer(job string, seq uint64, word string) {
	if word == "+ACK" && !s.w.store.has(s.w.log.blockAt(seq)) {
		s.w.violated("acknowledged is stored", "%s acknowledges block %d, of which the store lacks records", job, seq)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case seq <= s.floor:
	case word == "+ACK":
		s.w.step("job: %s has stored block %d", job, seq)
		s.acked[seq] = true
		delete(s.out, seq)
		for s.acked[s.floor+1] {
			s.floor++
			delete(s.acked, s.floor)
			delete(s.times, s.floor)
		}
	case strings.HasPrefix(word, "-NAK"):
		delete(s.out, seq)
	case word == "+WPI" && s.out[seq] != (time.Time{}):
		s.out[seq] = time.Now().Add(ackWait)
	}
}

// trim makes room in the log for as long as the world lasts.
func (s *followerServer) trim(d *dice) {
	for s.w.wait(d.between(100*time.Millisecond, 900*time.Millisecond)) {
		floor := s.readFloor()
		s.w.log.trim(floor + 1 - min(floor, uint64(d.n(3))))
	}
}

// blocks are those of the log that come to one job.
type blocks struct {
	p    *proc
	dice *dice
}

var _ history.Blocks = (*blocks)(nil)

// Fetch asks again and again until something comes or the time is over.
func (b *blocks) Fetch(ctx context.Context, most, _ int, wait time.Duration) ([]bus.Delivery, error) {
	w := b.p.w
	for until := time.Now().Add(wait); ; {
		tryCtx, cancel := context.WithTimeout(ctx, time.Second)
		got, err := call(tryCtx, b.p, w.trip(b.dice), func() ([]given, error) {
			if w.log.down.is() {
				return nil, errRefused
			}
			return w.follower.give(min(most, 8)), nil
		})
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var out []bus.Delivery
		if err == nil { // What was lost on the way comes again when nobody has answered for it.
			for _, g := range got {
				out = append(out, bus.NewDelivery(g.Message, g.times, func(word string) error { return b.answer(g.Seq, word) }))
			}
		}
		if len(out) > 0 || !time.Now().Before(until) {
			return out, b.p.gate()
		}
		if !w.wait(b.dice.between(20*time.Millisecond, 250*time.Millisecond)) {
			return nil, errDead
		}
	}
}

// answer sends a word and does not wait for anything.
func (b *blocks) answer(seq uint64, word string) error {
	if err := b.p.gate(); err != nil {
		return err
	}
	t := b.p.w.trip(b.dice)
	if t.refused {
		return errRefused
	}
	if !t.lost {
		b.p.w.later(t.there, func() { b.p.w.follower.answer(b.p.name, seq, word) })
	}
	return nil
}

// launchJob runs a job process until it is killed or the world ends: true history, which writes to the store.
func (w *world) launchJob(name string) {
	ctx, kill := context.WithCancel(w.ctx)
	p := &proc{w: w, name: name, dice: w.dice("job " + name), kill: kill}
	w.mu.Lock()
	w.jobs = append(w.jobs, p)
	w.mu.Unlock()
	w.step("job: %s starts", name)
	cfg := history.Default()
	cfg.Writers, cfg.BatchBlocks, cfg.WriteBytes = 2, 8, 4096
	cfg.AckWaitMs, cfg.LingerMs = int(ackWait/time.Millisecond), int(ackWait/time.Millisecond)/3
	follower := history.New(cfg, history.Deps{
		Store: &storeClient{p: p, dice: w.dice("store " + name)}, Log: quiet, Metrics: prometheus.NewRegistry(),
	})
	w.wg.Go(func() {
		for ctx.Err() == nil {
			err := follower.Run(ctx, 0, &blocks{p: p, dice: w.dice("blocks " + name)})
			if p.gate() == nil && ctx.Err() == nil {
				w.step("job: %s broke off: %v", name, err)
			}
			w.wait(p.dice.between(50*time.Millisecond, 500*time.Millisecond))
		}
	})
}

// aJob is one of those that run.
func (w *world) aJob(d *dice) *proc {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.jobs) == 0 {
		return nil
	}
	return w.jobs[d.n(len(w.jobs))]
}

// killJob ends one, and starts another after a while.
func (w *world) killJob(p *proc, successor string, after time.Duration) {
	if p == nil {
		return
	}
	w.step("nemesis: %s is killed", p.name)
	p.die()
	w.mu.Lock()
	w.jobs = slices.DeleteFunc(w.jobs, func(o *proc) bool { return o == p })
	w.mu.Unlock()
	w.later(after, func() { w.launchJob(successor) })
}

// unstored says what history lacks when all is over.
func (w *world) unstored() {
	for seq := uint64(1); seq <= w.log.state().Last; seq++ {
		if !w.store.has(w.log.blockAt(seq)) {
			w.violated("store = log", "the store lacks records of block %d", seq)
		}
	}
}
