package benchmarks

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// capable is a server that can do so many messages a second: beyond, its latency rises; far beyond, it does not keep up.
func capable(most float64, tried *int) func(context.Context, float64) (*Report, error) {
	return func(_ context.Context, rate float64) (*Report, error) {
		*tried++
		r := &Report{Verb: verbP2P, Sent: 1, Rate: min(rate, 1.5*most), DeliverMs: Latency{P99: 10}}
		if rate > most {
			r.DeliverMs.P99 = 500
		}
		return r, nil
	}
}

func TestFindMaxFindsTheRate(t *testing.T) {
	for _, most := range []float64{40, 1000, 1001, 12_345, 70_000} {
		tried := 0
		r, err := FindMax(t.Context(), 1000, 100*time.Millisecond, io.Discard, capable(most, &tried))
		if err != nil {
			t.Fatal(err)
		}
		if r.Rate > most || r.Rate < most/fineness || tried != len(r.Search) || tried > maxTrials || len(r.Warnings) > 0 {
			t.Errorf("most %.0f: found %.0f in %d trials, %v", most, r.Rate, tried, r.Warnings)
		}
	}
}

func TestFindMaxEnds(t *testing.T) {
	tried := 0
	r, err := FindMax(t.Context(), 1, time.Second, io.Discard, capable(1e12, &tried))
	if err != nil || tried != maxTrials || len(r.Warnings) != 1 {
		t.Errorf("%v after %d trials", err, tried)
	}
	tried = 0
	if _, err := FindMax(t.Context(), 100, time.Second, io.Discard, capable(0, &tried)); err == nil || tried > maxTrials ||
		!strings.Contains(err.Error(), "no rate held") {
		t.Errorf("%v after %d trials", err, tried)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = FindMax(ctx, 100, time.Second, io.Discard, func(ctx context.Context, rate float64) (*Report, error) {
		if rate > 500 {
			cancel()
		}
		return capable(1e6, &tried)(ctx, rate)
	})
	if err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if _, err = FindMax(t.Context(), 100, time.Second, io.Discard, func(context.Context, float64) (*Report, error) {
		return nil, fmt.Errorf("gone")
	}); err == nil {
		t.Error("a run that failed is no trial")
	}
}

// TestABrokenPromiseInTheSearchFailsIt: a rate at which messages are lost does not hold, and is not passed over in silence.
func TestABrokenPromiseInTheSearchFailsIt(t *testing.T) {
	r, err := FindMax(t.Context(), 100, time.Second, io.Discard, func(_ context.Context, rate float64) (*Report, error) {
		r := &Report{Verb: verbP2P, Sent: 1, Rate: rate}
		if rate > 900 {
			r.Lost = 3
		}
		return r, nil
	})
	if err != nil || r.Rate > 900 || r.Err() == nil || !strings.Contains(r.Err().Error(), "3 lost") {
		t.Fatalf("%v, %v", err, r.Err())
	}
}
