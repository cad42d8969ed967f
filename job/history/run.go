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

// append tries until the store has the records. The blocks in hand get more time as long as that takes.
func (r *run) append(ctx context.Context, p *piece, behind []bus.Delivery) error {
	pause := firstPause
	for {
		err := r.try(ctx, p.records)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrInvalid):
			r.log.Error("the store cannot hold a record; its partition stops here", "partition", r.partition,
				"first_block", p.blocks[0].Seq, "last_block", p.blocks[len(p.blocks)-1].Seq, "err", err)
			return fmt.Errorf("%w: partition %s: %w", ErrPoisoned, r.partition, err)
		case errors.Is(err, store.ErrClosed):
			return err
		}
		r.hold(p.blocks)
		r.hold(behind)
		if errors.Is(err, errWriters) {
			continue
		}
		r.m.errors.Inc()
		r.log.Warn("store refuses; trying again", "partition", r.partition, "records", len(p.records), "pause", pause, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause, r.ackWait()/4)
	}
}

// errWriters: other partitions kept all writers for a while.
var errWriters = errors.New("history: all writers are at work")

// try writes once, and takes less than a third of the time that blocks may stay in hand. It holds a writer no longer than
// that: while one partition pauses, another may write.
func (r *run) try(ctx context.Context, records []*logv1.Record) error {
	ctx, cancel := context.WithTimeout(ctx, r.ackWait()/3)
	defer cancel()
	select {
	case r.writers <- struct{}{}:
	case <-ctx.Done():
		return errWriters
	}
	defer func() { <-r.writers }()
	start := time.Now()
	if err := r.store.Append(ctx, records); err != nil {
		return err
	}
	r.m.seconds.Observe(time.Since(start).Seconds())
	return nil
}

// hold asks for more time. A word that is lost lets the block go to another node, which writes the same.
func (r *run) hold(ds []bus.Delivery) {
	for _, d := range ds {
		_ = d.InProgress()
	}
}

// giveBack lets another node have the blocks at once. A word that is lost means that it has them after ack_wait.
func (r *run) giveBack(ds []bus.Delivery) {
	for _, d := range ds {
		_ = d.Nak(0)
	}
}
