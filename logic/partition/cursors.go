package partition

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/store"
)

// Read cursors are gathered for a while and then stored, without the log: they only rise, whatever is lost is repeated by the
// devices, and no order among them matters.

// lastFlush bounds how long a hand-over waits for the cursors of all conversations.
const lastFlush = 2 * time.Second

func (o *owner) markDirty(c *cell, user string) {
	if c.dirty == nil {
		c.dirty = make(map[string]struct{})
	}
	c.dirty[user] = struct{}{}
	o.dirty[c] = struct{}{}
}

// gather takes the cursors of a conversation that are to be stored.
func (c *cell) gather() []store.Cursor {
	cursors := make([]store.Cursor, 0, len(c.dirty))
	for user := range c.dirty {
		cursors = append(cursors, c.Member(user).Cursor)
	}
	c.dirty = nil
	return cursors
}

// flushCursors stores the read cursors that moved. What fails is tried again with the next. The conversation stays in memory
// meanwhile: loaded anew, it would have the old ones.
func (o *owner) flushCursors() {
	for c := range o.dirty {
		if c.flushing != nil {
			continue
		}
		conversation, cursors := store.Conversation{App: c.App, ID: c.ID}, c.gather()
		c.flushing = cursors
		if !o.async.start(o.Load, func(ctx context.Context) {
			err := o.Services.Store.SetCursors(ctx, conversation, cursors)
			if err != nil {
				o.Logger.Warn("read cursors were not stored; they will be tried again", "err", err)
			}
			o.queue.post(func() { o.flushed(c, err) })
		}) {
			o.flushed(c, errNoSlot)
			return
		}
	}
}

// errNoSlot: the store is as busy as it may be.
var errNoSlot = errors.New("no slot is free")

func (o *owner) flushed(c *cell, err error) {
	if err != nil {
		for i := range c.flushing {
			o.markDirty(c, c.flushing[i].User)
		}
	}
	c.flushing = nil
	if len(c.dirty) == 0 {
		delete(o.dirty, c)
	}
}

// flushLastCursors stores what can be stored of them in the time of a hand-over, those on their way included.
func (o *owner) flushLastCursors() {
	ctx, cancel := context.WithTimeout(o.async.ctx, lastFlush)
	defer cancel()
	slots := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for c := range o.dirty {
		conversation, cursors := store.Conversation{App: c.App, ID: c.ID}, append(c.gather(), c.flushing...)
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := o.Services.Store.SetCursors(ctx, conversation, cursors); err != nil {
				o.Logger.Warn("read cursors were not stored; devices repeat them", "conversation", conversation.ID, "err", err)
			}
		})
	}
	wg.Wait()
}
