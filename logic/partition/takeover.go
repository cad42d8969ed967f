package partition

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// takeOver rebuilds the state from the log, from history's floor to the tail, and appends a fence. Where another owner has
// written meanwhile it reads on and tries again.
func (o *owner) takeOver(ctx context.Context) error {
	start := time.Now()
	if !o.begun {
		if err := o.begin(ctx); err != nil {
			return err
		}
	}
	for {
		if err := o.catchUp(ctx); err != nil {
			return err
		}
		select {
		case <-o.reign.gone: // Whoever has it now is not to be deposed by one who came late.
			return errTooLate
		default:
		}
		epoch := o.epoch
		if epoch == 0 { // A log whose blocks were all trimmed: no epoch ever was above the number of blocks.
			epoch = o.last
		}
		err := o.fence(ctx, epoch+1)
		if err == nil {
			break
		}
		if !errors.Is(err, errDeposed) {
			return fmt.Errorf("fence: %w", err)
		}
	}
	o.metrics.takeovers.Inc()
	o.metrics.takeoverTime.Observe(time.Since(start).Seconds())
	o.Logger.Info("partition taken over", "epoch", o.epoch, "block", o.last, "floor", o.floor, "conversations", len(o.cells),
		"took", time.Since(start).Round(time.Millisecond))
	return nil
}

// begin finds where to read from, and reads to the tail.
func (o *owner) begin(ctx context.Context) error {
	floor, err := o.Floor(ctx)
	if err != nil {
		return fmt.Errorf("history's floor: %w", err)
	}
	toldTo, err := o.UserlogFloor(ctx)
	if err != nil {
		return fmt.Errorf("the floor of users' logs: %w", err)
	}
	logState, err := o.Log.State(ctx)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if logState.Last >= logState.First && logState.First > floor+1 {
		return fmt.Errorf("the log begins at %d, but history has only up to %d", logState.First, floor)
	}
	// At least the last block is read, for its epoch, time and CRC, and some before it, to be delivered again. And everything of which
	// users' logs may not tell yet, for so long joins and leaves are not known everywhere.
	recent, err := o.recent(ctx, logState)
	if err != nil {
		return fmt.Errorf("the log's last seconds: %w", err)
	}
	from := max(logState.First, min(floor+1, toldTo+1, recent))
	o.room = room{bytes: logState.Bytes, most: logState.MaxBytes}
	o.floor, o.toldTo, o.last, o.begun = floor, toldTo, lowered(from, 1), true
	return o.catchUp(ctx)
}

