package comet

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/protocol"
)

// farewell sends sessions away at a bounded rate: all of them while an operator's drain holds or the process ends, some of them to
// rebalance. The clock gives out credit; the loops spend it.
type farewell struct {
	comet *Comet

	all    atomic.Bool  // every session is to go
	credit atomic.Int64 // sessions that may be closed now
	share  atomic.Int64 // what one loop may take of it in a tick, so that all take part

	mu       sync.Mutex
	drained  bool // an operator's drain holds
	leaving  bool // the process ends
	begin    time.Time
	rate     int   // sessions per second
	fraction int64 // of a session, in thousandths, not given out yet
	sending  bool  // at the last tick, some were to go
}

// Pacing is how far the sending away of sessions has come.
type Pacing struct {
	Draining    bool
	Connections int // held now
	Moving      int // sessions still to be closed for a rebalancing
	Rate        int // sessions per second
}

// ErrLeaving says that the process ends, which nobody takes back.
var ErrLeaving = errors.New("comet: the process is ending")

// Drain takes the node out of work until Undrain: it is not ready, lets nobody in after the notice, and sends its sessions away at
// the rate of the settings. It returns at once; called again it changes nothing.
func (c *Comet) Drain() {
	f := &c.farewell
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.drained {
		c.log.Info("draining, as an operator asked", "connections", c.connections.Load(), "rate", f.rate)
	}
	f.drained = true
	f.start()
}

// Undrain takes the node back to work, with the sessions that it still has.
func (c *Comet) Undrain() error {
	f := &c.farewell
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leaving {
		return ErrLeaving
	}
	if f.drained {
		c.log.Info("taken back to work, as an operator asked", "connections", c.connections.Load())
	}
	f.drained = false
	c.draining.Store(false)
	c.refusing.Store(false)
	f.all.Store(false)
	return nil
}

// Rebalance sends n sessions away, to come back to whichever node they are sent to then. It replaces what an earlier call left; 0
// ends it.
func (c *Comet) Rebalance(n int) {
	live := make([]int64, len(c.loops))
	var sum int64
	for i, l := range c.loops {
		for t := range c.transports {
			live[i] += l.stats.connections[t].Load()
		}
		sum += live[i]
	}
	// Each loop its part, rounded so that the parts add up.
	rest := min(int64(max(n, 0)), sum)
	for i, l := range c.loops {
		part := int64(0)
		if sum > 0 {
			part = rest * live[i] / sum
		}
		l.moving.Store(part)
		rest, sum = rest-part, sum-live[i]
	}
	c.clock.hurry()
	c.log.Info("rebalancing", "sessions", n, "connections", c.connections.Load())
}

// Pacing tells how far a drain or a rebalancing has come.
func (c *Comet) Pacing() Pacing {
	f := &c.farewell
	f.mu.Lock()
	rate := f.rate
	f.mu.Unlock()
	p := Pacing{Draining: c.draining.Load(), Connections: int(c.connections.Load()), Rate: rate}
	for _, l := range c.loops {
		p.Moving += int(max(l.moving.Load(), 0))
	}
	return p
}

// leave is the drain of a process that ends. It has to be over in time, so the rate rises as far as that demands.
func (f *farewell) leave(timeout time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Half of the timeout is for closing, the rest for devices that are slow to leave.
	f.rate = max(f.rate, int(f.comet.connections.Load()*2*int64(time.Second)/int64(timeout))+1)
	f.leaving = true
	f.start()
}

// start begins a drain that is not under way. Under mu.
func (f *farewell) start() {
	now := time.Now()
	if !f.comet.draining.Swap(true) {
		f.begin = now.Add(ms(f.comet.cfg.DrainNoticeMs))
	}
	f.turn(now)
	f.comet.clock.hurry()
}

// turn has the drain begin in earnest when the notice is over. Under mu.
func (f *farewell) turn(now time.Time) {
	if (f.drained || f.leaving) && !now.Before(f.begin) {
		f.comet.refusing.Store(true)
		f.all.Store(true)
	}
}

// tick gives out credit for the time that passed, and reports whether sessions are to go, or will be. What loops do not need does not add
// up to a burst, and neither does the time before.
func (f *farewell) tick(passed time.Duration) (sending bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(time.Now())
	before := f.sending
	f.sending = f.drained || f.leaving || slices.ContainsFunc(f.comet.loops, func(l *eventLoop) bool { return l.moving.Load() > 0 })
	if !f.sending || passed == 0 {
		return f.sending
	}
	if !before {
		passed = min(passed, tickLength)
	}
	f.fraction += int64(f.rate) * int64(passed/time.Millisecond)
	whole, loops := f.fraction/1000, int64(len(f.comet.loops))
	f.fraction %= 1000
	credit := min(f.credit.Load()+whole, max(whole, 1)*loops)
	f.credit.Store(credit)
	f.share.Store(max(credit/loops, 1))
	return true
}

func (f *farewell) take() bool {
	if f.credit.Add(-1) >= 0 {
		return true
	}
	f.credit.Add(1)
	return false
}

// maxWalk bounds the slots that a loop looks at in a tick.
const maxWalk = 1 << 16

// sendAway does a tick's part, on the loop. A rebalancing ends with one turn over the slots, so that no session that came back is
// sent away again by it.
func (l *eventLoop) sendAway() {
	f := &l.comet.farewell
	all := f.all.Load()
	if !all && l.moving.Load() <= 0 {
		l.turned = 0
		return
	}
	slots := l.sessions.slots()
	for walked, closed := uint32(0), int64(0); walked < min(slots, maxWalk) && closed < f.share.Load(); walked++ {
		next := (l.away + 1) % slots
		if s := l.sessions.at(next); s.phase == phaseLive || all && (s.phase == phaseOpening || s.phase == phaseConnecting) {
			if !f.take() {
				return
			}
			closed++
			l.dismiss(s, all)
		}
		l.away = next
		if all {
			continue
		}
		if l.turned++; l.moving.Load() <= 0 || l.turned >= slots {
			l.turned = 0
			l.moving.Store(0)
			return
		}
	}
}

func (l *eventLoop) dismiss(s *session, all bool) {
	if l.moving.Load() > 0 {
		l.moving.Add(-1)
	}
	if all {
		l.end(s, protocol.CloseDraining, ms(rand.IntN(l.comet.cfg.DrainSpreadMs+1)))
	} else {
		l.move(s)
	}
	l.reply = l.reply[:0]
}

// movedSpread is how long a session that is moved stays away at most: the pace spreads them already.
const movedSpread = time.Second

// move asks a device to connect again, now that another node may take it.
func (l *eventLoop) move(s *session) { l.end(s, protocol.CloseRebalanced, rand.N(movedSpread)) }
