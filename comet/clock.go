package comet

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// tickLength is the unit of the wheel and of the coarse clock.
const tickLength = 100 * time.Millisecond

// clock is the coarse clock, and ticks the loops. To be woken up costs a process more than what it then has to do, so a loop is ticked only
// when something is due on it, and the clock itself sleeps for as long as nothing is on any.
type clock struct {
	began  time.Time
	now    atomic.Uint32 // in ticks: what the loops were last told
	zero   atomic.Int64  // when tick 0 was, in nanoseconds since it began
	sooner chan struct{} // cap 1: something is due sooner than the clock knew
}

const (
	// restTicks is how long the clock, and a loop, rest at most.
	restTicks = uint32(time.Second / tickLength)
	// maxJump is how far the coarse clock goes in one step. A process that was stopped for minutes must not take the silence for
	// its devices': what they sent lies in the sockets, and closing all of them at once would be a storm.
	maxJump = 2 * restTicks
)

func ticksOf(d time.Duration) uint32 { return uint32(d / tickLength) }

func (k *clock) init() {
	k.began, k.sooner = time.Now(), make(chan struct{}, 1)
	k.zero.Store(math.MaxInt64) // Until it runs, it is moved by hand.
}

// ticks is the time. It can be a little behind the loops', never ahead of real time.
func (k *clock) ticks() uint32 {
	now := k.now.Load()
	if since := int64(time.Since(k.began)); since > k.zero.Load() {
		now = max(now, ticksOf(time.Duration(since-k.zero.Load())))
	}
	return now
}

// hurry has the clock look again what is due.
func (k *clock) hurry() {
	select {
	case k.sooner <- struct{}{}:
	default:
	}
}

// keepTime runs the clock until ctx ends.
func (c *Comet) keepTime(ctx context.Context) {
	k := &c.clock
	last := time.Since(k.began) // when the tick began that it is now
	timer := time.NewTimer(tickLength)
	defer timer.Stop()
	var slow slowReaders
	for {
		k.zero.Store(int64(last - time.Duration(k.now.Load())*tickLength))
		select {
		case <-ctx.Done():
			return
		case <-k.sooner:
		case <-timer.C:
		}
		passed := ticksOf(time.Since(k.began) - last)
		last += time.Duration(passed) * tickLength
		passed = min(passed, maxJump)
		now := k.now.Add(passed)
		sending := c.farewell.tick(time.Duration(passed) * tickLength)
		next := c.tickLoops(now, sending && passed > 0)
		if sending {
			next = now + 1
		}
		c.tellSlow(&slow)
		timer.Reset(last + time.Duration(next-now)*tickLength - time.Since(k.began))
	}
}

// tickLoops ticks those on which something is due, or all, and returns when something is due on one.
func (c *Comet) tickLoops(now uint32, all bool) (next uint32) {
	next = now + restTicks
	since := time.Since(c.clock.began)
	for _, l := range c.loops {
		due := l.due.Load()
		if !all && due > now {
			next = min(next, due)
			continue
		}
		next = now + 1 // At the next tick it is known what else is.
		l.post(func(in *inbox) bool {
			if !in.tick {
				in.tick, in.ticked = true, since
			}
			return true
		})
	}
	return next
}

// catchUp tells a loop that has rested what time it is, before it does anything by it.
func (l *eventLoop) catchUp() { l.wheel.pass(l.comet.clock.ticks()) }

// tellClock tells the clock, after anything that a loop did, when something is due on it.
func (l *eventLoop) tellClock() { l.dueAt(min(l.nextWork(), l.wheel.early)) }

// dueAt has the loop ticked at that tick at the latest.
func (l *eventLoop) dueAt(tick uint32) {
	if tick < l.due.Load() {
		l.due.Store(tick)
		l.comet.clock.hurry()
	}
}

// nextWork is when something is due that is not on the wheel; never: there is nothing.
func (l *eventLoop) nextWork() uint32 {
	a := &l.attaching
	switch {
	case len(a.due) > 0, len(l.owed) > 0, l.sweep.kind|l.sweep.wanted != 0, len(l.untold) > 0, len(l.backlogged) > 0, l.waits.some():
		return l.wheel.now + 1
	case len(a.times) > 0:
		return min(a.times[0].armed, l.checker.again)
	}
	return l.checker.again
}

// tick does what is due.
func (l *eventLoop) tick() {
	l.wheel.advance(l.comet.clock.now.Load(), l.fire)
	l.tickAttaches()
	l.tellOwed()
	l.continueSweep()
	l.checkEntries()
	l.sendAway()
	l.tellAgain()
	l.measureBacklog()
	due := min(l.wheel.next(restTicks), l.nextWork())
	if before := l.due.Swap(due); due < before { // The clock may have read it.
		l.comet.clock.hurry()
	}
}
