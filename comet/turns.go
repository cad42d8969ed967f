package comet

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// When more devices come at once than a node can let in before they lose patience, each that is taken on makes all of them wait longer, until
// none gets through: they give up, come again, and all that was done for them was for nothing. So nobody is taken on while those who wait
// have waited too long, and whoever is refused is told when to come back: one after the other, as fast as connects get through.

// behind is how long the loop has kept waiting whoever waits longest: its own tick, or a connect that is with the verifier or the registrar.
// Nobody can bring that about by opening connections and saying nothing.
func (l *eventLoop) behind(now time.Duration) time.Duration {
	since := now
	l.mu.Lock()
	if l.inbox.tick {
		since = l.inbox.ticked
	}
	l.mu.Unlock()
	if oldest, ok := l.waits.oldest(); ok {
		since = min(since, oldest)
	}
	return now - since
}

// waits are when the connects began that are with the verifier or the registrar. These answer in about the order in which they were asked.
type waits struct {
	began []time.Duration
	done  int // so many of them were answered
}

func (w *waits) begin(now time.Duration) { w.began = append(w.began, now) }

func (w *waits) end() {
	if w.done++; w.done == len(w.began) {
		if cap(w.began) > maxKept {
			w.began = nil
		}
		w.began, w.done = w.began[:0], 0
	} else if w.done > maxKept {
		w.began, w.done = append(w.began[:0], w.began[w.done:]...), 0
	}
}

func (w *waits) oldest() (began time.Duration, ok bool) {
	if w.done == len(w.began) {
		return 0, false
	}
	return w.began[w.done], true
}

const (
	// turnWindow is over what time connects that got through are counted.
	turnWindow = 500 * time.Millisecond
	// turnRest is after what time without a refusal nothing is known any more of how fast they get through.
	turnRest = 5 * time.Second
	// leastTurns is how many a second may come back at least: the first window may have seen few get through, for want of any.
	leastTurns = 100
	// mostTurn is the longest that a device stays away. There may be room at other nodes by then.
	mostTurn = time.Minute
)

// turns gives those who are refused their turn to come back. Safe for concurrent use.
type turns struct {
	mu      sync.Mutex
	last    time.Duration // when a turn was given last
	from    time.Duration // when the window began
	through int64         // connects that had got through then
	rate    float64       // those who get through in a second; 0: not known yet
	next    time.Duration
}

// take is how long a device stays away that is refused now. through is how many connects have got through since the node began.
func (t *turns) take(now time.Duration, through int64) (wait time.Duration, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first = t.last == 0 || now-t.last > turnRest; first {
		t.from, t.through, t.rate, t.next = now, through, 0, now
	}
	t.last = now
	if passed := now - t.from; passed >= turnWindow {
		rate := max(float64(through-t.through)/passed.Seconds(), leastTurns)
		if t.rate != 0 {
			rate = (rate + t.rate) / 2
		}
		t.from, t.through, t.rate = now, through, rate
	}
	if t.rate == 0 {
		return later(0), first
	}
	// A few more than get through, or nobody would see that more could.
	t.next = max(t.next, now+refusedRetry) + time.Duration(float64(time.Second)/(1.25*t.rate))
	if wait = t.next - now; wait > mostTurn {
		t.next = now + mostTurn
		wait = mostTurn/2 + rand.N(mostTurn/2)
	}
	return wait, first
}

// late refuses a connection where the loop is too far behind; code 0: it is not.
func (l *eventLoop) late() verdict {
	c := l.comet
	most := ms(c.cfg.ConnectWaitMs)
	if most == 0 {
		return verdict{}
	}
	now := time.Since(c.gate.began)
	behind := l.behind(now)
	if behind <= most {
		return verdict{}
	}
	wait, first := c.gate.turns.take(now, c.through())
	if first {
		c.log.Warn("more devices come than get through; they are told to come back one after the other", slog.Duration("behind", behind))
	}
	return overloaded(acceptBehind, wait)
}

// through is how many connects have got through.
func (c *Comet) through() (sum int64) {
	for _, l := range c.loops {
		sum += l.stats.accepts[acceptConnected].n.Load()
	}
	return sum
}
