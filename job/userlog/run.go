package userlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

const (
	// Progress is remembered of so many blocks; beyond it the oldest work is done again, which changes nothing.
	mostProgress = 1024
	// Rows written with one call.
	storeBatch = 500
	// Once its floor is at a block, the store has everything of before: a join that it lacks then will not come any more.
	historyFollower = "history"
	// Of a block that fails again and again, so many deliveries pass between two lines in the log.
	logEvery = 20
	// The pause before a block is tried again doubles so many times.
	retryDoubles = 5
	// However slow an owner is, it is asked for so many records at once.
	fewestStandings = 8
)

// run is one partition. Its methods are for one goroutine, but for those of a batch.
type run struct {
	*Userlog
	f         *bus.Follower
	partition int
	// What was done of blocks that are not acknowledged yet, by sequence.
	progress map[uint64]*progress
	// How many records one request asks of the owner of each partition: one that did not answer in time is asked for half as many, for it
	// has done all that work, and does it again with the next request. Who asks it has its place alone.
	most []int
}

// progress keeps a block of 10,000 joins from being done again from the start because one owner was away.
type progress struct {
	notices []notice
	rows    map[string][]store.UserStanding
	touches map[string][]store.Touch
	done    []bool // of notices: the owner has it
	listed  bool   // the store has the rows
	touched bool
}

// item is one notice on its way.
type item struct {
	notice
	block *work
	index int
}

// work is one delivery and where it stands.
type work struct {
	d bus.Delivery
	*progress
	mu     sync.Mutex
	failed error // guarded by mu
}

func (w *work) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = err
	}
}

// take does all that follows from the blocks. One that is done is acknowledged; one that is not goes back for a while.
func (r *run) take(ctx context.Context, ds []bus.Delivery) error {
	var works []*work
	var poison error
	for i, d := range ds {
		p, err := r.open(d)
		if err != nil {
			r.log.Error("a block cannot be read; its partition stops here", "partition", r.partition, "block", d.Seq, "err", err)
			poison = fmt.Errorf("%w: block %d of partition %d: %w", ErrPoisoned, d.Seq, r.partition, err)
			for _, later := range ds[i+1:] {
				_ = later.Nak(0) // lost: it comes after ack_wait
			}
			break
		}
		works = append(works, &work{d: d, progress: p})
	}
	stop := r.hold(works)
	r.notify(ctx, works)
	r.list(ctx, works)
	r.touch(ctx, works)
	stop()
	for _, w := range works {
		if err := r.settle(w); err != nil {
			return err
		}
	}
	return errors.Join(poison, ctx.Err())
}

func (r *run) open(d bus.Delivery) (*progress, error) {
	if p := r.progress[d.Seq]; p != nil {
		return p, nil
	}
	var b logv1.Block
	if err := logblock.Decode(d.Data, &b); err != nil {
		return nil, err
	}
	notices, rows, touches, err := derive(&b)
	if err != nil {
		return nil, err
	}
	return &progress{notices: notices, rows: rows, touches: touches, done: make([]bool, len(notices))}, nil
}

