package comet

import (
	"time"
	"unsafe"
)

// SessionBytes is the size of a session.
const SessionBytes = unsafe.Sizeof(session{})

// SetLease shortens the lease's times; before Run only.
func (c *Comet) SetLease(ttl, renewEvery time.Duration) { c.ttl, c.renewEvery = ttl, renewEvery }

// SetSettle shortens how long presence counts as away after a failure; before Run only.
func (c *Comet) SetSettle(d time.Duration) { c.settle = d }

// SetLeaveAfter shortens how long a room is kept without a member; before Run only.
func (c *Comet) SetLeaveAfter(d time.Duration) { c.keeper.leaveAfter = d }

// SetUsage puts other words of what the process uses in place of the true ones, and asks for them often; before Run only. cpu is a share.
func (c *Comet) SetUsage(read func() (live, limit uint64, cpu float64)) {
	c.gate.guards.every = 10 * time.Millisecond
	c.gate.guards.read = func() usage {
		live, limit, cpu := read()
		return usage{live, limit, cpu}
	}
}

// Addresses is how many addresses the comet counts connections of.
func (c *Comet) Addresses() int {
	a := &c.gate.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.count)
}

// Refusals is how many refused connections wait to be told.
func (c *Comet) Refusals() int64 { return c.refusals.Load() }

// Ticks is the coarse clock.
func (c *Comet) Ticks() uint32 { return c.clock.ticks() }
