package partition

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// tail is the log above history's floor as it lies in memory: block by block, which conversations have records there. Of the newest
// blocks the records are held, up to a bound in bytes; of those before them there is only the index in the conversations' windows.
type tail struct {
	bytes   int // of what is held
	records int // in all blocks; a name that joined or left counts like one
	blocks  []tailBlock
	evicted int // so many of blocks, the oldest, are not held
}

type tailBlock struct {
	seq     uint64
	timeUs  int64 // of its last record
	bytes   int
	records int
	cells   []*cell
}

func (t *tail) add(seq uint64, r *logv1.Record, c *cell) {
	last := len(t.blocks) - 1
	if last < 0 || t.blocks[last].seq != seq {
		t.blocks = append(t.blocks, tailBlock{seq: seq})
		last++
	}
	b := &t.blocks[last]
	names := len(r.Joined) + len(r.Left)
	bytes := len(r.Body) + recordOverhead/2 + 32*names
	b.timeUs = r.TimeUs
	b.bytes += bytes
	b.records += 1 + names
	t.bytes += bytes
	t.records += 1 + names
	if k := len(b.cells); k == 0 || b.cells[k-1] != c {
		b.cells = append(b.cells, c)
	}
}

// stored forgets the blocks up to floor and calls trim for their conversations: one in which nobody writes any more would
// otherwise hold for ever what an hour without the store had it hold.
func (t *tail) stored(floor uint64, trim func(c *cell)) {
	i := 0
	for ; i < len(t.blocks) && t.blocks[i].seq <= floor; i++ {
		b := &t.blocks[i]
		t.records -= b.records
		if i >= t.evicted {
			t.bytes -= b.bytes
		}
		for _, c := range b.cells {
			trim(c)
		}
	}
	if i > 0 {
		n := copy(t.blocks, t.blocks[i:])
		clear(t.blocks[n:])
		t.blocks = t.blocks[:n]
		t.evicted = max(0, t.evicted-i)
		if cap(t.blocks) > 1024 && n < cap(t.blocks)/8 {
			t.blocks = slices.Clone(t.blocks)
		}
	}
}

// evict lets go of the oldest blocks until no more than most bytes are held, and calls gone for their conversations.
func (t *tail) evict(most int, gone func(block uint64, c *cell)) {
	for ; t.bytes > most && t.evicted < len(t.blocks); t.evicted++ {
		b := &t.blocks[t.evicted]
		t.bytes -= b.bytes
		for _, c := range b.cells {
			gone(b.seq, c)
		}
	}
}

// full: the rest is for what must be written for history to go on.
func (t *tail) full(percent int64, most int) bool { return int64(t.records) > int64(most)*percent/100 }

// noteFloor takes what history has stored up to now.
func (o *owner) noteFloor(floor uint64) {
	o.floor = max(o.floor, floor)
	o.bound()
}

// bound keeps what is in memory of the tail within its bounds.
func (o *owner) bound() {
	o.tail.stored(o.trimTo(), o.trim)
	o.tail.evict(o.cfg.TailBytes, func(block uint64, c *cell) { c.Evict(block, o.floorOf(c), !c.loaded) })
}

func (o *owner) trim(c *cell) { c.Trim(o.floorOf(c), o.cfg.WindowRecords) }

// floorOf is up to which block a conversation may forget what it has. One for which the store is being read forgets nothing: it may have been
// read before it had what it has now.
func (o *owner) floorOf(c *cell) uint64 {
	if c.loading {
		return 0
	}
	return o.trimTo()
}

// trimTo is up to which block the store is enough. Before a reign that is not all up to the floor: the log's last seconds are
// delivered again.
func (o *owner) trimTo() uint64 {
	if o.delivered || len(o.tail.blocks) == 0 {
		return o.floor
	}
	recent := o.recentBlock()
	return min(o.floor, o.tail.blocks[recent].seq-1)
}

// recentBlock is the place in the tail of the first block that is delivered again.
func (o *owner) recentBlock() int {
	blocks := o.tail.blocks
	since := blocks[len(blocks)-1].timeUs - int64(o.cfg.RedeliverWithinMs)*1000
	at, _ := slices.BinarySearchFunc(blocks, since, func(b tailBlock, t int64) int {
		if b.timeUs < t {
			return -1
		}
		return 1
	})
	return at
}

// logged reads records from the log, outside the partition's goroutine, in the order of their places. A block at a time is in memory.
func (o *owner) logged(ctx context.Context, c store.Conversation, places []state.Place) ([]*logv1.Record, error) {
	out := make([]*logv1.Record, 0, len(places))
	for len(places) > 0 {
		n := 1
		for n < len(places) && places[n].Block == places[0].Block {
			n++
		}
		records, err := o.fromBlock(ctx, c, places[:n])
		if err != nil {
			return nil, err
		}
		out, places = append(out, records...), places[n:]
	}
	return out, nil
}

// fromBlock reads records of one block.
func (o *owner) fromBlock(ctx context.Context, c store.Conversation, places []state.Place) ([]*logv1.Record, error) {
	o.metrics.logReads.Inc()
	block := places[0].Block
	m, err := o.Log.Get(ctx, block)
	if errors.Is(err, bus.ErrNoMessage) { // Trimmed since: it is in the store.
		return o.stored(ctx, c, places)
	}
	if err != nil {
		return nil, fmt.Errorf("read block %d again: %w", block, err)
	}
	b := &logv1.Block{}
	if err := logblock.Decode(m.Data, b); err != nil {
		return nil, fmt.Errorf("read block %d again: %w", block, err)
	}
	out := make([]*logv1.Record, 0, len(places))
	for _, r := range b.Records { // Both rise.
		if len(out) < len(places) && r.Seq == places[len(out)].Seq && r.Conversation == c.ID && r.App == c.App {
			out = append(out, owned(r))
		}
	}
	if len(out) < len(places) {
		return nil, fmt.Errorf("read block %d again: it does not have %s %d: %w", block, c.ID, places[len(out)].Seq, logblock.ErrCorrupt)
	}
	return out, nil
}

// stored reads records from the store, one by one: what lies between them may be nobody's business here.
func (o *owner) stored(ctx context.Context, c store.Conversation, places []state.Place) ([]*logv1.Record, error) {
	out := make([]*logv1.Record, 0, len(places))
	for _, p := range places {
		records, err := o.Services.Store.Range(ctx, c, p.Seq, p.Seq, 1, false)
		if err != nil {
			return nil, err
		}
		out = append(out, records...)
	}
	return out, nil
}
