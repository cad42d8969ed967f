package logic

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestACrewDoesAsMuchAtOnceAsItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 40
		c := newCrew(most)
		var done atomic.Int32
		for round := range 3 {
			gate := make(chan struct{})
			for i := range most {
				if !c.do(func(context.Context) { <-gate; done.Add(1) }) {
					t.Fatalf("round %d: %d run, and no more", round, i)
				}
			}
			if c.do(func(context.Context) { t.Error("beyond the bound") }) {
				t.Fatal("one more than may run")
			}
			close(gate)
			synctest.Wait()
			if done.Swap(0) != most {
				t.Fatal("not all were done")
			}
			if n := len(c.slots); n != mostResting {
				t.Fatalf("%d stay", n)
			}
		}
		c.dismiss()
		if n := len(c.slots); n != 0 {
			t.Fatalf("%d stayed", n)
		}
	})
}

func TestACrewIsDismissedWhenWhatRunsIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(2)
		gate := make(chan struct{})
		finished := false
		c.do(func(context.Context) { <-gate; finished = true })
		gone := make(chan struct{})
		go func() { c.dismiss(); close(gone) }()
		synctest.Wait()
		select {
		case <-gone:
			t.Fatal("dismissed while something runs")
		default:
		}
		close(gate)
		<-gone
		if !finished {
			t.Fatal("it was not waited for")
		}
	})
}

func TestACrewAskedByMany(t *testing.T) {
	c := newCrew(8)
	var asked, done atomic.Int64
	var askers sync.WaitGroup
	for range 16 {
		askers.Go(func() {
			for range 2000 {
				if c.do(func(context.Context) { done.Add(1) }) {
					asked.Add(1)
				}
			}
		})
	}
	askers.Wait()
	c.dismiss()
	if asked.Load() != done.Load() || done.Load() == 0 {
		t.Fatalf("%d taken, %d done", asked.Load(), done.Load())
	}
}
