package logic

import (
	"context"
	"sync"
	"sync/atomic"
)

// crew runs functions in goroutines that stay for the next ones. A read of the store goes deep, and growing a new stack for each would take
// longer than the read of what is in memory.
type crew struct {
	slots   chan struct{} // One of each goroutine.
	jobs    chan func(context.Context)
	resting atomic.Int32
	quit    chan struct{}
	members sync.WaitGroup
}

// mostResting is how many stay while there is nothing to do.
const mostResting = 16

func newCrew(most int) *crew {
	return &crew{slots: make(chan struct{}, most), jobs: make(chan func(context.Context)), quit: make(chan struct{})}
}

// do has fn run; false: as many run as may. It may be called from several goroutines.
func (c *crew) do(fn func(context.Context)) bool {
	select {
	case c.jobs <- fn: // Taken by one that rests.
		return true
	default:
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return false
	}
	c.members.Go(func() { c.work(fn) })
	return true
}

func (c *crew) work(fn func(context.Context)) {
	defer func() { <-c.slots }()
	for {
		fn(context.Background())
		if c.resting.Add(1) > mostResting {
			c.resting.Add(-1)
			return
		}
		select {
		case fn = <-c.jobs:
			c.resting.Add(-1)
		case <-c.quit:
			return
		}
	}
}

// dismiss waits for what runs, and ends all. Nothing may be asked of the crew any more.
func (c *crew) dismiss() {
	close(c.quit)
	c.members.Wait()
}
