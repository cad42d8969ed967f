package comet

import (
	"testing"
	"time"
)

func TestTurnsComeAsFastAsConnectsGetThrough(t *testing.T) {
	var turns turns
	now := time.Hour
	if wait, first := turns.take(now, 5000); !first || wait < refusedRetry || wait > 2*refusedRetry {
		t.Errorf("the first refusal: first %v, come back after %v", first, wait)
	}
	// 2,000 a second get through from then on; the next refusals are at once.
	now += turnWindow
	var waits []time.Duration
	for range 10_000 {
		wait, first := turns.take(now, 6000)
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
	if waits[0] < refusedRetry || waits[0] > refusedRetry+time.Second {
		t.Errorf("the first of them after %v", waits[0])
	}
	if _, first := turns.take(now+turnRest+1, 6000); !first {
		t.Error("after a rest it is not the first again")
	}
}

func TestTurnsHaveTheirBounds(t *testing.T) {
	var turns turns
	now := time.Hour
	turns.take(now, 0)
	now += turnWindow // nobody got through
	var last time.Duration
	for range 100_000 {
		wait, _ := turns.take(now, 0)
		if wait < refusedRetry || wait > mostTurn {
			t.Fatalf("come back after %v", wait)
		}
		last = wait
	}
	if last < mostTurn/2 {
		t.Errorf("with so many before it, the last comes back after %v", last)
	}
	// Who comes later finds the turns where they were, not further off.
	if wait, _ := turns.take(now+turnWindow/2, 0); wait < mostTurn/2 || wait > mostTurn {
		t.Errorf("a little later: after %v", wait)
	}
}

func TestALoopIsAsFarBehindAsWhoWaitsLongest(t *testing.T) {
	l := &eventLoop{}
	now := time.Hour
	want := func(behind time.Duration) {
		t.Helper()
		if got := l.behind(now); got != behind {
			t.Errorf("behind %v, want %v", got, behind)
		}
	}
	want(0)
	l.waits.begin(now - 3*time.Second)
	l.waits.begin(now - time.Second)
	want(3 * time.Second)
	l.waits.end()
	want(time.Second)
	l.inbox.tick, l.inbox.ticked = true, now-2*time.Second
	want(2 * time.Second)
	l.waits.end()
	l.inbox = inbox{}
	want(0)
	for i := range 3 * maxKept { // A storm: there is always somebody who waits.
		l.waits.begin(now - time.Duration(i))
		if i > 0 {
			l.waits.end()
		}
	}
	want(3*maxKept - 1)
	if got := cap(l.waits.began); got > 4*maxKept {
		t.Errorf("room for %d, of whom one waits", got)
	}
}
