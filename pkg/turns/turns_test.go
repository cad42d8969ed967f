package turns

import (
	"testing"
	"time"
)

func newTurns() *Turns { return &Turns{Soonest: 2 * time.Second, Latest: time.Minute, Least: 100} }

func TestTurnsComeAsFastAsOthersGetThrough(t *testing.T) {
	turns := newTurns()
	now := time.Now()
	var waits []time.Duration
	for range 10_000 {
		waits = append(waits, turns.Take(now, 2000))
	}
	for i, wait := range waits[1:] {
		if wait <= waits[i] {
			t.Fatalf("number %d comes after %v, the one before it after %v", i+1, wait, waits[i])
		}
	}
	// A quarter more than get through.
	if got, want := waits[len(waits)-1]-waits[0], 4*time.Second; got < want-100*time.Millisecond || got > want+100*time.Millisecond {
		t.Errorf("10,000 come back within %v, want %v", got, want)
	}
	if waits[0] < turns.Soonest || waits[0] > turns.Soonest+time.Second {
		t.Errorf("the first of them after %v", waits[0])
	}
	// Long after the last of them it is as if there had been none.
	if wait := turns.Take(now.Add(time.Minute), 2000); wait < turns.Soonest || wait > turns.Soonest+time.Second {
		t.Errorf("much later, one after %v", wait)
	}
}

func TestTurnsHaveTheirBounds(t *testing.T) {
	turns := newTurns()
	now := time.Now()
	for range 100 {
		if wait := turns.Take(now, 0); wait < turns.Soonest || wait > 2*turns.Soonest {
			t.Fatalf("with a rate that is not known, come back after %v", wait)
		}
	}
	var last time.Duration
	for range 100_000 {
		if last = turns.Take(now, 1e-3); last < turns.Soonest || last > turns.Latest {
			t.Fatalf("come back after %v", last)
		}
	}
	if last < turns.Latest/2 {
		t.Errorf("with so many before it, the last comes back after %v", last)
	}
	// Who comes later finds the turns where they were, not further off.
	if wait := turns.Take(now.Add(time.Second), 1e-3); wait < turns.Latest/2 || wait > turns.Latest {
		t.Errorf("a little later: after %v", wait)
	}
}

func TestTheRateIsOfTheLastWindows(t *testing.T) {
	var r Rate
	now, through := time.Now(), int64(5000)
	want := func(rate float64, first bool) {
		t.Helper()
		if got, is := r.Of(now, through); got != rate || is != first {
			t.Errorf("%v, first %v; want %v, %v", got, is, rate, first)
		}
	}
	want(0, true)
	now = now.Add(window / 2)
	through += 10
	want(0, false)
	now = now.Add(window / 2)
	through += 990
	want(2000, false)
	now = now.Add(window)
	through += 500
	want(1500, false) // The mean of the last and the one before.
	now = now.Add(rest + 1)
	want(0, true)
	now = now.Add(window)
	want(1e-3, false) // Known, and nobody.
}
