package comet

import (
	"testing"
	"time"
)

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

// TestWhoWaitsToBeRefusedLeavesRoom: descriptors are for connections, and for so many beside them.
func TestWhoWaitsToBeRefusedLeavesRoom(t *testing.T) {
	for _, c := range []struct {
		result      accept
		connections int64
		wait        int64
	}{
		{acceptAddress, 0, maxRefusals},
		{acceptHeap, 0, maxRefusals},
		{acceptBehind, 0, maxRefusals + 1000},
		{acceptBehind, 7900, maxRefusals + 100},
		{acceptBehind, 8000, maxRefusals},
	} {
		node := &Comet{limit: 8000}
		node.connections.Store(c.connections)
		var wait int64
		for node.mayWait(verdict{result: c.result}) {
			wait++
		}
		if wait != c.wait {
			t.Errorf("%s with %d connections: %d may wait, want %d", acceptNames[c.result], c.connections, wait, c.wait)
		}
		node.refusals.Add(-1)
		// Those who wait take the places of those who would be let in.
		if places := node.inPlaces(); c.connections+places > 8000 || places != c.wait-maxRefusals {
			t.Errorf("%s: they take %d places", acceptNames[c.result], places)
		}
	}
}

// TestWhoWaitsToBeRefusedTakesAPlace: nobody is let in where the descriptors are those of the refused.
func TestWhoWaitsToBeRefusedTakesAPlace(t *testing.T) {
	node := &Comet{limit: 800, gate: newGate(Config{})}
	l := &eventLoop{comet: node}
	node.connections.Store(699)
	node.refusals.Store(maxRefusals + 100)
	if v := node.admit(l, addressKey(1)); v.result != acceptOK {
		t.Fatalf("the last place: %s", acceptNames[v.result])
	}
	if v := node.admit(l, addressKey(1)); v.result != acceptOverloaded || node.connections.Load() != 700 {
		t.Errorf("one beyond it: %s, with %d connections", acceptNames[v.result], node.connections.Load())
	}
	node.refusals.Add(-1)
	if v := node.admit(l, addressKey(1)); v.result != acceptOK {
		t.Errorf("once one of the refused has left: %s", acceptNames[v.result])
	}
}
