package main

import (
	"context"
	"testing"
	"time"
)

func TestWhenMemoryIsGivenBack(t *testing.T) {
	const mb = 1 << 20
	before := heapReading{allocated: 100 * mb, live: 20 * mb}
	for name, c := range map[string]struct {
		now  heapReading
		want bool
	}{
		"garbage at rest":       {heapReading{100*mb + 1000, 20 * mb, 30 * mb, 0}, true},
		"free spans at rest":    {heapReading{100 * mb, 20 * mb, 20 * mb, 6 * mb}, true},
		"at work":               {heapReading{106 * mb, 20 * mb, 30 * mb, 6 * mb}, false},
		"nothing to be had":     {heapReading{100 * mb, 20 * mb, 20 * mb, 0}, false},
		"little":                {heapReading{100 * mb, 20 * mb, 21 * mb, 2 * mb}, false},
		"a small part":          {heapReading{100 * mb, 200 * mb, 210 * mb, 5 * mb}, false},
		"less than found alive": {heapReading{100 * mb, 20 * mb, 10 * mb, 0}, false},
	} {
		if got := c.now.worthwhile(before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// sink keeps the compiler from leaving the garbage out.
var sink []byte

func TestMemoryIsGivenBackAtRest(t *testing.T) {
	for range 64 {
		sink = make([]byte, 1<<20)
	}
	sink = nil
	garbage := readHeap()
	if garbage.objects == 0 || garbage.allocated < 64<<20 {
		t.Fatalf("%+v", garbage)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); giveBack(ctx, 10*time.Millisecond) }()
	for end := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		if h := readHeap(); !h.worthwhile(h) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing was given back: %+v", readHeap())
		}
	}
	stop()
	<-done
}
