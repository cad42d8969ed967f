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

const (
	// leaseTry is how long an answer is waited for, at most, before it counts as lost.
	leaseTry = 5 * time.Second
	// leasePause is between two tries.
	leasePause = 50 * time.Millisecond
	// leastPatience is how long a lease is asked for in all, at the least.
	leastPatience = 5 * time.Second
	// maxRelease is how long a process that ends waits for it.
	maxRelease = 5 * time.Second
)

// insist asks again as long as f has no answer, within the time: one that was lost, or a disk that stalls, would otherwise leave a partition
// without an owner for the lease's whole life. Whatever f says is returned, and a server that cannot be reached says so at once.
// f is safe to repeat.
func insist(ctx context.Context, within time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		tryCtx, cancel := context.WithTimeout(ctx, min(leaseTry, within/2))
		err := f(tryCtx)
		cancel()
		if unanswered := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, bus.ErrUnsettled); !unanswered || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(leasePause):
		}
	}
}

// acquire takes the partition's lease. bus.ErrHeld: another node has it.
func acquire(ctx context.Context, leases Leases, partition int, node string, log *slog.Logger) (*reign, error) {
	r := &reign{leases: leases, log: log, ttl: leases.TTL(), margin: leases.TTL() / 8, gone: make(chan struct{}, 1)}
	value := node + " " + strconv.FormatInt(time.Now().UnixNano(), 36)
	var l *bus.Lease
	err := insist(ctx, max(r.ttl/4, leastPatience), func(ctx context.Context) (err error) {
		l, err = leases.Acquire(ctx, leaseKey(partition), []byte(value))
		return err
	})
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
	r.mu.Lock()
	l := *r.lease
	r.mu.Unlock()
	err := insist(context.Background(), min(r.ttl/2, maxRelease), func(ctx context.Context) error { return r.leases.Release(ctx, &l) })
	if err != nil && !errors.Is(err, bus.ErrGone) {
		r.log.Warn("lease was not released; it runs out", "err", err)
	}
}
