package traffic

import (
	"math"
	"math/rand/v2"
	"time"
)

// Phase is a time in which an open loop's rate, in messages per second over all conversations, goes evenly from From to To. Swing
// is what it rises above that in the middle, as over a day.
type Phase struct {
	For      time.Duration
	From, To float64
	Swing    float64
}

// rate is the rate when at of the phase has gone by.
func (p Phase) rate(at time.Duration) float64 {
	part := float64(at) / float64(p.For)
	return p.From + (p.To-p.From)*part + p.Swing*(1-math.Cos(2*math.Pi*part))/2
}

// Messages is how many messages the phase has.
func (p Phase) Messages() float64 { return ((p.From+p.To)/2 + p.Swing/2) * p.For.Seconds() }

// Scaled is the phase with k of its messages.
func (p Phase) Scaled(k float64) Phase {
	p.From, p.To, p.Swing = p.From*k, p.To*k, p.Swing*k
	return p
}

// schedule says how many messages are due at each tick. Nothing else decides about that: not the server, nor how late the loop is.
type schedule struct {
	phases []Phase // Nil: rate, for ever.
	rate   float64
	tick   time.Duration
	at     time.Duration // Up to here all was given out.
	began  time.Duration // The first of phases.
	owed   float64       // The part of a message that is due.
}

// newSchedule is the share of a part that has so much of all conversations. phase, in [0, 1), is how far it is behind in the time between
// two of its messages.
func newSchedule(cfg *Config, share, phase float64) *schedule {
	s := &schedule{rate: cfg.Rate * share, tick: cfg.Tick, owed: 1 - phase}
	for _, p := range cfg.Phases {
		s.phases = append(s.phases, p.Scaled(share))
	}
	return s
}

// next takes one tick; n messages are due at its time. False where that is after now.
func (s *schedule) next(now time.Duration) (at time.Duration, n int, ok bool) {
	if s.at > now {
		return 0, 0, false
	}
	at = s.at
	rate := s.rate
	for len(s.phases) > 0 && at >= s.began+s.phases[0].For {
		s.began += s.phases[0].For
		s.phases = s.phases[1:]
		s.rate, rate = 0, 0 // After the last nothing is due.
	}
	if len(s.phases) > 0 {
		rate = s.phases[0].rate(at - s.began)
	}
	// A message is due within a billionth of its time: sums of decimals do not come out even.
	n = int(s.owed + 1e-9)
	s.owed += rate*s.tick.Seconds() - float64(n)
	s.at += s.tick
	return at, n, true
}

// busier chooses a sender by a Zipf distribution over conversations, or goes round all of them.
type busier struct {
	part *part
	zipf *rand.Zipf
	slot int
}

func newBusier(p *part, zipf float64) *busier {
	b := &busier{part: p}
	if zipf > 1 && len(p.conversations) > 0 {
		b.zipf = rand.NewZipf(p.worker.Rand(), zipf, 1, uint64(len(p.conversations)-1))
	}
	return b
}

func (b *busier) next() *member {
	b.slot++
	if b.zipf == nil {
		return b.part.senders[(b.slot-1)%len(b.part.senders)]
	}
	c := b.part.conversations[b.zipf.Uint64()]
	return c.members[b.slot%b.part.traffic.cfg.Senders]
}
