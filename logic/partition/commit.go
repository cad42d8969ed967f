package partition

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// staged is a record that has its place in the block being built.
type staged struct {
	cell   *cell
	record *logv1.Record
	// Fixed here, when the seq is given: who is a member as of this record.
	recipients []string
	// The request that wrote it, and retries of the same write that came meanwhile.
	waiters []link.Request
	first   [1]link.Request // waiters' memory until there is a retry
}

// block is the block being built.
type block struct {
	records []*staged
	bytes   int
	names   int
	user    bool // a record that users' logs or lists follow from
	encoded []byte
}

// maxNames bounds what one block adds to users' logs.
const maxNames = 1000

// recordOverhead is what a record takes beside its body, at most, names of joined and left not counted.
const recordOverhead = 512

func (b *block) full(cfg *settings, body int) bool {
	return len(b.records) >= cfg.BlockRecords || b.bytes > 0 && b.bytes+body+recordOverhead > cfg.BlockBytes || b.names >= maxNames
}

func (b *block) add(s *staged) {
	b.records = append(b.records, s)
	names := len(s.record.Joined) + len(s.record.Left) + len(s.record.Active)
	b.bytes += s.record.SizeVT() + 8
	b.names += len(s.record.Joined) + len(s.record.Left)
	b.user = b.user || names > 0 || s.cell.Kind == protocol.KindUser
}

// place returns what the next record stages: behind the slice's end wait those of earlier blocks, which nobody has any more.
func (b *block) place() *staged {
	if n := len(b.records); n < cap(b.records) {
		if s := b.records[:n+1][n]; s != nil {
			return s
		}
	}
	return new(staged)
}

func (b *block) reset() {
	for _, s := range b.records {
		*s = staged{}
	}
	b.records, b.bytes, b.names, b.user = b.records[:0], 0, 0, false
}

// nonces tell this owner's blocks from any other's: a random half per reign, a counter for the rest.
type nonces struct {
	random  [8]byte
	counter uint64
}

func (n *nonces) next() []byte {
	if n.counter == 0 {
		// crypto/rand.Read never fails (Go 1.24 on).
		_, _ = rand.Read(n.random[:])
	}
	n.counter++
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 16), n.random[:]...), n.counter)
}

// commit appends the block and then, in this order, updates the state, acknowledges the senders and hands on to delivery.
// That "no acknowledged message is lost" is a property of this function and of append. An error ends the reign.
func (o *owner) commit(ctx context.Context) error {
	if len(o.block.records) == 0 {
		return nil
	}
	b := &logv1.Block{
		Kind: logv1.Kind_KIND_DATA, Epoch: o.epoch, Owner: o.Node, Nonce: o.nonce.next(), PrevCrc: o.crc, TimeUs: o.timeUs,
		Records: make([]*logv1.Record, len(o.block.records)),
	}
	for i, s := range o.block.records {
		b.Records[i] = s.record
	}
	start := time.Now()
	err := o.append(ctx, b, o.block.user)
	if errors.Is(err, bus.ErrFull) {
		o.room.bytes = o.room.most
		if errors.Is(err, errOnItsWay) {
			if err := o.fence(ctx, o.epoch+1); err != nil {
				return fmt.Errorf("fence before a block that was given up: %w", err)
			}
		}
		o.rollBack(protocol.Errorf(protocol.CodeBusy, "the log is full"))
		return nil
	}
	if err != nil {
		return err // The waiters get retry from stop.
	}
	o.metrics.commits.Observe(time.Since(start).Seconds())
	o.metrics.blockRecords.Observe(float64(len(b.Records)))
	o.carryOn()
	return nil
}

// carryOn follows a block that is durable.
func (o *owner) carryOn() {
	p := parcel{deliveries: make([]delivery, 0, len(o.block.records))}
	var sinceArrival float64
	if !o.arrived.IsZero() {
		sinceArrival = time.Since(o.arrived).Seconds()
	}
	for _, s := range o.block.records { // 1. state
		s.cell.Apply(s.record, o.last)
		o.note(s.cell, s.record, o.last)
		o.apply(s.cell, s.record)
		o.trim(s.cell)
		o.tail.add(o.last, s.record, s.cell)
	}
	o.bound()
	for _, s := range o.block.records { // 2. acks
		o.metrics.acked.Inc()
		for i := range s.waiters {
			o.ack(&s.waiters[i], s.record, i > 0)
		}
	}
	o.reply.flush(o.epoch)
	if sinceArrival > 0 {
		o.metrics.acks.Observe(sinceArrival)
	}
	for _, s := range o.block.records { // 3. delivery
		w := &s.waiters[0]
		d := delivery{
			app: s.record.App, conversation: s.record.Conversation, record: s.record, users: s.recipients,
			exceptNode: w.Node, exceptConn: w.Conn,
		}
		o.address(s.cell, &d)
		p.deliveries = append(p.deliveries, d)
		s.cell.settle()
	}
	o.stage.put(p)
	for _, s := range o.block.records {
		o.release(s.cell)
	}
	o.block.reset()
}

