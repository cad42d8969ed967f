package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// run is one partition.
type run struct {
	*History
	f         Blocks
	partition string
	lastBatch time.Time
	held      time.Time // when all blocks in hand were new, or the server last heard of them
	some      int       // records that one write has at most
}

// lookEvery is the part of the linger after which it is seen that a batch is full.
const lookEvery = 8

// fetch takes what there is. What comes soon after the batch before it waits for more: a write to the store costs about the same for one record
// of a conversation as for ten.
func (r *run) fetch(ctx context.Context) ([]bus.Delivery, error) {
	ds, err := r.f.Fetch(ctx, r.cfg.BatchBlocks, r.cfg.BatchBytes, fetchWait)
	if err != nil || len(ds) == 0 {
		return nil, err
	}
	r.held = time.Now()
	ds = r.gather(ctx, ds)
	r.lastBatch = time.Now()
	return ds, nil
}

// gather adds what comes until the linger is over or the batch is full. What breaks that off breaks the next fetch, too.
func (r *run) gather(ctx context.Context, ds []bus.Delivery) []bus.Delivery {
	linger := time.Duration(r.cfg.LingerMs) * time.Millisecond
	end, size := r.lastBatch.Add(linger), sizeOf(ds)
	for len(ds) < r.cfg.BatchBlocks && size < r.cfg.BatchBytes {
		left := time.Until(end)
		if left <= 0 || ctx.Err() != nil {
			return ds
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(left, linger/lookEvery)):
		}
		more, err := r.f.Fetch(ctx, r.cfg.BatchBlocks-len(ds), r.cfg.BatchBytes-size, 0)
		if err != nil {
			return ds
		}
		ds, size = append(ds, more...), size+sizeOf(more)
	}
	return ds
}

func sizeOf(ds []bus.Delivery) (bytes int) {
	for _, d := range ds {
		bytes += len(d.Data)
	}
	return bytes
}

// piece is some blocks that are written together.
type piece struct {
	blocks  []bus.Delivery
	records []*logv1.Record
	bytes   int
}

// take writes and acknowledges the blocks. Those before a poisoned one are stored; those after it go back.
func (r *run) take(ctx context.Context, ds []bus.Delivery) error {
	var p piece
	for i, d := range ds {
		records, err := decode(d)
		if err != nil {
			werr := r.write(ctx, &p, ds[i:])
			r.giveBack(ds[i+1:])
			r.log.Error("a block cannot be stored; its partition stops here", "partition", r.partition, "block", d.Seq, "err", err)
			return errors.Join(fmt.Errorf("%w: block %d of partition %s: %w", ErrPoisoned, d.Seq, r.partition, err), werr)
		}
		p.blocks = append(p.blocks, d)
		p.records = append(p.records, records...)
		if p.bytes += len(d.Data); p.bytes >= r.cfg.WriteBytes || i == len(ds)-1 {
			if err := r.write(ctx, &p, ds[i+1:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// decode returns a block's records; none for a fence.
func decode(d bus.Delivery) ([]*logv1.Record, error) {
	var b logv1.Block
	if err := logblock.Decode(d.Data, &b); err != nil {
		return nil, err
	}
	switch b.Kind {
	case logv1.Kind_KIND_FENCE, logv1.Kind_KIND_DATA:
	default:
		return nil, fmt.Errorf("%w: kind %d", logblock.ErrCorrupt, b.Kind)
	}
	for _, rec := range b.Records {
		if err := store.CheckRecord(rec); err != nil {
			return nil, err
		}
	}
	return b.Records, nil
}

// write brings the piece into the store, however long that takes, acknowledges its blocks one by one and empties it. behind
// are the blocks that wait in this node's hands meanwhile.
func (r *run) write(ctx context.Context, p *piece, behind []bus.Delivery) error {
	if len(p.blocks) == 0 {
		return nil
	}
	if len(p.records) > 0 {
		if err := r.append(ctx, p, behind); err != nil {
			r.giveBack(p.blocks)
			r.giveBack(behind)
			return err
		}
	}
	for _, d := range p.blocks {
		if err := d.Ack(); err != nil {
			return fmt.Errorf("history: acknowledge block %d: %w", d.Seq, err) // it comes again
		}
	}
	r.m.blocks.Add(float64(len(p.blocks)))
	r.m.records.Add(float64(len(p.records)))
	*p = piece{}
	return nil
}

// A write that takes longer than it may is lost and begun anew. If all were as large as before, a store that is slow would do the same work again
// and again, and never be done: so they become smaller then, and larger while they take little time.
const (
	mostRecords   = 8192
	fewestRecords = 64
)

// append tries until the store has the records. The blocks in hand get more time as long as that takes.
func (r *run) append(ctx context.Context, p *piece, behind []bus.Delivery) error {
	pause := firstPause
	for left := p.records; len(left) > 0; {
		if time.Since(r.held) > r.ackWait()/4 {
			r.hold(p.blocks, behind)
		}
		some := left[:min(len(left), r.some)]
		took, err := r.try(ctx, some)
		switch {
		case err == nil:
			left, pause = left[len(some):], firstPause
			if took < r.mayTake()/4 {
				r.some = min(2*r.some, mostRecords)
			}
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrInvalid):
			r.log.Error("the store cannot hold a record; its partition stops here", "partition", r.partition,
				"first_block", p.blocks[0].Seq, "last_block", p.blocks[len(p.blocks)-1].Seq, "err", err)
			return fmt.Errorf("%w: partition %s: %w", ErrPoisoned, r.partition, err)
		case errors.Is(err, store.ErrClosed):
			return err
		}
		r.hold(p.blocks, behind)
		if errors.Is(err, errWriters) {
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) {
			r.some = max(len(some)/2, fewestRecords)
		}
		r.m.errors.Inc()
		r.log.Warn("store refuses; trying again", "partition", r.partition, "records", len(some), "pause", pause, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause, r.ackWait()/4)
	}
	return nil
}

// errWriters: other partitions kept all writers for a while.
var errWriters = errors.New("history: all writers are at work")

// mayTake is the time that one write has. With the wait for a writer, half of it at most, that is half of what blocks may stay in hand.
func (h *History) mayTake() time.Duration { return h.ackWait() / 3 }

// try writes once, and says how long that took. It holds a writer no longer than that: while one partition pauses, another may write.
func (r *run) try(ctx context.Context, records []*logv1.Record) (took time.Duration, err error) {
	full := time.NewTimer(r.mayTake() / 2)
	defer full.Stop()
	select {
	case r.writers <- struct{}{}:
	case <-full.C:
		return 0, errWriters
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-r.writers }()
	ctx, cancel := context.WithTimeout(ctx, r.mayTake())
	defer cancel()
	start := time.Now()
	if err := r.store.Append(ctx, records); err != nil {
		return 0, err
	}
	took = time.Since(start)
	r.m.seconds.Observe(took.Seconds())
	return took, nil
}

// hold asks for more time. A word that is lost lets the block go to another node, which writes the same.
func (r *run) hold(blocks, behind []bus.Delivery) {
	for _, d := range blocks {
		_ = d.InProgress()
	}
	for _, d := range behind {
		_ = d.InProgress()
	}
	r.held = time.Now()
}

// giveBack lets another node have the blocks at once. A word that is lost means that it has them after ack_wait.
func (r *run) giveBack(ds []bus.Delivery) {
	for _, d := range ds {
		_ = d.Nak(0)
	}
}
