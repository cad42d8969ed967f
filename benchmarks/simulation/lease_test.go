package simulation

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/bus"
)

// leaseServer is a bucket of NATS KV with a time to live.
type leaseServer struct {
	w    *world
	down faultyUntil
	ttl  time.Duration

	mu       sync.Mutex
	value    []byte // of the one key there is
	revision uint64
	ends     time.Time
}

// held is the value, unless it has run out.
func (s *leaseServer) held() []byte {
	if time.Now().Before(s.ends) {
		return s.value
	}
	return nil
}

func (s *leaseServer) put(value []byte) uint64 {
	s.revision++
	s.value, s.ends = value, time.Now().Add(s.ttl)
	return s.revision
}

// leaseClient is a process's way to the bucket.
type leaseClient struct {
	p    *proc
	dice *dice
}

var _ partition.Leases = (*leaseClient)(nil)

func (c *leaseClient) TTL() time.Duration { return c.p.w.leases.ttl }

func (c *leaseClient) call(ctx context.Context, fn func(s *leaseServer) (uint64, error)) (uint64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s := c.p.w.leases
	return call(ctx, c.p, c.p.w.trip(c.dice), func() (uint64, error) {
		if s.down.is() {
			return 0, errRefused
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return fn(s)
	})
}

// Acquire knows its own value again after an answer was lost, and then counts from its start.
func (c *leaseClient) Acquire(ctx context.Context, key string, value []byte) (*bus.Lease, error) {
	start := time.Now()
	rev, err := c.call(ctx, func(s *leaseServer) (uint64, error) {
		if held := s.held(); held != nil && !bytes.Equal(held, value) {
			return 0, bus.ErrHeld
		}
		c.p.w.step("lease: %s has it", c.p.name)
		return s.put(value), nil
	})
	if err != nil {
		return nil, err
	}
	return &bus.Lease{Key: key, Value: value, Revision: rev, Renewed: start}, nil
}

// Renew extends what is still this holder's, whatever answers were lost before.
func (c *leaseClient) Renew(ctx context.Context, l *bus.Lease) error {
	start := time.Now()
	rev, err := c.call(ctx, func(s *leaseServer) (uint64, error) {
		if !bytes.Equal(s.held(), l.Value) {
			return 0, bus.ErrGone
		}
		return s.put(l.Value), nil
	})
	if err == nil {
		l.Revision, l.Renewed = rev, start
	}
	return err
}

func (c *leaseClient) Release(ctx context.Context, l *bus.Lease) error {
	_, err := c.call(ctx, func(s *leaseServer) (uint64, error) {
		if s.held() == nil || s.revision != l.Revision {
			return 0, bus.ErrGone
		}
		c.p.w.step("lease: %s gives it up", c.p.name)
		s.value = nil
		return 0, nil
	})
	return err
}
