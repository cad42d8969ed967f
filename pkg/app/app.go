// Package app runs the components of a node: in order, each once the one before it is ready, and stops them in reverse. It
// never knows what a component does.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Component is one part of a node that runs as long as the node does.
type Component struct {
	Name string
	// Run blocks until ctx ends, then drains and returns nil. Returning earlier, nil included, fails the node.
	Run func(ctx context.Context) error
	// Ready returns nil once what depends on the component may start; it obeys ctx. Nil: as soon as Run was called.
	Ready func(ctx context.Context) error
	// Drain is how long Run may take after its ctx ended; 0 means DefaultDrain. Beyond it the component is left behind, so
	// that one which hangs does not keep the others from ending well, and the node ends with an error.
	Drain time.Duration
}

// Closed is a Ready that waits until the channel is closed.
func Closed(ready <-chan struct{}) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pollEvery is short against what any component needs to start.
const pollEvery = 10 * time.Millisecond

// Holds is a Ready that waits until check answers nil. Its error is the last that check gave.
func Holds(check func() error) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		ticker := time.NewTicker(pollEvery)
		defer ticker.Stop()
		for {
			err := check()
			if err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return err
			case <-ticker.C:
			}
		}
	}
}

// DefaultDrain is the drain deadline of a component that names none.
const DefaultDrain = 10 * time.Second

// Config is the runner's.
type Config struct {
	StartWithinMs int `koanf:"start_within_ms" doc:"How long each part of the node may take to become ready; beyond it the node gives up."`
	DrainDelayMs  int `koanf:"drain_delay_ms" doc:"On SIGTERM, how long the node stays fully at work after /readyz has turned to not ready, so that a load balancer notices first."`
}

// Default has no drain delay: it is of use behind a load balancer only.
func Default() Config { return Config{StartWithinMs: 30_000} }

// Validate reports every field at fault.
func (c Config) Validate() error {
	var errs []error
	if c.StartWithinMs <= 0 {
		errs = append(errs, fmt.Errorf("start_within_ms: must be above 0, got %d", c.StartWithinMs))
	}
	if c.DrainDelayMs < 0 {
		errs = append(errs, fmt.Errorf("drain_delay_ms: must not be negative, got %d", c.DrainDelayMs))
	}
	return errors.Join(errs...)
}

// Errors that tell how a component ended; they are wrapped with its name.
var (
	ErrReturned = errors.New("returned though nobody asked it to")
	ErrNotReady = errors.New("not ready in time")
	ErrOverrun  = errors.New("did not end within its drain deadline")
)

type state int32

const (
	stateStarting state = iota
	stateRunning
	stateDraining
)

// Runner runs components.
type Runner struct {
	// static
	cfg        Config
	log        *slog.Logger
	components []Component

	state atomic.Int32
}

// New makes a runner of components in the order in which they start.
func New(cfg Config, log *slog.Logger, components ...Component) *Runner {
	return &Runner{cfg: cfg, log: log, components: components}
}

// Check is the readiness of the node as a whole: nil from when all components are ready until the drain begins. It is safe
// for concurrent use.
func (r *Runner) Check(context.Context) error {
	switch state(r.state.Load()) {
	case stateRunning:
		return nil
	case stateDraining:
		return errors.New("draining")
	}
	return errors.New("starting")
}

// Run starts the components and calls ready when all are. It returns when ctx has ended or a component failed, and all
// that were started have been stopped: nil only if every one of them ended as it should. It is called once.
func (r *Runner) Run(ctx context.Context, ready func()) error {
	n := &node{runner: r, exits: make(chan exit, len(r.components))}
	err := n.start(ctx)
	if err == nil && ctx.Err() == nil {
		r.state.Store(int32(stateRunning))
		ready()
		select {
		case <-ctx.Done():
		case e := <-n.exits:
			err = n.failure(e)
		}
	}
	r.state.Store(int32(stateDraining))
	if err != nil {
		r.log.Warn("a component failed; stopping all")
	} else {
		r.log.Info("draining")
		err = n.drainDelay()
	}
	return errors.Join(err, n.stop())
}