// recent finds the first block of the log's last seconds, which are delivered again.
func (o *owner) recent(ctx context.Context, s bus.LogState) (uint64, error) {
	if s.Last == 0 || s.Last < s.First {
		return s.Last, nil
	}
	timeUs := func(seq uint64) (int64, error) {
		m, err := o.Log.Get(ctx, seq)
		if errors.Is(err, bus.ErrNoMessage) && seq < s.Last {
			return 0, nil // Trimmed meanwhile: older than all.
		}
		if err != nil {
			return 0, err
		}
		var b logv1.Block
		if err := logblock.Decode(m.Data, &b); err != nil {
			return 0, fmt.Errorf("block %d: %w", seq, err)
		}
		return b.TimeUs, nil
	}
	newest, err := timeUs(s.Last)
	if err != nil {
		return 0, err
	}
	since := newest - int64(o.cfg.RedeliverWithinMs)*1000
	low, high := max(s.First, lowered(s.Last, redeliverBlocks)), s.Last // high is recent, what is below low is not asked for
	for low < high {
		middle := low + (high-low)/2
		at, err := timeUs(middle)
		if err != nil {
			return 0, err
		}
		if at >= since {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low, nil
}

// redeliverBlocks bounds how far back a new owner reads for what it delivers again.
const redeliverBlocks = 20_000

func lowered(n, by uint64) uint64 {
	if n <= by {
		return 0
	}
	return n - by
}

// catchUp reads from o.last to the tail as it is now.
func (o *owner) catchUp(ctx context.Context) error {
	err := o.Log.Scan(ctx, o.last+1, func(m bus.Message) error {
		b := &logv1.Block{}
		if err := logblock.Decode(m.Data, b); err != nil {
			return fmt.Errorf("block %d: %w", m.Seq, err)
		}
		crc, err := logblock.CRC(m.Data)
		if err != nil {
			return fmt.Errorf("block %d: %w", m.Seq, err)
		}
		if o.crc != 0 && b.PrevCrc != o.crc {
			return fmt.Errorf("block %d follows a block with CRC %08x, but the one before has %08x: %w", m.Seq, b.PrevCrc, o.crc, logblock.ErrCorrupt)
		}
		if b.Epoch < o.epoch {
			return fmt.Errorf("block %d of epoch %d stands behind epoch %d: %w", m.Seq, b.Epoch, o.epoch, logblock.ErrCorrupt)
		}
		o.last, o.crc, o.epoch, o.timeUs = m.Seq, crc, b.Epoch, max(o.timeUs, b.TimeUs)
		for _, r := range b.Records {
			o.replay(r, m.Seq)
		}
		o.bound()
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	return nil
}

// replay puts a record of the log back into memory. Who was a member is known only once the store was read too (load).
func (o *owner) replay(r *logv1.Record, block uint64) {
	c := o.cells[key{r.App, r.Conversation}]
	if c == nil {
		c = o.newCell(r.App, r.Conversation)
	}
	// Everything decoded from a block shares its bytes; a record that is kept must not keep all the others.
	r = owned(r)
	c.Apply(r, block)
	o.note(c, r, block)
	o.apply(c, r) // Now, for the window may let go of it before the store's lists have what it says.
	o.tail.add(block, r, c)
	o.timeUs = max(o.timeUs, r.TimeUs)
}

// owned returns a copy of r that shares no memory.
func owned(r *logv1.Record) *logv1.Record {
	out := &logv1.Record{}
	data, err := r.MarshalVT()
	if err == nil {
		err = out.UnmarshalVTUnsafe(data)
	}
	if err != nil {
		return r // It was decoded a moment ago, so this cannot be; and sharing memory is not wrong, only dear.
	}
	return out
}

// deliverAgain hands on what the owner before may have committed and not delivered: everything of its last seconds. Devices
// drop by seq what they have.
func (o *owner) deliverAgain() {
	var newest int64
	for _, c := range o.cells {
		newest = max(newest, c.Head.TimeUs)
	}
	since := newest - int64(o.cfg.RedeliverWithinMs)*1000
	var p parcel
	for _, c := range o.cells {
		fresh := c.Window.All()
		from, _ := slices.BinarySearchFunc(fresh, since, func(e state.Entry, t int64) int { return cmp.Compare(e.TimeUs, t) })
		if fresh = slices.Clone(fresh[from:]); len(fresh) == 0 {
			continue
		}
		if c.Kind == protocol.KindGroup { // Its members are in the store.
			c.after = append(c.after, func() { o.stage.put(parcel{deliveries: o.again(c, nil, fresh)}) })
			o.load(c)
			continue
		}
		// One parcel for many conversations: the stage has few places.
		if p.deliveries = o.again(c, p.deliveries, fresh); len(p.deliveries) >= o.cfg.BlockRecords {
			o.stage.put(p)
			p.deliveries = nil
		}
	}
	if len(p.deliveries) > 0 {
		o.stage.put(p)
	}
	if n := len(o.tail.blocks); n > 0 && o.recentBlock() < o.tail.evicted {
		o.Logger.Warn("more was written in the last seconds than is held in memory; nodes resync", "bytes", o.tail.bytes)
		o.stage.missed()
	}
	o.delivered = true
	o.bound()
}

// again appends deliveries of records to those who were members as of each.
func (o *owner) again(c *cell, dst []delivery, records []state.Entry) []delivery {
	for _, r := range records {
		var users []string
		switch c.Kind {
		case protocol.KindDirect:
			a, b := protocol.Peers(c.ID)
			users = []string{a, b}
		case protocol.KindUser:
			users = []string{c.ID[len("u:"):]}
		default:
			c.Users(func(user string, _ *state.Member) {
				if c.May(user, r.Seq) {
					users = append(users, user)
				}
			})
		}
		d := delivery{app: c.App, conversation: c.ID, record: r.Record, users: users}
		o.address(c, &d)
		dst = append(dst, d)
	}
	return dst
}