// rollBack forgets a block of which the log says that nothing was stored.
func (o *owner) rollBack(why *protocol.Error) {
	for _, s := range o.block.records {
		for i := range s.waiters {
			o.refuse(&s.waiters[i], why)
		}
		s.cell.settle()
	}
	for _, s := range o.block.records {
		o.release(s.cell)
	}
	o.block.reset()
}

// settle ends the conversation's part in a block. What the block held must not stay in memory behind the slice's end.
func (c *cell) settle() {
	clear(c.staged)
	c.staged, c.barrier, c.next = c.staged[:0], false, c.Head
}

// errOnItsWay: the log had no room for the block just now, but may have when an earlier try arrives that nobody has answered.
var errOnItsWay = errors.New("an earlier try may still arrive")

// append writes one block and returns nil only once it is durable at o.last+1, and was put there by this call. The outcome of
// a try that is not answered is unknown, so the same bytes go again with the same expectation until the log itself tells.
func (o *owner) append(ctx context.Context, b *logv1.Block, user bool) error {
	data, crc, err := logblock.AppendTo(o.block.encoded[:0], b)
	if err != nil {
		return err
	}
	o.block.encoded = data
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(o.cfg.AppendPatienceMs)*time.Millisecond)
	defer cancel()
	done := func() {
		o.last, o.crc = o.last+1, crc
		o.room.bytes += int64(len(data))
	}
	unanswered := false
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		seq, err := o.tryAppend(patience, data, user)
		switch {
		case err == nil && seq == o.last+1:
			done()
			return nil
		case err == nil:
			return fmt.Errorf("append block %d: stored as %d: %w", o.last+1, seq, errDeposed)
		case errors.Is(err, bus.ErrFull) && !unanswered:
			return err
		case errors.Is(err, bus.ErrMoved), errors.Is(err, bus.ErrFull): // Full: an earlier try may have been the last that fitted.
			full := errors.Is(err, bus.ErrFull)
			mine, err := o.wasMine(patience, b.Nonce)
			switch {
			case err == nil && mine:
				done()
				return nil
			case err == nil:
				return fmt.Errorf("append block %d: %w", o.last+1, errDeposed)
			case full && errors.Is(err, bus.ErrNoMessage):
				return fmt.Errorf("%w, and %w", bus.ErrFull, errOnItsWay)
			}
			o.Logger.Warn("the log has moved on and cannot be read yet", "block", o.last+1, "err", err)
		default:
			unanswered = true
			o.Logger.Warn("append is unanswered; the same block goes again", "block", o.last+1, "err", err)
		}
		select {
		case <-patience.Done():
			return fmt.Errorf("append block %d: no answer within %d ms", o.last+1, o.cfg.AppendPatienceMs)
		case <-time.After(pause):
		}
	}
}

func (o *owner) tryAppend(ctx context.Context, data []byte, user bool) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.cfg.AppendTimeoutMs)*time.Millisecond)
	defer cancel()
	return o.appendLog(ctx, data, user, o.last)
}

// wasMine reads the block that stands where ours should be. bus.ErrNoMessage is passed on: a follower that lags may not have it
// yet.
func (o *owner) wasMine(ctx context.Context, nonce []byte) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.cfg.AppendTimeoutMs)*time.Millisecond)
	defer cancel()
	m, err := o.Log.Get(ctx, o.last+1)
	if err != nil {
		return false, fmt.Errorf("read block %d: %w", o.last+1, err)
	}
	var b logv1.Block
	if err := logblock.Decode(m.Data, &b); err != nil {
		return false, fmt.Errorf("read block %d: %w", o.last+1, err)
	}
	return bytes.Equal(b.Nonce, nonce), nil
}

// fence opens an epoch: from now on no block of an earlier one can be accepted at the place where it would stand.
func (o *owner) fence(ctx context.Context, epoch uint64) error {
	o.timeUs = max(o.Now().UnixMicro(), o.timeUs+1)
	b := &logv1.Block{
		Kind: logv1.Kind_KIND_FENCE, Epoch: epoch, Owner: o.Node, Nonce: o.nonce.next(), PrevCrc: o.crc, TimeUs: o.timeUs,
	}
	if err := o.append(ctx, b, false); err != nil {
		return err
	}
	o.epoch = epoch
	o.stage.epoch.Store(epoch)
	o.refused.clear()
	return nil
}
