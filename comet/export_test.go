package comet

import (
	"time"
	"unsafe"
)

// SessionBytes is the size of a session.
const SessionBytes = unsafe.Sizeof(session{})

// SetLease shortens the lease's times; before Run only.
func (c *Comet) SetLease(ttl, renewEvery time.Duration) { c.ttl, c.renewEvery = ttl, renewEvery }
