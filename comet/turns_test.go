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
