package certs

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// Look is what happens when the time for it has come.
func (s *Source) Look() { s.look(false) }

// Clock moves a source's time.
type Clock struct{ ahead atomic.Int64 }

// Later is d later.
func (c *Clock) Later(d time.Duration) { c.ahead.Add(int64(d)) }

// Use gives a source of an authority's certificates a clock; before Run.
func (s *Source) Use(c *Clock) {
	s.acme.now = func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
}

// Turn is one turn of Run.
func (s *Source) Turn(ctx context.Context) {
	if s.acme.renew(ctx, s.current.Load()) {
		s.look(true)
	}
	s.warn(s.now())
	s.look(false)
}

// ListenHTTP is what Run does with an HTTPAddress.
func (s *Source) ListenHTTP(ctx context.Context) (net.Addr, func(), error) { return s.acme.listen(ctx) }
