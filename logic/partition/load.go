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

// own runs fn in a goroutine that needs no slot, for what there is one of at a time.
func (g *asyncGroup) own(fn func(context.Context)) {
	g.wg.Go(func() {
		ctx, cancel := g.context()
		defer cancel()
		fn(ctx)
	})
}

func (g *asyncGroup) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(g.ctx, readTimeout)
}

// loaded is what the store knows of a conversation.
type loaded struct {
	members []store.Member
	newest  *logv1.Record
	first   *logv1.Record
	change  *logv1.Record   // the last one with joined or left of a group that may be large
	listing []store.Listing // of a user's log
	err     error
}

// load reads a conversation from the store, while its requests wait. What the log holds above history's floor is known to the
// cell's window since the takeover, and stays so for as long as it loads, so the two together have everything.
//
// Where no slot is free it waits for one; the bound of what may be held bounds these too.
func (o *owner) load(c *cell) {
	c.loading = true
	if len(o.backlog) > 0 || !o.startLoad(c) {
		o.backlog = append(o.backlog, c)
	}
}

func (o *owner) startLoad(c *cell) bool {
	return o.async.start(o.Load, func(ctx context.Context) {
		l := o.fetch(ctx, c.App, c.ID, c.Kind)
		o.queue.post(func() { o.loadDone(c, l) })
	})
}

// loadMore starts loads that found no slot.
func (o *owner) loadMore() {
	for len(o.backlog) > 0 && o.startLoad(o.backlog[0]) {
		o.backlog[0] = nil
		o.backlog = o.backlog[1:]
	}
	if len(o.backlog) == 0 {
		o.backlog = nil
	}
}

func (o *owner) fetch(ctx context.Context, app, id string, kind protocol.Kind) (l loaded) {
	st, conversation := o.Services.Store, store.Conversation{App: app, ID: id}
	var newest []*logv1.Record
	if newest, l.err = st.Range(ctx, conversation, 1, store.MaxSeq, 1, true); l.err != nil {
		return l
	}
	if len(newest) == 1 {
		l.newest = newest[0]
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
		o.complain("conversation cannot be loaded", "conversation", c.ID, "err", l.err)
		why := protocol.Errorf(protocol.CodeRetry, "the history store does not answer")
		o.giveUp(c, why)
		for _, waiting := range o.backlog { // The answer to these would be the same, and later.
			waiting.loading = false
			o.giveUp(waiting, why)
		}
		o.backlog = nil
		return
	}
	o.loadMore()
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
	if c.Window.Lowest() == 0 && l.newest != nil && l.newest.Seq >= c.Head.Seq { // All is in the store. Its newest is what lists show.
		c.Head = state.Position{Seq: l.newest.Seq, Count: l.newest.Count, TimeUs: l.newest.TimeUs}
		c.Window.Push(state.Entry{Record: l.newest})
		o.apply(c, l.newest)
	}
	c.loaded, c.next = true, c.Head
	o.trim(c)
	for _, fn := range c.after {
		fn()
	}
	c.after = nil
	o.release(c)
	if !c.Exists() {
		// An id that somebody made up leaves nothing behind, once its requests are answered.
		o.queue.post(func() {
			if !c.Exists() && c.idle(o.floor, o.toldTo) {
				o.forget(c)
			}
		})
	}
}

// giveUp answers what waits for a conversation that cannot be loaded now.
func (o *owner) giveUp(c *cell, why *protocol.Error) {
	held := o.unhold(c)
	for i := range held {
		o.refuse(&held[i], why)
	}
	o.trim(c)
	switch {
	case len(c.after) > 0: // It is loaded again, and must be the one that requests find: there is one cell of a conversation.
		o.later = append(o.later, c)
	case c.Window.Lowest() == 0 && c.listed <= o.toldTo:
		o.forget(c)
	}
}

// forget lets go of a cell, and of no other that has its place by now.
func (o *owner) forget(c *cell) {
	if k := (key{c.App, c.ID}); o.cells[k] == c {
		delete(o.cells, k)
	}
}

// search looks for an earlier transmission of r in what the window does not hold: the store, and behind it what only the log is
// sure to have. The conversation waits: what follows r must not overtake it. It reports false where r is new by the index alone.
func (o *owner) search(c *cell, r *link.Request) bool {
	last := c.Head.Seq
	if first := c.Window.First(); first > 0 {
		last = first - 1
	}
	if last-r.Since > uint64(o.cfg.SearchRecords) {
		o.refuse(r, protocol.Errorf(protocol.CodeExpired,
			"since: %d lies more than %d records back; whether this is a retry cannot be judged", r.Since, o.cfg.SearchRecords))
		return true
	}
	inStore := last
	if lowest := c.Window.Lowest(); lowest > 0 {
		inStore = lowest - 1
	}
	logged := c.Window.Candidates(r.User, r.Device, r.ClientID, r.Since)
	if len(logged) == 0 && inStore <= r.Since {
		return false
	}
	req := *r
	c.loading = true
	if o.async.start(o.Load, func(ctx context.Context) {
		found, err := o.find(ctx, &req, inStore, logged)
		o.queue.post(func() {
			c.loading = false
			switch {
			case err != nil:
				o.complain("history cannot be searched for a retry", "conversation", c.ID, "err", err)
				o.refuse(&req, protocol.Errorf(protocol.CodeRetry, "the history store does not answer"))
			case found != nil:
				o.metrics.duplicates.Inc()
				o.ack(&req, found, true)
			default:
				req.Since = last // Nothing up to here.
				c.held = append([]link.Request{req}, c.held...)
				o.held++
				o.heldBytes += len(req.Body)
			}
			o.release(c)
		})
	}) {
		return true
	}
	c.loading = false
	o.refuse(r, protocol.Errorf(protocol.CodeBusy, "too many reads are under way"))
	return true
}

// find looks at the candidates in the log, and then reads history in pages, from since on.
func (o *owner) find(ctx context.Context, r *link.Request, last uint64, logged []state.Place) (*logv1.Record, error) {
	const page = 500
	conversation := store.Conversation{App: r.App, ID: r.Conversation}
	isIt := func(rec *logv1.Record) bool {
		return rec.ClientId == r.ClientID && rec.Sender == r.User && rec.Device == r.Device
	}
	for _, place := range logged {
		records, err := o.logged(ctx, conversation, []state.Place{place})
		if err != nil {
			return nil, err
		}
		if len(records) == 1 && isIt(records[0]) {
			return records[0], nil
		}
	}
	for from := r.Since + 1; from <= last; {
		records, err := o.Services.Store.Range(ctx, conversation, from, last, page, false)
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			if isIt(rec) {
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
