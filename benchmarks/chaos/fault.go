package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Fault is one way to hurt the system. Between Begin and End it holds; after End nothing of it is left. A fault of a new kind is a
// type with these two methods and a line in the list of its topology.
type Fault interface {
	Begin(ctx context.Context) error
	End(ctx context.Context) error
}

// Kind is a fault as a plan knows it.
type Kind struct {
	Name string
	// Targets are what it takes: two faults that share one never overlap.
	Targets []string
	// Hold is between Least and Most.
	Least, Most time.Duration
	Fault       Fault
}

// process is a thing that can be started and killed.
type process interface {
	do(ctx context.Context, verb verb) error
}

// verb is what the scripts of deploy/local call it.
type verb string

const (
	verbStart  verb = "start"
	verbStop   verb = "stop"
	verbKill   verb = "kill"
	verbPause  verb = "pause"
	verbResume verb = "resume"
)

// change does one thing to processes when it begins and another when it ends: kill and start, pause and resume.
type change struct {
	begin, end verb
	of         []process
}

func (c change) Begin(ctx context.Context) error { return all(ctx, c.of, c.begin) }
func (c change) End(ctx context.Context) error   { return all(ctx, c.of, c.end) }

// all does the same to several at once.
func all(ctx context.Context, of []process, v verb) error {
	var wg sync.WaitGroup
	errs := make([]error, len(of))
	for i, p := range of {
		wg.Go(func() { errs[i] = p.do(ctx, v) })
	}
	wg.Wait()
	var said []string
	for _, err := range errs {
		if err != nil {
			said = append(said, err.Error())
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("%s: %s", v, strings.Join(said, "; "))
	}
	return nil
}

// blow is over as soon as it has happened: a storm, a flush, a step-down.
type blow func(ctx context.Context) error

// Begin strikes.
func (b blow) Begin(ctx context.Context) error { return b(ctx) }

// End has nothing to undo.
func (b blow) End(context.Context) error { return nil }

// storm cuts every device's connection at once.
func storm(gates []*gate) blow {
	return func(context.Context) error {
		for _, g := range gates {
			g.cut()
		}
		return nil
	}
}

// storms cuts them again and again while it holds.
type storms struct {
	gates []*gate
	end   context.CancelFunc // Between Begin and End.
	ended chan struct{}
}

// stormEvery leaves devices the time to come back and to ask for what they missed, or not quite.
const stormEvery = 1500 * time.Millisecond

// Begin starts cutting.
func (s *storms) Begin(ctx context.Context) error {
	ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.ended = make(chan struct{})
	go func() { // End waits for it.
		defer close(s.ended)
		for ok := true; ok; ok = sleep(ctx, stormEvery) {
			_ = storm(s.gates)(ctx)
		}
	}()
	return nil
}

// End stops it.
func (s *storms) End(context.Context) error {
	s.end()
	<-s.ended
	return nil
}

// gateKinds are what happens to all devices.
func gateKinds(gates []*gate) []Kind {
	return []Kind{
		{Name: "storm", Targets: []string{"gates"}, Fault: storm(gates)},
		{Name: "storms", Targets: []string{"gates"}, Least: 5 * time.Second, Most: 15 * time.Second, Fault: &storms{gates: gates}},
	}
}

// The bounds of holds: a pause is longer than every lease of an owner, which is 4 s.
func killed(name string, p process) Kind {
	return Kind{
		Name: "kill-" + name, Targets: []string{name}, Most: 6 * time.Second,
		Fault: change{verbKill, verbStart, []process{p}},
	}
}

func paused(name string, p process) Kind {
	return Kind{
		Name: "pause-" + name, Targets: []string{name}, Least: 5 * time.Second, Most: 9 * time.Second,
		Fault: change{verbPause, verbResume, []process{p}},
	}
}

func restarted(name string, p process) Kind {
	return Kind{Name: "restart-" + name, Targets: []string{name}, Most: time.Second, Fault: change{verbStop, verbStart, []process{p}}}
}
