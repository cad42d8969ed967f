package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/bus"
)

// reign is a held lease. It is for liveness, and for reads: writes are safe by the fence alone.
type reign struct {
	leases Leases
	log    *slog.Logger
	ttl    time.Duration
	margin time.Duration
	gone   chan struct{} // cap 1: the key is not ours any more

	mu    sync.Mutex
	lease *bus.Lease
	until time.Time // reads are answered before it
}

// leaseKey is the partition's key in the lease bucket.
func leaseKey(partition int) string { return "p." + strconv.Itoa(partition) }

// acquire takes the partition's lease. bus.ErrHeld: another node has it.
func acquire(ctx context.Context, leases Leases, partition int, node string, log *slog.Logger) (*reign, error) {
	r := &reign{leases: leases, log: log, ttl: leases.TTL(), margin: leases.TTL() / 8, gone: make(chan struct{}, 1)}
	value := node + " " + strconv.FormatInt(time.Now().UnixNano(), 36)
	l, err := leases.Acquire(ctx, leaseKey(partition), []byte(value))
	if err != nil {
		return nil, err
	}
	r.hold(l)
	return r, nil
}

func (r *reign) hold(l *bus.Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lease, r.until = l, l.Renewed.Add(r.ttl-r.margin)
}

// mayRead reports whether no other owner can be reading: on the monotonic clock, counted from the start of the last renewal.
func (r *reign) mayRead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.until)
}

// stopReads is for a hand-over: the successor may answer reads as soon as the key is free.
func (r *reign) stopReads() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = time.Time{}
}

// keep renews until ctx ends.
func (r *reign) keep(ctx context.Context) {
	ticker := time.NewTicker(r.ttl / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		l := *r.lease
		r.mu.Unlock()
		tryCtx, cancel := context.WithTimeout(ctx, r.ttl/2)
		err := r.leases.Renew(tryCtx, &l)
		cancel()
		switch {
		case err == nil:
			r.hold(&l)
		case errors.Is(err, bus.ErrGone):
			r.stopReads()
			select {
			case r.gone <- struct{}{}:
			default:
			}
		case ctx.Err() == nil:
			r.log.Warn("lease was not renewed", "err", err)
		}
	}
}

// reacquire takes the key again after it was lost.
func (r *reign) reacquire(ctx context.Context) error {
	r.mu.Lock()
	l := *r.lease
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, r.ttl)
	defer cancel()
	fresh, err := r.leases.Acquire(ctx, l.Key, l.Value)
	if err != nil {
		return fmt.Errorf("take the key again: %w", err)
	}
	r.hold(fresh)
	return nil
}

// release gives the key up at once.
func (r *reign) release() {
	r.stopReads()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r.mu.Lock()
	l := *r.lease
	r.mu.Unlock()
	if err := r.leases.Release(ctx, &l); err != nil && !errors.Is(err, bus.ErrGone) {
		r.log.Warn("lease was not released; it runs out", "err", err)
	}
}
