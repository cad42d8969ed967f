package partition

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
)

// errDeposed ends an owner whose block was refused because another owner has written.
var errDeposed = errors.New("another owner has written to the log")

// errSucceeded ends an owner whose lease another has. It is not ErrHeld, after which a candidate may run again: this one has
// reigned, and is spent.
var errSucceeded = errors.New("another owner has the lease")

// errTooLate ends a takeover that took longer than its lease was kept.
var errTooLate = errors.New("the lease was lost before the takeover was done")

// cell is one conversation and what waits for it.
type cell struct {
	*state.Conversation

	// As of the block that is being built; equal to Head when there is none.
	next state.Position
	// Records of the block that is being built.
	staged []stagedID
	// A record of the block changes who is a member: what follows waits for the commit.
	barrier bool
	// The store is being read, for the first time or for a retry.
	loading bool
	loaded  bool
	// Tick at which what the window recalls of the store was first read.
	recalled int64
	// Runs once the conversation is loaded.
	after []func()
	// Requests that wait for the commit or the read, in order.
	held []link.Request
	// Users whose read cursors are not stored yet, and cursors that are on their way to the store.
	dirty    map[string]struct{}
	flushing []store.Cursor
	// Tick of the last request.
	used int64
	// What the nodes of members may not know yet.
	told told
	// Of a user's log: the last block with a record of it. The store has what follows from it once toldTo is there.
	listed uint64
}

// stagedID spares those who look for a write to fetch the others.
type stagedID struct {
	id uint64
	*staged
}

type key struct{ app, conversation string }

// owner is one reign over the partition: from a takeover to a stop. All fields belong to its goroutine, run.
type owner struct {
	*Partition
	queue  *queue
	reign  *reign
	epoch  uint64
	last   uint64 // log sequence of the last block
	crc    uint32 // of the last block
	timeUs int64  // of the last record or block
	floor  uint64 // history's W as last heard
	begun  bool   // the floor and the first block to read are known
	// What the log's last seconds hold was handed on to delivery again.
	delivered bool
	refused   refusals
	fatal     error // ends the reign: found out by what ran in another goroutine

	toldTo  uint64 // the floor of the userlog follower as last heard: users' logs and lists have what follows up to there
	changed uint64 // the last block of which more is to be known once toldTo is there

	cells     map[key]*cell
	absent    absent
	block     block
	freed     []link.Request // held requests that may go on
	redo      []link.Request // the same, in the turn that is under way
	held      int            // requests that wait for their conversations
	heldBytes int            // and the bytes of their bodies
	backlog   []*cell        // to be loaded when a slot is free
	reads     reads
	later     []*cell   // to be loaded at the next tick, for what is delivered again
	recalled  []*cell   // whose windows recall what searches read, the oldest first
	arrived   time.Time // of the oldest request of this turn
	nonce     nonces
	stage     *stage
	reply     *replier
	signals   []delivery // ephemeral pushes of this turn
	tail      tail
	reported  reported
	room      room
	dirty     map[*cell]struct{}
	tick      int64
	looking   bool // housekeeping asks the log
	complaint complaint
	async     asyncGroup
}

// run serves until ctx ends or the reign is over. It returns nil when asked to stop.
func (o *owner) run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	flush := time.NewTicker(time.Duration(o.cfg.CursorFlushMs) * time.Millisecond)
	defer flush.Stop()
	var requests []link.Request
	var events []func()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.reign.gone:
			if err := o.reassert(ctx); err != nil {
				return err
			}
		case <-ticker.C:
			o.housekeep()
		case <-flush.C:
			o.flushCursors()
		case <-o.queue.wake:
			requests, events, o.arrived = o.queue.take(requests, events)
			for _, fn := range events {
				fn()
			}
			if o.fatal != nil {
				o.freed = append(o.freed, requests...) // For stop, which answers them.
				return o.fatal
			}
			if err := o.work(ctx, requests); err != nil {
				return err
			}
			clear(requests)
			clear(events)
		}
	}
}

// work carries out requests and whatever they set free, to the end. What was set free comes first: it is older.
func (o *owner) work(ctx context.Context, requests []link.Request) error {
	for {
		for i := 0; ; {
			if len(o.freed) > 0 {
				o.redo = append(o.freed, o.redo...)
				o.freed = nil
			}
			var r *link.Request // Nobody keeps it.
			if len(o.redo) > 0 {
				r, o.redo = &o.redo[0], o.redo[1:]
			} else if i < len(requests) {
				r = &requests[i]
				i++
			} else {
				break
			}
			if err := o.one(ctx, r); err != nil {
				o.freed = append(append(o.freed, *r), requests[i:]...) // For stop, which answers them.
				return err
			}
		}
		requests, o.redo = nil, nil
		if err := o.commit(ctx); err != nil {
			return err
		}
		if len(o.refused.codes) >= o.cfg.RefusedWrites {
			if err := o.fence(ctx, o.epoch+1); err != nil {
				return fmt.Errorf("fence behind many refused writes: %w", err)
			}
		}
		if len(o.freed) == 0 {
			o.reply.flush(o.epoch)
			o.signal()
			return nil
		}
	}
}

