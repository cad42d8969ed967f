package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Trial is one rate that FindMax tried.
type Trial struct {
	Rate         float64 `json:"rate"`
	Acked        float64 `json:"acked_per_s"`
	DeliverP99Ms float64 `json:"deliver_p99_ms"`
	Broken       int64   `json:"promises_broken"`
	Why          string  `json:"why,omitempty"` // It did not hold; empty where it did.
}

const (
	maxTrials = 16
	// fineness is how near the rate that held is to one that did not, when the search ends.
	fineness = 1.05
	lowest   = 1.0
)

// FindMax searches the highest rate that holds: every promise is kept, at least 98 % of the messages are acknowledged in time,
// and p99 of the deliveries is at most maxP99. try measures one rate. It doubles the first rate, or halves it, until it has
// one that holds and one that does not, and then halves what is between, with at most 16 trials in all. The report is that of the
// highest rate that held.
func FindMax(ctx context.Context, first float64, maxP99 time.Duration, out io.Writer,
	try func(ctx context.Context, rate float64) (*Report, error),
) (*Report, error) {
	var best, over *Report
	var trials []Trial
	holds, fails, rate := 0.0, 0.0, first
	for len(trials) < maxTrials && rate >= lowest && ctx.Err() == nil {
		r, err := try(ctx, rate)
		if err != nil {
			return nil, fmt.Errorf("at %.0f messages/s: %w", rate, err)
		}
		if ctx.Err() != nil {
			break // It was cut short, so it shows nothing.
		}
		t := Trial{Rate: rate, Acked: r.Rate, DeliverP99Ms: r.DeliverMs.P99, Broken: r.broken(), Why: r.overload(rate, maxP99)}
		trials = append(trials, t)
		if t.Why == "" {
			holds, best = rate, r
			_, _ = fmt.Fprintf(out, "%8.0f messages/s hold, p99 %.1f ms\n", rate, t.DeliverP99Ms)
		} else {
			fails, over = rate, r
			_, _ = fmt.Fprintf(out, "%8.0f messages/s do not: %s\n", rate, t.Why)
		}
		switch {
		case fails == 0:
			rate = 2 * holds
		case holds == 0:
			rate = fails / 2
		case fails/holds <= fineness:
			return found(best, over, trials), nil
		default:
			rate = (holds + fails) / 2
		}
	}
	if best == nil {
		words := make([]string, len(trials))
		for i, t := range trials {
			words[i] = fmt.Sprintf("%.0f: %s", t.Rate, t.Why)
		}
		return nil, errors.Join(fmt.Errorf("no rate held: %s", strings.Join(words, "; ")), ctx.Err())
	}
	best.warn("the search ended before the rate was known to a twentieth")
	return found(best, over, trials), nil
}

// overload says why a rate did not hold.
func (r *Report) overload(rate float64, maxP99 time.Duration) string {
	limit := float64(maxP99) / float64(time.Millisecond)
	switch {
	case r.Failed():
		return r.Err().Error()
	case r.Unacked > 0:
		return fmt.Sprintf("%d messages without an answer", r.Unacked)
	case r.Rate < keepsUp*rate:
		return fmt.Sprintf("only %.0f acknowledged in a second", r.Rate)
	case r.DeliverMs.P99 > limit:
		return fmt.Sprintf("p99 of deliveries is %.1f ms", r.DeliverMs.P99)
	}
	return ""
}

// found is the report of the highest rate that held, with how it was found.
func found(best, over *Report, trials []Trial) *Report {
	best.Search = trials
	if over != nil && over.Generator.Bottleneck {
		best.warn("the next higher rate was too much for the generator, or for the machine as a whole: the server alone may do more")
	}
	return best
}
