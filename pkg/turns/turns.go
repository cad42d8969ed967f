// Package turns tells those who are refused when to come back: one after the other, as fast as others get through.
package turns

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Turns are of one thing that can take so many at a time. Safe for concurrent use; its zero value lacks its bounds.
type Turns struct {
	// Soonest and Latest are when one who is refused comes back at the earliest and at the latest: something may have got better elsewhere.
	Soonest, Latest time.Duration
	// Least is how many a second come back at least: few may get through for want of any.
	Least float64

	mu   sync.Mutex
	next time.Time
}

// Take is how long one stays away who is refused now. rate is how many get through in a second; 0: that is not known yet.
func (t *Turns) Take(now time.Time, rate float64) (wait time.Duration) {
	if rate == 0 {
		return t.Soonest + rand.N(t.Soonest)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// A few more than get through, or nobody would see that more could.
	wait = max(t.next.Sub(now), t.Soonest) + time.Duration(float64(time.Second)/(1.25*max(rate, t.Least)))
	t.next = now.Add(min(wait, t.Latest))
	if wait > t.Latest {
		wait = t.Latest/2 + rand.N(t.Latest/2)
	}
	return wait
}

const (
	// window is over what time those who get through are counted.
	window = 500 * time.Millisecond
	// rest is after what time without a question nothing is known any more of how fast they get through.
	rest = 5 * time.Second
)

// Rate is how many get through in a second, seen by one who asks now and then. Safe for concurrent use.
type Rate struct {
	mu      sync.Mutex
	asked   time.Time
	from    time.Time // when the window began
	through int64     // how many had got through then
	rate    float64
}

// Of is the rate where through have got through until now; 0: not known yet. first says that nobody asked for a while.
func (r *Rate) Of(now time.Time, through int64) (rate float64, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first = now.Sub(r.asked) > rest; first {
		r.from, r.through, r.rate = now, through, 0
	}
	r.asked = now
	if passed := now.Sub(r.from); passed >= window {
		// Above 0, which would say that it is not known.
		rate := max(float64(through-r.through)/passed.Seconds(), 1e-3)
		if r.rate != 0 {
			rate = (rate + r.rate) / 2
		}
		r.from, r.through, r.rate = now, through, rate
	}
	return r.rate, first
}
