package partition

import (
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
	from := max(logState.First, min(floor+1, toldTo+1, lowered(logState.Last, redeliverBlocks)))
	o.floor, o.toldTo, o.last, o.begun = floor, toldTo, lowered(from, 1), true
	return o.catchUp(ctx)
}

// redeliverBlocks bounds how far back a new owner reads for what it delivers again.
const redeliverBlocks = 20_000

// redeliverRecords bounds it for one conversation.
const redeliverRecords = 1000

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
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	return nil
}

// replay puts a record of the log back into memory. Who was a member is known only once the store was read too (load).
func (o *owner) replay(r *logv1.Record, block uint64) {
	k := key{r.App, r.Conversation}
	c := o.cells[k]
	if c == nil {
		c = &cell{Conversation: state.New(r.App, r.Conversation)}
		o.cells[k] = c
	}
	// Everything decoded from a block shares its bytes; a record that is kept must not keep all the others.
	r = owned(r)
	c.Apply(r, block)
	c.told.note(r, block)
	c.Window.Trim(o.floor, redeliverRecords)
	o.timeUs = max(o.timeUs, r.TimeUs)
	if block > o.floor {
		o.unstored.add(block, len(r.Body)+recordOverhead/2)
	}
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
	for _, c := range o.cells {
		if c.Head.TimeUs < since {
			continue
		}
		fresh := c.Window.All()
		from := slices.IndexFunc(fresh, func(e state.Entry) bool { return e.TimeUs >= since })
		if from < 0 {
			continue
		}
		records := make([]*logv1.Record, 0, len(fresh)-from)
		for _, e := range fresh[from:] {
			records = append(records, e.Record)
		}
		o.whenLoaded(c, func() { o.redeliver(c, records) })
	}
	for _, c := range o.cells {
		c.Window.Trim(o.floor, o.cfg.WindowRecords)
	}
}

// whenLoaded runs fn as soon as the conversation is known in full.
func (o *owner) whenLoaded(c *cell, fn func()) {
	if c.loaded {
		fn()
		return
	}
	c.after = append(c.after, fn)
	if !c.loading {
		o.load(c)
	}
}

func (o *owner) redeliver(c *cell, records []*logv1.Record) {
	p := parcel{epoch: o.epoch}
	for _, r := range records {
		var users []string
		if c.Kind == protocol.KindDirect {
			a, b := protocol.Peers(c.ID)
			users = []string{a, b}
		} else {
			c.Users(func(user string, _ *state.Member) {
				if c.May(user, r.Seq) {
					users = append(users, user)
				}
			})
		}
		d := delivery{app: c.App, conversation: c.ID, record: r, users: users}
		o.address(c, &d)
		p.deliveries = append(p.deliveries, d)
	}
	o.stage.put(p)
}
