package turns

import (
	"testing"
	"time"
)

func newTurns() *Turns { return &Turns{Soonest: 2 * time.Second, Latest: time.Minute, Least: 100} }

func TestTurnsComeAsFastAsOthersGetThrough(t *testing.T) {
	turns := newTurns()
	now := time.Hour
	if wait, first := turns.Take(now, 5000); !first || wait < turns.Soonest || wait > 2*turns.Soonest {
		t.Errorf("the first refusal: first %v, come back after %v", first, wait)
	}
	// 2,000 a second get through from then on; the next refusals are at once.
	now += window
	var waits []time.Duration
	for range 10_000 {
		wait, first := turns.Take(now, 6000)
		if first {
			t.Fatal("the first again")
		}
		waits = append(waits, wait)
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
	if _, first := turns.Take(now+rest+1, 6000); !first {
		t.Error("after a rest it is not the first again")
	}
}

func TestTurnsHaveTheirBounds(t *testing.T) {
	turns := newTurns()
	now := time.Hour
	turns.Take(now, 0)
	now += window // nobody got through
	var last time.Duration
	for range 100_000 {
		wait, _ := turns.Take(now, 0)
		if wait < turns.Soonest || wait > turns.Latest {
			t.Fatalf("come back after %v", wait)
		}
		last = wait
	}
	if last < turns.Latest/2 {
		t.Errorf("with so many before it, the last comes back after %v", last)
	}
	// Who comes later finds the turns where they were, not further off.
	if wait, _ := turns.Take(now+window/2, 0); wait < turns.Latest/2 || wait > turns.Latest {
		t.Errorf("a little later: after %v", wait)
	}
}
