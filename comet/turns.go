package comet

import (
	"time"

	"github.com/halley-im/halley/pkg/turns"
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

// waits are when the connects began that are with the verifier or the registrar. These answer in about the order in which they were asked; a token that
// is refused is answered before those that are being registered, which makes the oldest seem younger than it is, never older.
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

func (w *waits) some() bool { return w.done != len(w.began) }

func (w *waits) oldest() (began time.Duration, ok bool) {
	if !w.some() {
		return 0, false
	}
	return w.began[w.done], true
}

// newTurns are for connects. Within a minute there may be room at other nodes.
func newTurns() *turns.Turns {
	return &turns.Turns{Soonest: refusedRetry, Latest: time.Minute, Least: 100}
}

// late refuses a connection where the loop is too far behind; code 0: it is not.
func (l *eventLoop) late() verdict {
	c := l.comet
	most := ms(c.cfg.ConnectWaitMs)
	if most == 0 {
		return verdict{}
	}
	if l.behind(time.Since(c.clock.began)) <= most {
		return verdict{}
	}
	return overloaded(acceptBehind, c.turn())
}

// turn is how long a device stays away for which there is no room yet.
func (c *Comet) turn() time.Duration {
	now := time.Now()
	rate, first := c.gate.rate.Of(now, c.through())
	if first {
		c.log.Warn("more devices come than get through; they are told to come back one after the other")
	}
	return c.gate.turns.Take(now, rate)
}

// through is how many connects have got through.
func (c *Comet) through() (sum int64) {
	for _, l := range c.loops {
		sum += l.stats.accepts[acceptConnected].n.Load()
	}
	return sum
}
