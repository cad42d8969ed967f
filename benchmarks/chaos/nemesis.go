package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// nemesis carries a plan out.
type nemesis struct {
	plan []Step
	log  func(format string, args ...any)

	targets map[string]chan struct{} // Each holds one: a fault whose end took long delays the next on its target.

	mu     sync.Mutex
	counts map[string]int // guarded by mu: by kind, those that began
	blinds int            // guarded by mu: faults that hold and blind
	errs   []error        // guarded by mu
}

func newNemesis(plan []Step, log func(format string, args ...any)) *nemesis {
	n := &nemesis{plan: plan, log: log, targets: map[string]chan struct{}{}, counts: map[string]int{}}
	for _, s := range plan {
		for _, t := range s.Kind.Targets {
			n.targets[t] = make(chan struct{}, 1)
		}
	}
	return n
}

// healWithin bounds the end of a fault: a process that waits for another to come back is started again and again.
const healWithin = 3 * time.Minute

// beginWithin is longer than any node may take to drain.
const beginWithin = time.Minute

// run ends when every fault has. A context that ends cuts the plan short; what had begun is ended all the same.
func (n *nemesis) run(ctx context.Context) {
	start := time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range n.plan {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(start.Add(s.At))):
		}
		wg.Go(func() { n.step(ctx, s) })
	}
}

func (n *nemesis) step(ctx context.Context, s Step) {
	for _, target := range slices.Sorted(slices.Values(s.Kind.Targets)) {
		n.targets[target] <- struct{}{}
		defer func() { <-n.targets[target] }() //nolint:gocritic // all are held until the fault is over.
	}
	if ctx.Err() != nil {
		n.log("fault %s is left out: what it hurts was not whole in time", s.Kind.Name)
		return
	}
	n.log("fault %s begins, for %.1f s", s.Kind.Name, s.Hold.Seconds())
	if s.Kind.Blinds {
		n.blinded(1)
		defer n.blinded(-1)
	}
	// The end of the run must not cut a script in two.
	begin, done := context.WithTimeout(context.WithoutCancel(ctx), beginWithin)
	defer done()
	if err := s.Kind.Fault.Begin(begin); err != nil {
		n.log("fault %s: %v", s.Kind.Name, err)
		n.failed(s, err)
	} else {
		n.mu.Lock()
		n.counts[s.Kind.Name]++
		n.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(s.Hold):
		}
	}
	heal, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWithin)
	defer cancel()
	began := time.Now()
	if err := until(heal, func() error { return s.Kind.Fault.End(heal) }); err != nil {
		n.log("fault %s does not end: %v", s.Kind.Name, err)
		n.failed(s, err)
		return
	}
	n.log("fault %s ended, healed in %.1f s", s.Kind.Name, time.Since(began).Seconds())
}

func (n *nemesis) blinded(by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blinds += by
}

// blind reports whether a fault holds during which presence cannot be true.
func (n *nemesis) blind() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blinds > 0
}

func (n *nemesis) failed(s Step, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.errs = append(n.errs, fmt.Errorf("%s: %w", s.Kind.Name, err))
}

// until tries until it succeeds or ctx ends, and then gives the last error.
func until(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(300 * time.Millisecond):
		}
	}
}
