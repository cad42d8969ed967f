package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/halley-im/halley/pkg/presence"
)

// rememberEpochs outlives every step of a clock that anybody lets pass.
const rememberEpochs = 24 * time.Hour

// Acquire starts a lease for the node, in place of any it had.
func (r *Registry) Acquire(ctx context.Context, node string) (epoch uint64, err error) {
	err = r.call(ctx, "acquire", callTimeout, nil, func(ctx context.Context) error {
		until, err := r.until(ctx)
		if err != nil {
			return err
		}
		text, err := acquireScript.Run(ctx, r.client, []string{nodeKey(node), lastKey(node)},
			until, presence.TTL.Milliseconds(), int(rememberEpochs.Seconds())).Text()
		if err != nil {
			r.checkLate(err)
			return err
		}
		epoch, err = strconv.ParseUint(text, 10, 64)
		return err
	})
	if err == nil {
		r.leases.learn(node, epoch, 0, r.now())
	}
	return epoch, err
}

// Renew extends the lease.
func (r *Registry) Renew(ctx context.Context, node string, epoch uint64) error {
	held := false
	err := r.call(ctx, "renew", callTimeout, nil, func(ctx context.Context) (err error) {
		held, err = renewScript.Run(ctx, r.client, []string{nodeKey(node), lastKey(node)},
			strconv.FormatUint(epoch, 10), presence.TTL.Milliseconds(), int(rememberEpochs.Seconds())).Bool()
		return err
	})
	if err == nil && !held {
		return fmt.Errorf("%w: %s, epoch %d", presence.ErrLost, node, epoch)
	}
	return err
}

// Release ends the lease at once; other processes notice within staleness.
func (r *Registry) Release(ctx context.Context, node string, epoch uint64) error {
	held := false
	err := r.call(ctx, "release", callTimeout, nil, func(ctx context.Context) (err error) {
		held, err = releaseScript.Run(ctx, r.client, []string{nodeKey(node)}, strconv.FormatUint(epoch, 10)).Bool()
		return err
	})
	if err == nil && held {
		r.leases.learn(node, 0, epoch, r.now())
	}
	return err
}

// leaseReads are reads of nodes' leases that stand in a pipeline.
type leaseReads struct {
	r     *Registry
	start time.Time
	reads []leaseRead
}

type leaseRead struct {
	node string
	upTo uint64 // absence means that this epoch and all before are over
	cmd  *goredis.StringCmd
}

func (l *leaseReads) add(ctx context.Context, p goredis.Pipeliner, node string, upTo uint64) {
	l.reads = append(l.reads, leaseRead{node, upTo, p.Get(ctx, nodeKey(node))})
}

// apply remembers what the pipeline answered.
func (l *leaseReads) apply() error {
	for _, read := range l.reads {
		epoch, err := read.cmd.Uint64()
		switch {
		case errors.Is(err, goredis.Nil):
			l.r.leases.learn(read.node, 0, read.upTo, l.start)
		case err != nil:
			return fmt.Errorf("lease of %s: %w", read.node, err)
		default:
			l.r.leases.learn(read.node, epoch, 0, l.start)
		}
	}
	return nil
}

// refresh adds reads of the leases that are in use to the pipeline of one look-up a second, so that the others need not
// wait for a second pipeline.
func (r *Registry) refresh(ctx context.Context, p goredis.Pipeliner) *leaseReads {
	l := &leaseReads{r: r, start: r.now()}
	last := r.lastRefresh.Load()
	if l.start.UnixNano()-last < int64(staleness/2) || !r.lastRefresh.CompareAndSwap(last, l.start.UnixNano()) {
		return l
	}
	for node, epoch := range r.leases.inUse() {
		l.add(ctx, p, node, epoch)
	}
	return l
}

// resolve finds out which of the entries count; it asks Redis only about nodes of which too little is remembered. The leases
// are read after the entries, so an entry whose node has no lease is dead for good.
func (r *Registry) resolve(ctx context.Context, entries []presence.Entry) (*liveness, error) {
	now := r.now()
	live, unknown := r.leases.judge(entries, now)
	if len(unknown) == 0 {
		return live, nil
	}
	l := &leaseReads{r: r, start: now}
	p := r.client.Pipeline()
	for node, epoch := range unknown {
		l.add(ctx, p, node, epoch)
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	if err := l.apply(); err != nil {
		return nil, err
	}
	// Who is still unknown has an epoch above the one its node holds: no such lease.
	live, _ = r.leases.judge(entries, now)
	return live, nil
}
