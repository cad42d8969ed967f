package partition

import (
	"context"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// readTimeout bounds one read of the store on behalf of a waiting request.
const readTimeout = 5 * time.Second

// asyncGroup is what the owner has started in other goroutines. All end before its state is dropped.
type asyncGroup struct {
	ctx context.Context
	wg  sync.WaitGroup
}

// start runs fn in another goroutine by way of run; false: none was free.
func (g *asyncGroup) start(run func(func(context.Context)) bool, fn func(context.Context)) bool {
	g.wg.Add(1)
	if run(func(context.Context) {
		defer g.wg.Done()
		ctx, cancel := g.context()
		defer cancel()
		fn(ctx)
	}) {
		return true
	}
	g.wg.Done()
	return false
}

func (g *asyncGroup) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(g.ctx, readTimeout)
}

// loaded is what the store knows of a conversation.
type loaded struct {
	members []store.Member
	head    *logv1.Record
	first   *logv1.Record
	change  *logv1.Record   // the last one with joined or left of a group that may be large
	listing []store.Listing // of a user's log
	err     error
}

// load reads a conversation from the store, while its requests wait. What the log holds above history's floor is in the
// cell's window since the takeover, and stays there for as long as it loads, so the two together have everything.
func (o *owner) load(c *cell) {
	c.loading = true
	if o.async.start(o.Go, func(ctx context.Context) {
		l := o.fetch(ctx, c.App, c.ID, c.Kind)
		o.queue.post(func() { o.loadDone(c, l) })
	}) {
		return
	}
	c.loading = false
	o.giveUp(c, protocol.Errorf(protocol.CodeBusy, "too many conversations are being loaded"))
}

func (o *owner) fetch(ctx context.Context, app, id string, kind protocol.Kind) (l loaded) {
	st, conversation := o.Services.Store, store.Conversation{App: app, ID: id}
	if l.head, l.err = st.Head(ctx, conversation); l.err != nil {
		return l
	}
	if l.members, l.err = st.Members(ctx, conversation); l.err != nil {
		return l
	}
	switch kind {
	case protocol.KindGroup:
		var records []*logv1.Record
		if records, l.err = st.Range(ctx, conversation, 1, 1, 1, false); l.err == nil && len(records) == 1 {
			l.first = records[0]
		}
		if seq := state.LastChange(l.members); l.err == nil && len(l.members) >= minLarge*3/4 {
			if records, l.err = st.Range(ctx, conversation, seq, seq, 1, false); l.err == nil && len(records) == 1 {
				l.change = records[0]
			}
		}
	case protocol.KindUser:
		l.err = st.List(ctx, app, id[len("u:"):], func(row store.Listing) error {
			l.listing = append(l.listing, row)
			return nil
		})
	}
	return l
}

func (o *owner) loadDone(c *cell, l loaded) {
	c.loading = false
	if l.err != nil {
		o.Logger.Warn("conversation cannot be loaded", "conversation", c.ID, "err", l.err)
		o.giveUp(c, protocol.Errorf(protocol.CodeRetry, "the history store does not answer"))
		return
	}
	c.SetMembers(l.members)
	if l.first != nil {
		o.apply(c, l.first)
	}
	if l.change != nil {
		c.NoteLarge(l.change.Seq, l.change.Large)
	}
	for _, row := range l.listing {
		c.NoteStanding(row.Standing)
	}
	if l.head != nil && l.head.Seq > c.Head.Seq {
		c.Head = state.Position{Seq: l.head.Seq, Count: l.head.Count, TimeUs: l.head.TimeUs}
		if c.Window.Len() > 0 { // The store is ahead of what the window ends with: it would have a hole.
			c.Window = state.Window{}
		}
	}
	for _, e := range c.Window.All() {
		c.ApplyMembers(e.Record)
		o.apply(c, e.Record)
	}
	c.loaded, c.next = true, c.Head
	for _, fn := range c.after {
		fn()
	}
	c.after = nil
	o.release(c)
	if !c.Exists() && len(c.held) == 0 && c.Kind == protocol.KindGroup {
		// An id that somebody made up leaves nothing behind, once its requests are answered.
		o.queue.post(func() {
			if !c.Exists() && c.idle(o.floor) {
				delete(o.cells, key{c.App, c.ID})
			}
		})
	}
}

// giveUp answers what waits for a conversation that cannot be loaded now.
func (o *owner) giveUp(c *cell, why *protocol.Error) {
	for i := range c.held {
		o.refuse(&c.held[i], why)
	}
	c.held = nil
	if c.Window.Len() == 0 {
		delete(o.cells, key{c.App, c.ID})
	}
}

// search looks for an earlier transmission of r in the part of history that the window does not hold. The conversation waits:
// what follows r must not overtake it.
func (o *owner) search(c *cell, r *link.Request) {
	last := c.Head.Seq
	if first := c.Window.First(); first > 0 {
		last = first - 1
	}
	if last-r.Since > uint64(o.cfg.SearchRecords) {
		o.refuse(r, protocol.Errorf(protocol.CodeExpired,
			"since: %d lies more than %d records back; whether this is a retry cannot be judged", r.Since, o.cfg.SearchRecords))
		return
	}
	req := *r
	c.loading = true
	if o.async.start(o.Go, func(ctx context.Context) {
		found, err := o.find(ctx, &req, last)
		o.queue.post(func() {
			c.loading = false
			switch {
			case err != nil:
				o.Logger.Warn("history cannot be searched for a retry", "conversation", c.ID, "err", err)
				o.refuse(&req, protocol.Errorf(protocol.CodeRetry, "the history store does not answer"))
			case found != nil:
				o.metrics.duplicates.Inc()
				o.ack(&req, found, true)
			default:
				req.Since = last // Nothing up to here.
				c.held = append([]link.Request{req}, c.held...)
			}
			o.release(c)
		})
	}) {
		return
	}
	c.loading = false
	o.refuse(r, protocol.Errorf(protocol.CodeBusy, "too many reads are under way"))
}

// find reads history in pages, from since on.
func (o *owner) find(ctx context.Context, r *link.Request, last uint64) (*logv1.Record, error) {
	const page = 500
	conversation := store.Conversation{App: r.App, ID: r.Conversation}
	for from := r.Since + 1; from <= last; {
		records, err := o.Services.Store.Range(ctx, conversation, from, last, page, false)
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			if rec.ClientId == r.ClientID && rec.Sender == r.User && rec.Device == r.Device {
				return rec, nil
			}
		}
		if len(records) < page {
			return nil, nil
		}
		from = records[len(records)-1].Seq + 1
	}
	return nil, nil
}

// apply tells the features of a record.
func (o *owner) apply(c *cell, r *logv1.Record) {
	for _, f := range o.Features {
		f.Apply(c.Conversation, r)
	}
}
