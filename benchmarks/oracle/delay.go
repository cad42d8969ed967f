package oracle

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Open ends a span that goes on.
const Open = time.Duration(math.MaxInt64)

// Span is a time, since the run began.
type Span struct{ From, To time.Duration }

// Delays are, for each record that a connected device was shown, how long it lacked it: from when anybody knew of the record, or its
// own connection began, until it was shown it. Those that took longer than within are violations: to be connected is to be complete
// within that time.
func (t *Transcript) Delays(within time.Duration) (delays []time.Duration, late []Violation) {
	j := &judge{Transcript: t}
	known := j.firstShown()
	for _, w := range t.Writers {
		for _, s := range w.Sent {
			if at, shown := known[s.Seq]; s.Outcome == Acked && (!shown || s.Ended < at) {
				known[s.Seq] = s.Ended
			}
		}
	}
	for i := range t.Devices {
		d := &t.Devices[i]
		for _, s := range d.Shown {
			n, _ := slices.BinarySearchFunc(d.Sessions, s.At, func(span Span, at time.Duration) int {
				return compare(uint64(span.From), uint64(at)+1)
			})
			if n == 0 || s.At > d.Sessions[n-1].To {
				continue // It was shown what had come before the connection ended.
			}
			delay := s.At - max(known[s.Seq], d.Sessions[n-1].From)
			delays = append(delays, delay)
			if delay > within {
				j.broken(RuleHidden, "%s, connected, was shown %d no sooner than %.1f s after it was written", d.Name, s.Seq, delay.Seconds())
			}
		}
	}
	return delays, j.found
}

// Quantiles puts delays into words.
func Quantiles(delays []time.Duration) string {
	if len(delays) == 0 {
		return "none"
	}
	slices.Sort(delays)
	of := func(q float64) float64 { return delays[int(q*float64(len(delays)-1))].Seconds() }
	return fmt.Sprintf("p50 %.3f s, p99 %.3f s, max %.3f s", of(0.5), of(0.99), of(1))
}