// hold asks for more time for the blocks while they are worked on.
func (r *run) hold(works []*work) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Duration(r.cfg.AckWaitMs) * time.Millisecond / 3)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				for _, w := range works {
					_ = w.d.InProgress() // lost: another node does the same work
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (r *run) settle(w *work) error {
	if w.failed == nil {
		delete(r.progress, w.d.Seq)
		r.m.blocks.Inc()
		if err := w.d.Ack(); err != nil {
			return fmt.Errorf("userlog: acknowledge block %d: %w", w.d.Seq, err) // it comes again
		}
		return nil
	}
	if len(r.progress) >= mostProgress {
		clear(r.progress) // some went to other nodes and will never be asked for
	}
	r.progress[w.d.Seq] = w.progress
	r.m.retries.Inc()
	if w.d.Redelivered%logEvery == 0 {
		r.log.Warn("users' logs could not be written; trying again", "partition", r.partition, "block", w.d.Seq,
			"redelivered", w.d.Redelivered, "err", w.failed)
	}
	// Who cannot write now can least of all while all that waits is tried again at once.
	pause := time.Duration(r.cfg.RetryMs) * time.Millisecond << min(w.d.Redelivered, retryDoubles)
	if err := w.d.Nak(pause); err != nil {
		return fmt.Errorf("userlog: give back block %d: %w", w.d.Seq, err)
	}
	return nil
}

// notify asks the owners for the records, the requests to different owners side by side, and those to one in order.
func (r *run) notify(ctx context.Context, works []*work) {
	targets := map[int][]item{}
	for _, w := range works {
		for i, n := range w.notices {
			if !w.done[i] {
				p := protocol.Partition(n.app, protocol.UserLog(n.user), r.partitions)
				targets[p] = append(targets[p], item{n, w, i})
			}
		}
	}
	var wg sync.WaitGroup
	for p, items := range targets {
		wg.Go(func() {
			for len(items) > 0 {
				part := items[:min(len(items), r.most[p])]
				r.notifyOwner(ctx, p, part)
				items = items[len(part):]
			}
		})
	}
	wg.Wait()
}

func (r *run) notifyOwner(ctx context.Context, p int, items []item) {
	items = r.withJoinedSeq(ctx, items)
	if len(items) == 0 {
		return
	}
	late := false
	for i, err := range r.ask(ctx, p, items) {
		it := items[i]
		if err != nil {
			late = late || errors.Is(err, context.DeadlineExceeded)
			it.block.fail(err)
			continue
		}
		it.block.done[it.index] = true // each index is one goroutine's
	}
	switch {
	case late:
		r.most[p] = max(len(items)/2, min(fewestStandings, r.cfg.RequestStandings))
	case len(items) == r.most[p]: // Back step by step: each that is too large costs a timeout.
		r.most[p] = min(r.most[p]+max(r.most[p]/8, 1), r.cfg.RequestStandings)
	}
}

// list puts into users' lists what their logs tell. The store follows the log: so a list never names what the user's devices are not
// told, and the owner of the log knows from the two together what it has told, however late the store is.
func (r *run) list(ctx context.Context, works []*work) {
	apps := map[string][]owned[store.UserStanding]{}
	for _, w := range works {
		if !w.listed {
			for app, rows := range w.rows {
				apps[app] = gather(apps[app], w, rows)
			}
		}
	}
	failed := inBatches(ctx, r, apps, r.store.PutStandings)
	for _, w := range works {
		w.listed = w.listed || !failed[w]
	}
}

// withJoinedSeq completes, from the store, the standings of which the log does not say since when, and drops those for which that is not
// possible yet: what the store says before it has all that the log has may be the end of a time before.
func (r *run) withJoinedSeq(ctx context.Context, items []item) []item {
	out := make([]item, 0, len(items))
	stored := map[uint64]error{} // by block
	for _, it := range items {
		if it.standing.JoinedSeq != 0 {
			out = append(out, it)
			continue
		}
		block := it.block.d.Seq
		err, asked := stored[block]
		if !asked {
			err = r.stored(ctx, block)
			stored[block] = err
		}
		if err == nil {
			it.standing.JoinedSeq, err = r.joined(ctx, it)
		}
		if err != nil {
			it.block.fail(err)
			continue
		}
		if it.standing.JoinedSeq == 0 {
			r.log.Warn("a user is or was a member whose join nobody knows", "app", it.app, "conversation", it.standing.Conversation, "seq", it.standing.Seq)
		}
		out = append(out, it)
	}
	return out
}

func (r *run) joined(ctx context.Context, it item) (uint64, error) {
	release, err := r.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	intervals, err := r.store.Intervals(ctx, store.Conversation{App: it.app, ID: it.standing.Conversation}, it.user)
	if err != nil {
		return 0, err
	}
	return joinedBefore(intervals, it.standing.Seq), nil
}

// stored returns an error until history has done with the block.
func (r *run) stored(ctx context.Context, block uint64) error {
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	floor, err := r.f.Log().Floor(ctx, historyFollower, false)
	if err == nil && floor < block {
		err = errors.New("the store does not have the join yet")
	}
	return err
}

// touch brings the conversations to the top of the lists of those who were active.
func (r *run) touch(ctx context.Context, works []*work) {
	apps := map[string][]owned[store.Touch]{}
	for _, w := range works {
		if !w.touched {
			for app, touches := range w.touches {
				apps[app] = gather(apps[app], w, touches)
			}
		}
	}
	failed := inBatches(ctx, r, apps, func(ctx context.Context, app string, ts []store.Touch) error {
		err := r.store.Touch(ctx, app, ts)
		if err == nil {
			r.m.touches.Add(float64(len(ts)))
		}
		return err
	})
	for _, w := range works {
		w.touched = w.touched || !failed[w]
	}
}

// owned is a row for the store, and the block from which it follows.
type owned[T any] struct {
	*work
	row T
}

func gather[T any](dst []owned[T], w *work, rows []T) []owned[T] {
	for _, row := range rows {
		dst = append(dst, owned[T]{w, row})
	}
	return dst
}

// inBatches writes rows of each app to the store, some with one call. It tries all, and returns the blocks that have rows which are not stored.
func inBatches[T any](ctx context.Context, r *run, apps map[string][]owned[T], write func(context.Context, string, []T) error) map[*work]bool {
	failed := map[*work]bool{}
	for app, all := range apps {
		for some := range slices.Chunk(all, storeBatch) {
			rows := make([]T, len(some))
			for i := range some {
				rows[i] = some[i].row
			}
			if err := r.write(ctx, func(ctx context.Context) error { return write(ctx, app, rows) }); err != nil {
				for _, o := range some {
					o.fail(err)
					failed[o.work] = true
				}
			}
		}
	}
	return failed
}

// write makes one call of the store.
func (r *run) write(ctx context.Context, call func(context.Context) error) error {
	release, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	return call(ctx)
}

// acquire waits for a place among the calls under way.
func (r *run) acquire(ctx context.Context) (release func(), err error) {
	select {
	case r.calls <- struct{}{}:
		return func() { <-r.calls }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *run) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(r.cfg.RequestTimeoutMs)*time.Millisecond)
}
