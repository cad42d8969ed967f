package generator

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Worker is one loop with everything that lives on it. All callbacks of its lines, its timers and what is posted run on the
// loop, one at a time: nothing on a worker needs a lock.
type Worker struct {
	gnet.BuiltinEventEngine

	// static
	fleet  *Fleet
	index  int
	client *gnet.Client

	// safe from anywhere
	loop     atomic.Pointer[gnet.EventLoop]
	ticking  atomic.Bool
	stopping atomic.Bool
	up       atomic.Int64 // Sessions that hold a hello now.
	ended    atomic.Int64
	last     atomic.Pointer[error]

	// owned by the loop
	now       int64
	rand      *rand.Rand
	timers    timers
	dirty     []*Line
	spare     [][]byte
	decrypted []byte // What TLS gave last.
	sessions  []*Session
	scan      int
	shortest  int64 // Heartbeat of the sessions.
	eachTick  func(now int64)
	frame     envelopev1.Frame
	lag       Histogram
	Counts    Counts
}

// Counts are what happened to the connections of a worker.
type Counts struct {
	Connects   int64 // Hellos received.
	Failures   int64 // Connects that ended before a hello.
	Reconnects int64
	Pings      int64
	Closes     map[string]int64
	ConnectNs  Histogram
}

func newWorker(f *Fleet, index int) *Worker {
	return &Worker{
		fleet: f, index: index, rand: rand.New(rand.NewPCG(f.cfg.Seed, uint64(index))),
		lag:    NewHistogram(),
		Counts: Counts{Closes: map[string]int64{}, ConnectNs: NewHistogram()},
	}
}

// Now is the time at which the current callback began, on the fleet's clock.
func (w *Worker) Now() int64 { return w.now }

// Rand is the worker's own source, seeded.
func (w *Worker) Rand() *rand.Rand { return w.rand }

// Lag tells how late the ticks were: what the generator itself, or a machine too busy, adds to a schedule.
func (w *Worker) Lag() Histogram { return w.lag }

// EachTick sets what runs at each tick. To be called before the fleet starts.
func (w *Worker) EachTick(f func(now int64)) { w.eachTick = f }

// Post runs f on the loop, soon. It returns false, and does not run f, where the worker has no connection yet or is stopping.
func (w *Worker) Post(f func()) bool {
	loop := w.loop.Load()
	if loop == nil || w.stopping.Load() {
		return false
	}
	return (*loop).Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
		w.now = w.fleet.Now()
		f()
		w.flush()
		return nil
	})) == nil
}

// Ask runs f on the loop and waits for it; false as with Post, or when ctx ends first.
func (w *Worker) Ask(ctx context.Context, f func()) bool {
	done := make(chan struct{})
	if !w.Post(func() { f(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// After runs f on the loop after d, at the next tick. To be called on the loop.
func (w *Worker) After(d time.Duration, f func()) {
	heap.Push(&w.timers, timer{w.now + int64(d), f})
}

// ticker wakes the loop at every tick, but never queues a second tick behind one that was not run yet.
func (w *Worker) ticker(ctx context.Context) {
	t := time.NewTicker(w.fleet.cfg.Tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if w.ticking.CompareAndSwap(false, true) {
				due := w.fleet.Now()
				if !w.Post(func() { w.tick(due) }) {
					w.ticking.Store(false)
				}
			}
		}
	}
}

func (w *Worker) tick(due int64) {
	w.ticking.Store(false)
	Record(w.lag, w.now-due)
	for len(w.timers) > 0 && w.timers[0].at <= w.now {
		heap.Pop(&w.timers).(timer).f()
	}
	w.beat()
	if w.eachTick != nil {
		w.eachTick(w.now)
	}
}

// beat looks at a share of the sessions, such that each is seen about once a second, or thrice in the margin of long heartbeats: to look at
// twenty thousand takes a good part of what a process does that only holds them.
func (w *Worker) beat() {
	n, each := len(w.sessions), int64(time.Second)
	if w.shortest > 6*beatMargin {
		each = beatMargin / 3
	}
	for range min(n, int(int64(n)*int64(w.fleet.cfg.Tick)/each)+1) {
		w.scan = (w.scan + 1) % n
		w.sessions[w.scan].beat(w.now)
	}
}

// flush writes what the callback left in its lines: one write for each line, however many frames it holds.
func (w *Worker) flush() {
	for i := 0; i < len(w.dirty); i++ {
		l := w.dirty[i]
		out := l.out
		l.out = nil
		if l.gc != nil && len(out) > 0 {
			l.transmit(out) // A failed write closes the connection, which OnClose tells.
			l.lastSent = w.now
		}
		if cap(out) > 0 && cap(out) <= 64<<10 && len(w.spare) < 64 {
			w.spare = append(w.spare, out[:0])
		}
	}
	w.dirty = w.dirty[:0]
}

// OnOpen is gnet's: the connection of a line stands.
func (w *Worker) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	if w.loop.Load() == nil {
		loop := c.EventLoop()
		w.loop.Store(&loop)
	}
	w.now = w.fleet.Now()
	c.Context().(*Line).connected(c)
	w.flush()
	return nil, gnet.None
}

// OnTraffic is gnet's: bytes arrived.
func (w *Worker) OnTraffic(c gnet.Conn) gnet.Action {
	l, _ := c.Context().(*Line)
	if l == nil || l.gc != c {
		_, _ = c.Discard(-1)
		return gnet.None
	}
	w.now = w.fleet.Now()
	if l.tls != nil {
		if err := l.receive(); err != nil {
			l.reason = err
			return gnet.Close
		}
		w.flush()
		return gnet.None
	}
	buf, _ := c.Peek(-1)
	n, err := l.consume(buf)
	if err != nil {
		l.reason = err
		return gnet.Close
	}
	if n > 0 { // Discard(0) would take all.
		_, _ = c.Discard(n)
	}
	w.flush()
	return gnet.None
}

// OnClose is gnet's: the connection is gone.
func (w *Worker) OnClose(c gnet.Conn, err error) gnet.Action {
	l, _ := c.Context().(*Line)
	if l == nil || l.gc != c {
		return gnet.None
	}
	if w.stopping.Load() {
		l.endTLS()
		return gnet.None
	}
	w.now = w.fleet.Now()
	l.closed(err)
	return gnet.None
}

type timer struct {
	at int64
	f  func()
}

// timers is a heap by time.
type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	old[len(old)-1] = timer{}
	*t = old[:len(old)-1]
	return x
}
