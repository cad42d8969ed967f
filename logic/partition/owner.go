package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// errDeposed ends an owner whose block was refused because another owner has written.
var errDeposed = errors.New("another owner has written to the log")

// cell is one conversation and what waits for it.
type cell struct {
	*state.Conversation

	// As of the block that is being built; equal to Head when there is none.
	next state.Position
	// Records of the block that is being built.
	staged []*staged
	// A record of the block changes who is a member: what follows waits for the commit.
	barrier bool
	// The store is being read, for the first time or for a retry.
	loading bool
	loaded  bool
	// Runs once the conversation is loaded.
	after []func()
	// Requests that wait for the commit or the read, in order.
	held []link.Request
	// Read cursors not yet stored, by user.
	dirty map[string]struct{}
	// Tick of the last request.
	used int64
	// What the nodes of members may not know yet.
	told told
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
	toldTo uint64 // the floor of the userlog follower as last heard
	begun  bool   // the floor and the first block to read are known

	cells    map[key]*cell
	block    block
	freed    []link.Request // held requests that may go on
	redo     []link.Request // the same, in the turn that is under way
	nonce    nonces
	stage    *stage
	reply    *replier
	unstored unstored
	logFull  bool
	dirty    map[*cell]struct{}
	tick     int64
	async    asyncGroup
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
			o.flushCursors(false)
		case <-o.queue.wake:
			requests, events = o.queue.take(requests, events)
			for _, fn := range events {
				fn()
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
			var r link.Request
			if len(o.redo) > 0 {
				r, o.redo = o.redo[0], o.redo[1:]
			} else if i < len(requests) {
				r = requests[i]
				i++
			} else {
				break
			}
			if err := o.one(ctx, &r); err != nil {
				o.freed = append(append(o.freed, r), requests[i:]...) // For stop, which answers them.
				return err
			}
		}
		requests, o.redo = nil, nil
		if err := o.commit(ctx); err != nil {
			return err
		}
		if len(o.freed) == 0 {
			o.reply.flush(o.epoch)
			return nil
		}
	}
}

// one decides a request, or sets it aside until its conversation can go on.
func (o *owner) one(ctx context.Context, r *link.Request) error {
	c, err := o.cell(r)
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
	o.decide(c, r)
	return nil
}

// cell finds or makes the conversation's cell.
func (o *owner) cell(r *link.Request) (*cell, *protocol.Error) {
	k := key{r.App, r.Conversation}
	c := o.cells[k]
	if c == nil {
		if protocol.KindOf(r.Conversation) == protocol.KindInvalid || !protocol.ValidApp(r.App) {
			return nil, protocol.Invalid("conversation", "%q is not the id of a conversation", r.Conversation)
		}
		if p := protocol.Partition(r.App, r.Conversation, o.cfg.partitions); p != o.number {
			return nil, protocol.Errorf(protocol.CodeRetry, "conversation of partition %d sent to partition %d", p, o.number)
		}
		if len(o.cells) >= o.cfg.Conversations {
			o.evict(64)
		}
		// The names are copies: the request's strings may share a large buffer.
		app, id := string(append([]byte(nil), r.App...)), string(append([]byte(nil), r.Conversation...))
		c = &cell{Conversation: state.New(app, id)}
		o.cells[key{app, id}] = c
	}
	c.used = o.tick
	return c, nil
}

func (o *owner) hold(c *cell, r *link.Request) {
	if len(c.held) >= o.cfg.HoldRequests {
		o.refuse(r, protocol.Errorf(protocol.CodeBusy, "too many requests wait for this conversation"))
		return
	}
	c.held = append(c.held, *r)
}

// release lets held requests go on.
func (o *owner) release(c *cell) {
	if len(c.held) > 0 && !c.loading && !c.barrier {
		o.freed = append(o.freed, c.held...)
		c.held = nil
	}
}

// evict lets go of idle conversations that history has in full. It looks at some, in the map's order, so its cost is bounded.
func (o *owner) evict(most int) {
	looked := 0
	for k, c := range o.cells {
		if looked++; looked > most {
			return
		}
		o.settle(c)
		if c.idle(o.floor) && c.used < o.tick-1 {
			delete(o.cells, k)
		}
	}
}

// idle reports whether nothing would be lost if the cell were forgotten.
func (c *cell) idle(floor uint64) bool {
	return !c.loading && !c.barrier && len(c.held) == 0 && len(c.staged) == 0 && len(c.dirty) == 0 && len(c.told.changes) == 0 && !c.Window.Above(floor)
}

// housekeep runs every second.
func (o *owner) housekeep() {
	o.tick++
	if !o.async.start(o.Go, func(ctx context.Context) {
		floor, err := o.Floor(ctx)
		if err != nil {
			o.Logger.Warn("history's floor is unknown", "err", err)
			return
		}
		logState, err := o.Log.State(ctx)
		if err != nil {
			o.Logger.Warn("the log's size is unknown", "err", err)
			return
		}
		toldTo, err := o.UserlogFloor(ctx)
		if err != nil {
			o.Logger.Warn("the floor of users' logs is unknown", "err", err) // Members of large conversations get pushes one by one.
		}
		o.queue.post(func() {
			o.floor, o.toldTo = max(o.floor, floor), max(o.toldTo, toldTo)
			o.unstored.stored(o.floor)
			o.logFull = logState.MaxBytes > 0 && logState.Bytes > logState.MaxBytes/10*9
		})
	}) {
		return
	}
	if over := len(o.cells) - o.cfg.Conversations*9/10; over > 0 {
		o.evict(over + 1024)
	}
}

// reassert answers the loss of the lease: its key is gone or taken. Writing is safe by the fence alone, so the owner tries to
// take the key again and to append a fence; if the log has moved on, another reigns.
func (o *owner) reassert(ctx context.Context) error {
	o.Logger.Warn("lease is gone; writing a fence to go on", "epoch", o.epoch)
	if err := o.reign.reacquire(ctx); err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	if err := o.fence(ctx, o.epoch+1); err != nil {
		return fmt.Errorf("fence after a lost lease: %w", err)
	}
	return nil
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
	o.reply.flush(o.epoch)
}