// one decides a request, or sets it aside until its conversation can go on.
func (o *owner) one(ctx context.Context, r *link.Request) error {
	h, err := o.handler(r)
	var c *cell
	if err == nil {
		c, err = o.cell(r, &h)
	}
	if err != nil {
		o.refuse(r, err)
		return nil
	}
	if c.loading || c.barrier || len(c.held) > 0 {
		o.hold(c, r)
		return nil
	}
	if !c.loaded {
		o.hold(c, r)
		o.load(c)
		return nil
	}
	if o.block.full(&o.cfg, len(r.Body)) {
		if err := o.commit(ctx); err != nil {
			return err
		}
	}
	o.decide(c, r, &h)
	return nil
}

// cell finds or makes the conversation's cell. None is made for one who, by the id alone, has no part in the conversation.
func (o *owner) cell(r *link.Request, h *feature.Handler) (*cell, *protocol.Error) {
	k := key{r.App, r.Conversation}
	c := o.cells[k]
	if c == nil {
		kind := protocol.KindOf(r.Conversation)
		if kind == protocol.KindInvalid || !protocol.ValidApp(r.App) {
			return nil, protocol.Invalid("conversation", "%q is not the id of a conversation", r.Conversation)
		}
		if p := protocol.Partition(r.App, r.Conversation, o.cfg.partitions); p != o.number {
			return nil, protocol.Errorf(protocol.CodeRetry, "conversation of partition %d sent to partition %d", p, o.number)
		}
		if err := accessByName(kind, r, h); err != nil {
			return nil, err
		}
		if len(o.cells) >= o.cfg.Conversations {
			o.evict(64)
		}
		c = o.newCell(r.App, r.Conversation)
		if o.absent.take(k) {
			c.loaded = true
			o.forgetAbsent(c)
		}
	}
	c.used = o.tick
	return c, nil
}

// newCell copies the names: the strings of a request or a record share a larger buffer.
func (o *owner) newCell(app, id string) *cell {
	c := &cell{Conversation: state.New(strings.Clone(app), strings.Clone(id))}
	o.cells[key{c.App, c.ID}] = c
	return c
}

// hold sets a request aside. All conversations together hold no more than the queue does.
func (o *owner) hold(c *cell, r *link.Request) {
	if len(c.held) >= o.cfg.HoldRequests || o.held >= o.cfg.QueueRequests || o.heldBytes+len(r.Body) > o.cfg.QueueBytes {
		o.refuse(r, protocol.Errorf(protocol.CodeBusy, "too many requests wait for this conversation"))
		return
	}
	c.held = append(c.held, *r)
	o.held++
	o.heldBytes += len(r.Body)
}

// unhold takes what was set aside.
func (o *owner) unhold(c *cell) []link.Request {
	held := c.held
	c.held = nil
	o.held -= len(held)
	for i := range held {
		o.heldBytes -= len(held[i].Body)
	}
	return held
}

// release lets held requests go on.
func (o *owner) release(c *cell) {
	if len(c.held) > 0 && !c.loading && !c.barrier {
		o.freed = append(o.freed, o.unhold(c)...)
	}
}

// idle reports whether nothing would be lost if the cell were forgotten, by what the store and users' logs have.
func (c *cell) idle(floor, toldTo uint64) bool {
	return !c.loading && !c.barrier && len(c.held) == 0 && len(c.staged) == 0 && len(c.dirty) == 0 && c.flushing == nil &&
		len(c.after) == 0 && len(c.told.changes) == 0 && c.listed <= toldTo && !c.Window.Above(floor)
}

// stop answers everything that still waits with retry: whether it was committed is unknown or it was not looked at.
func (o *owner) stop() {
	why := protocol.Errorf(protocol.CodeRetry, "the owner of the conversation is changing")
	for _, r := range o.queue.close() {
		o.refuse(&r, why)
	}
	for i := range o.freed {
		o.refuse(&o.freed[i], why)
	}
	for i := range o.redo {
		o.refuse(&o.redo[i], why)
	}
	for _, s := range o.block.records {
		for i := range s.waiters {
			o.refuse(&s.waiters[i], why)
		}
	}
	for _, c := range o.cells {
		for i := range c.held {
			o.refuse(&c.held[i], why)
		}
	}
	for i := range o.reads.waiting {
		o.refuse(&o.reads.waiting[i].r, why)
	}
	o.reply.flush(o.epoch)
}
