// Package turns tells those who are refused when to come back: one after the other, as fast as others get through.
package turns

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// window is over what time those who get through are counted.
	window = 500 * time.Millisecond
	// rest is after what time without a refusal nothing is known any more of how fast they get through.
	rest = 5 * time.Second
)

// Turns are of one thing that can take so many at a time. Safe for concurrent use; its zero value lacks its bounds.
type Turns struct {
	// Soonest and Latest are when one who is refused comes back at the earliest and at the latest: something may have got better elsewhere.
	Soonest, Latest time.Duration
	// Least is how many a second come back at least: when refusals begin, few may have got through, for want of any.
	Least float64

	mu      sync.Mutex
	last    time.Duration // when a turn was given last
	from    time.Duration // when the window began
	through int64         // how many had got through then
	rate    float64       // those who get through in a second; 0: not known yet
	next    time.Duration
}

// Take is how long one stays away who is refused now, on any clock that never goes back and is above 0. through is how many have got through
// since that began; first, that nobody was refused for a while.
func (t *Turns) Take(now time.Duration, through int64) (wait time.Duration, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first = t.last == 0 || now-t.last > rest; first {
		t.from, t.through, t.rate, t.next = now, through, 0, now
	}
	t.last = now
	if passed := now - t.from; passed >= window {
		rate := max(float64(through-t.through)/passed.Seconds(), t.Least)
		if t.rate != 0 {
			rate = (rate + t.rate) / 2
		}
		t.from, t.through, t.rate = now, through, rate
	}
	if t.rate == 0 {
		return t.Soonest + rand.N(t.Soonest), first
	}
	// A few more than get through, or nobody would see that more could.
	t.next = max(t.next, now+t.Soonest) + time.Duration(float64(time.Second)/(1.25*t.rate))
	if wait = t.next - now; wait > t.Latest {
		t.next = now + t.Latest
		wait = t.Latest/2 + rand.N(t.Latest/2)
	}
	return wait, first
}
