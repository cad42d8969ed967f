package main

import (
	"errors"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/pkg/drain"
)

// cometWork is the work of a process that holds connections; in serve, where nobody could take partitions over, it is all there is.
type cometWork struct {
	name  string
	tier  tier
	comet *comet.Comet
}

var _ drain.Work = cometWork{}

// Drain implements drain.Work.
func (w cometWork) Drain() error {
	w.comet.Drain()
	return nil
}

// Undrain implements drain.Work.
func (w cometWork) Undrain() error {
	if err := w.comet.Undrain(); errors.Is(err, comet.ErrLeaving) {
		return drain.ErrLeaving
	}
	return nil
}

// Rebalance implements drain.Work.
func (w cometWork) Rebalance(sessions int) error {
	w.comet.Rebalance(sessions)
	return nil
}

// Status implements drain.Work.
func (w cometWork) Status() drain.Status {
	p := w.comet.Pacing()
	return drain.Status{
		Node: w.name, Tier: string(w.tier), Draining: p.Draining,
		Sessions: &drain.Sessions{Held: p.Connections, Moving: p.Moving, Rate: p.Rate},
	}
}

// logicWork is the work of a logic node.
type logicWork struct {
	name  string
	logic *logic.Logic
}

var _ drain.Work = logicWork{}

// Drain implements drain.Work.
func (w logicWork) Drain() error {
	w.logic.Drain()
	return nil
}

// Undrain implements drain.Work.
func (w logicWork) Undrain() error {
	w.logic.Undrain()
	return nil
}

// Rebalance implements drain.Work: partitions spread by themselves.
func (w logicWork) Rebalance(int) error { return drain.ErrNotHere }

// Status implements drain.Work.
func (w logicWork) Status() drain.Status {
	return drain.Status{
		Node: w.name, Tier: string(tierLogic), Draining: w.logic.Drained(),
		Partitions: &drain.Partitions{Held: w.logic.Partitions()},
	}
}

// jobWork is the work of a job node: any number of them share it, and one that stops leaves its part to the others at once.
type jobWork struct{ name string }

var _ drain.Work = jobWork{}

// Drain implements drain.Work.
func (jobWork) Drain() error { return drain.ErrNotHere }

// Undrain implements drain.Work.
func (jobWork) Undrain() error { return drain.ErrNotHere }

// Rebalance implements drain.Work.
func (jobWork) Rebalance(int) error { return drain.ErrNotHere }

// Status implements drain.Work.
func (w jobWork) Status() drain.Status { return drain.Status{Node: w.name, Tier: string(tierJob)} }

// setWork makes the node's work known to its admin port.
func (p *process) setWork(w drain.Work) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.work = w
}

func (p *process) currentWork() drain.Work {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.work
}
