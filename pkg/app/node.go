package app

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// exit is the end of a component's Run.
type exit struct {
	index int
	err   error
}

// node is one run of a Runner. All fields are owned by the goroutine of Run; the components' goroutines only send to exits.
type node struct {
	runner *Runner
	// One slot per component: a component that was left behind can still end.
	exits   chan exit
	started []started
}

type started struct {
	cancel context.CancelFunc
	ended  bool
}

// start starts the components in order. It returns early, with nil, when ctx ends.
func (n *node) start(ctx context.Context) error {
	within := time.Duration(n.runner.cfg.StartWithinMs) * time.Millisecond
	for i, c := range n.runner.components {
		select {
		case <-ctx.Done():
			return nil
		default:
		}
		begin := time.Now()
		// A component outlives ctx: it ends when its turn in the reverse order has come.
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		n.started = append(n.started, started{cancel: cancel})
		go func() { n.exits <- exit{i, c.Run(own)} }()
		if c.Ready == nil {
			continue
		}
		if err := n.awaitReady(ctx, c, within); err != nil {
			return err
		}
		n.runner.log.Debug("ready", "component", c.Name, "took", time.Since(begin))
	}
	return nil
}

// awaitReady waits for the component that was started last. It returns nil as well when ctx ends: that is no failure.
func (n *node) awaitReady(ctx context.Context, c Component, within time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, within)
	ready := make(chan error, 1)
	go func() { ready <- c.Ready(bounded) }()
	select {
	case err := <-ready:
		cancel()
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w (%v): %w", c.Name, ErrNotReady, within, err)
		}
		return nil
	case e := <-n.exits:
		cancel()
		n.runner.log.Debug("not waited for any longer", "component", c.Name, "err", <-ready)
		return n.failure(e)
	}
}

// failure notes the end of a component that nobody had asked to end.
func (n *node) failure(e exit) error {
	n.started[e.index].ended = true
	if e.err == nil {
		e.err = ErrReturned
	}
	return fmt.Errorf("%s: %w", n.runner.components[e.index].Name, e.err)
}

// drainDelay lets the node work on for a while after it has said that it is not ready, unless a component fails meanwhile.
func (n *node) drainDelay() error {
	delay := time.Duration(n.runner.cfg.DrainDelayMs) * time.Millisecond
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case e := <-n.exits:
		return n.failure(e)
	}
}

// stop ends what was started, last first, each before the next, and reports what did not end well.
func (n *node) stop() error {
	var errs []error
	for i := len(n.started) - 1; i >= 0; i-- {
		c := n.runner.components[i]
		begin := time.Now()
		n.started[i].cancel()
		if err := n.await(i); err != nil {
			errs = append(errs, err)
		}
		n.runner.log.Debug("stopped", "component", c.Name, "took", time.Since(begin))
	}
	return errors.Join(errs...)
}

// await waits for the end of component i within its deadline. Others that end meanwhile were not asked to.
func (n *node) await(i int) error {
	c := n.runner.components[i]
	deadline := c.Drain
	if deadline == 0 {
		deadline = DefaultDrain
	}
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	var errs []error
	for !n.started[i].ended {
		select {
		case e := <-n.exits:
			if e.index != i {
				// One that was left behind, or one whose turn has not come: only the second is news.
				if e.index < i {
					errs = append(errs, n.failure(e))
				}
				continue
			}
			n.started[i].ended = true
			if e.err != nil {
				errs = append(errs, fmt.Errorf("%s: stopping: %w", c.Name, e.err))
			}
		case <-timer.C:
			return errors.Join(append(errs, fmt.Errorf("%s: %w (%v)", c.Name, ErrOverrun, deadline))...)
		}
	}
	return errors.Join(errs...)
}
