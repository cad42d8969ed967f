package simulation

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/presence/memory"
)

// weather is how much goes wrong by chance. The nemesis adds what goes wrong on purpose.
type weather int32

const (
	storm weather = iota // Messages are lost, late and refused.
	slow                 // Everything arrives, some of it late.
	calm                 // Everything arrives soon.
)

// world is everything of one seed.
type world struct {
	seed    uint64
	metrics *partition.Metrics
	start   time.Time
	pace    time.Duration // a device writes about twice in that time
	// Members of the groups come and go all the time, nodes are cut off and owners change: copies of writes are late, and what was refused
	// before would be taken now.
	turnover bool
	refusals int // that an owner remembers
	weather  atomic.Int32
	ctx      context.Context
	wg       sync.WaitGroup // what was started and ends with ctx

	log      *logServer
	leases   *leaseServer
	store    *storeServer
	follower *followerServer
	presence *memory.Registry
	presentF faultyUntil
	nodes    []*node
	devices  []*device
	groups   []string

	mu       sync.Mutex
	procs    []*proc // those that run now
	jobs     []*proc
	attached []*attachment
	asked    map[question]*asked
	online   map[uint64]*device // by connection, past ones too
	refused  []asked
	conns    uint64
	trace    []traced
	failures []string
	counts   counts
}

// counts say that a run was worth its while.
type counts struct {
	acked, refused, takeovers, lost, full, again int
	byFault                                      [faults]int
}

func (w *world) is(x weather) bool { return weather(w.weather.Load()) == x }

// maxTrace is how many of the last steps a failure shows.
const maxTrace = 400

// step notes what happened, for the trace of a failure.
func (w *world) step(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stepLocked(format, args...)
}

func (w *world) stepLocked(format string, args ...any) {
	if len(w.trace) >= 2*maxTrace {
		w.trace = append(w.trace[:0], w.trace[maxTrace:]...)
	}
	w.trace = append(w.trace, traced{time.Since(w.start), format, args})
}

// traced is a step that is put into words only if it is shown.
type traced struct {
	at     time.Duration
	format string
	args   []any
}

// violated notes that a promise was broken. The run goes on, so that what follows from it is seen as well.
func (w *world) violated(oracle, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violatedLocked(oracle, format, args...)
}

func (w *world) violatedLocked(oracle, format string, args ...any) {
	line := oracle + ": " + fmt.Sprintf(format, args...)
	w.stepLocked("VIOLATED %s", line)
	if len(w.failures) < 10 {
		w.failures = append(w.failures, line)
	}
}

func (w *world) lastSteps() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out strings.Builder
	for _, s := range w.trace[max(0, len(w.trace)-maxTrace):] {
		fmt.Fprintf(&out, "%12.6f ", s.at.Seconds())
		fmt.Fprintf(&out, s.format+"\n", s.args...)
	}
	return out.String()
}

func (w *world) count(f func(c *counts)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.counts)
}

// wait lets false time pass; false: the world ended meanwhile.
func (w *world) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// dice are one actor's chances. Each actor has its own, so what one draws does not depend on when others draw.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (w *world) dice(actor string) *dice {
	h := fnv.New64a()
	_, _ = h.Write([]byte(actor)) // A hash takes everything.
	return &dice{r: rand.New(rand.NewPCG(w.seed, h.Sum64()))}
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// one in n.
func (d *dice) one(n int) bool { return d.n(n) == 0 }

// between draws to the nanosecond, so that two things hardly ever happen at once: their order would be the scheduler's.
func (d *dice) between(from, to time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return from + time.Duration(d.r.Int64N(int64(to-from)))
}

// mostly draws a short time, and one in four a long one.
func (d *dice) mostly(short, long time.Duration) time.Duration {
	if d.one(4) {
		return d.between(short, long)
	}
	return d.between(short/20, short)
}

// faultyUntil is a part that does not answer before a time.
type faultyUntil struct{ at atomic.Int64 }

func (f *faultyUntil) set(d time.Duration) { f.at.Store(time.Now().Add(d).UnixNano()) }
func (f *faultyUntil) clear()              { f.at.Store(0) }
func (f *faultyUntil) is() bool            { return f.left() > 0 }
func (f *faultyUntil) left() time.Duration { return time.Duration(f.at.Load() - time.Now().UnixNano()) }

var (
	errDead    = errors.New("simulation: the process is dead")
	errRefused = errors.New("simulation: refused")
)

// transit is one message's fate on its way to a server and back.
type transit struct {
	there, back      time.Duration
	lost, answerLost bool
	refused          bool
}

// trip draws a message's fate.
func (w *world) trip(d *dice) transit {
	switch weather(w.weather.Load()) {
	case calm:
		return transit{there: d.between(50*time.Microsecond, time.Millisecond), back: d.between(50*time.Microsecond, time.Millisecond)}
	case slow:
		return transit{there: d.between(time.Millisecond, 150*time.Millisecond), back: d.between(time.Millisecond, 150*time.Millisecond)}
	}
	t := transit{there: d.between(100*time.Microsecond, 20*time.Millisecond), back: d.between(100*time.Microsecond, 20*time.Millisecond)}
	switch d.n(70) {
	case 0:
		t.lost = true
	case 1:
		t.answerLost = true
	case 2:
		t.there = d.between(0, 4*time.Second)
	case 3:
		t.back = d.between(0, 4*time.Second)
	case 4:
		t.refused = true
	}
	return t
}

// call carries fn to a server and its answer back, as t says. fn runs once unless the message is lost, also when the caller has
// gone meanwhile: a message that was sent cannot be taken back.
func call[T any](ctx context.Context, p *proc, t transit, fn func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var zero T
	if err := p.gate(); err != nil {
		return zero, err
	}
	if t.refused {
		return zero, errRefused
	}
	ch := make(chan answer, 1)
	p.w.wg.Go(func() {
		if t.lost || !p.w.wait(t.there) {
			return
		}
		v, err := fn()
		if !t.answerLost && p.w.wait(t.back) {
			ch <- answer{v, err}
		}
	})
	var out answer
	select {
	case out = <-ch:
	case <-ctx.Done():
		out.err = fmt.Errorf("simulation: no answer: %w", ctx.Err())
	case <-p.w.ctx.Done():
		out.err = errDead
	}
	if err := p.gate(); err != nil {
		return zero, err
	}
	return out.v, out.err
}

var quiet = slog.New(slog.DiscardHandler)
