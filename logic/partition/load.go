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

// readTimeout bounds one read of the store on behalf of a waiting request, to within alike.
const readTimeout = 5 * time.Second

// loadTimeout bounds what may be read in many pages: a group's members, a user's list. One who gives up early begins anew with the next
// request, and keeps the store from ever getting done. A page that does not come ends the read long before: that is the store's to see.
const loadTimeout = time.Minute

// asyncGroup is what the owner has started in other goroutines. All end before its state is dropped. It is the owner's goroutine that starts.
type asyncGroup struct {
	ctx context.Context
	wg  sync.WaitGroup

	bounded context.Context // Of what began since.
	since   time.Time
}

// alike is how long what begins has one context: with its timer, it costs as much as reading that there is nothing.
const alike = time.Second

// start runs fn in another goroutine by way of run; false: none was free.
func (g *asyncGroup) start(run func(func(context.Context)) bool, fn func(context.Context)) bool {
	g.wg.Add(1)
	ctx := g.context()
	if run(func(context.Context) {
		defer g.wg.Done()
		fn(ctx)
	}) {
		return true
	}
	g.wg.Done()
	return false
}

// own runs fn in a goroutine that needs no slot, for what there is one of at a time.
func (g *asyncGroup) own(fn func(context.Context)) {
	ctx := g.context()
	g.wg.Go(func() { fn(ctx) })
}

func (g *asyncGroup) context() context.Context {
	if now := time.Now(); g.bounded == nil || now.Sub(g.since) >= alike {
		ctx, cancel := context.WithTimeout(g.ctx, readTimeout+alike)
		context.AfterFunc(ctx, cancel)
		g.bounded, g.since = ctx, now
	}
	return g.bounded
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
	reign := o.async.ctx
	return o.async.start(o.Load, func(ctx context.Context) {
		l := o.fetch(ctx, reign, c.App, c.ID, c.Kind)
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

// fetch reads what there is of a conversation, within ctx while that may be nothing.
func (o *owner) fetch(ctx, reign context.Context, app, id string, kind protocol.Kind) (l loaded) {
	st, conversation := o.Services.Store, store.Conversation{App: app, ID: id}
	var newest []*logv1.Record
	if newest, l.err = st.Range(ctx, conversation, 1, store.MaxSeq, 1, true); l.err != nil {
		return l
	}
	if len(newest) == 0 {
		// Nothing of it is in the store, and what is written of members and lists follows from records: the window has all there is. So is
		// it with most ids that are asked for, the logs of users who never were in a group among them.
		return l
	}
	l.newest = newest[0]
	many := ctx // The two members of a direct conversation are one read.
	if kind != protocol.KindDirect {
		var cancel context.CancelFunc
		many, cancel = context.WithTimeout(reign, loadTimeout)
		defer cancel()
	}
	if l.members, l.err = st.Members(many, conversation); l.err != nil {
		return l
	}
	switch kind {
	case protocol.KindGroup:
		ctx, cancel := context.WithTimeout(many, readTimeout)
		defer cancel()
		l.first, l.err = one(ctx, st, conversation, 1)
		if l.err == nil && len(l.members) >= minLarge*3/4 {
			l.change, l.err = one(ctx, st, conversation, state.LastChange(l.members))
		}
	case protocol.KindUser:
		l.err = st.List(many, app, id[len("u:"):], func(row store.Listing) error {
			l.listing = append(l.listing, row)
			return nil
		})
	}
	return l
}

// one reads a record; nil: it is not in the store.
func one(ctx context.Context, st store.Records, c store.Conversation, seq uint64) (*logv1.Record, error) {
	records, err := st.Range(ctx, c, seq, seq, 1, false)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	return records[0], nil
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
		o.forgetAbsent(c)
	}
}

// forgetAbsent has an id of which nothing was written leave behind next to nothing, once its requests are decided.
func (o *owner) forgetAbsent(c *cell) {
	o.queue.post(func() {
		if c.loaded && !c.Exists() && c.idle(o.floor, o.toldTo) && o.forget(c) {
			o.absent.add(key{c.App, c.ID})
		}
	})
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
func (o *owner) forget(c *cell) bool {
	k := key{c.App, c.ID}
	if o.cells[k] != c {
		return false
	}
	delete(o.cells, k)
	return true
}

// search looks for an earlier transmission of r in what the window does not hold: the store, and behind it what only the log is
// sure to have. The conversation waits: what follows r must not overtake it. It reports false where r is new by what is in memory alone.
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
	known := c.Known()
	logged := c.Window.Candidates(r.User, r.Device, r.ClientID, r.Since)
	if len(logged) == 0 && known <= r.Since+1 {
		return false
	}
	req := *r
	c.loading = true
	if o.async.start(o.Load, func(ctx context.Context) {
		found, err := o.inLog(ctx, &req, logged)
		from := req.Since/searchPage*searchPage + 1
		read := err == nil && found == nil && known > req.Since+1
		var writes []state.Written
		if read {
			writes, err = o.inStore(ctx, store.Conversation{App: c.App, ID: c.ID}, from, known-1)
		}
		o.queue.post(func() {
			c.loading = false
			again := err == nil && read && !o.recall(c, from, known-1, writes)
			if read {
				found = c.Window.Find(req.User, req.Device, req.ClientID, req.Since)
			}
			switch {
			case err != nil:
				o.complain("history cannot be searched for a retry", "conversation", c.ID, "err", err)
				o.refuse(&req, protocol.Errorf(protocol.CodeRetry, "the history store does not answer"))
			case found != nil:
				o.metrics.duplicates.Inc()
				o.ack(&req, found, true)
			default:
				if !again {
					req.Since = last // Nothing up to here.
				}
				c.held = append([]link.Request{req}, c.held...)
				o.held++
				o.heldBytes += len(req.Body)
			}
			o.trim(c)
			o.release(c)
		})
	}) {
		return true
	}
	c.loading = false
	o.refuse(r, errManyReads)
	return true
}

// inLog looks at the records of the log that may be r.
func (o *owner) inLog(ctx context.Context, r *link.Request, candidates []state.Place) (*logv1.Record, error) {
	for _, place := range candidates {
		records, err := o.logged(ctx, store.Conversation{App: r.App, ID: r.Conversation}, []state.Place{place})
		if err != nil {
			return nil, err
		}
		if len(records) == 1 && records[0].ClientId == r.ClientID && records[0].Sender == r.User && records[0].Device == r.Device {
			return records[0], nil
		}
	}
	return nil, nil
}

// searchPage is how many records a search reads at once. It begins at a multiple: those who ask again after an outage name heads that are
// close to each other, and few reads should answer them all.
const searchPage = 500

// inStore reads who wrote a stretch of history, in pages.
func (o *owner) inStore(ctx context.Context, c store.Conversation, from, last uint64) (out []state.Written, err error) {
	for from <= last {
		o.metrics.searches.Inc()
		records, err := o.Services.Store.Range(ctx, c, from, last, searchPage, false)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			out = append(out, state.WrittenOf(r))
		}
		if len(records) < searchPage {
			return out, nil
		}
		from = records[len(records)-1].Seq + 1
	}
	return out, nil
}

// What searches read is kept for so many ticks, and no more writes than these in one partition: who asks again after an outage does so
// within seconds.
const (
	recallTicks = 30
	recallMost  = 100_000
)

// recall keeps what was read of the store for the retries that follow. It reports false where the window has moved on meanwhile.
func (o *owner) recall(c *cell, from, to uint64, writes []state.Written) bool {
	first := c.Window.Recalled() == 0
	if !c.Recall(from, to, writes) {
		return false
	}
	if first {
		c.recalled = o.tick
		o.recalled = append(o.recalled, c)
	}
	o.forgetRecalled()
	return true
}

// forgetRecalled lets go of what was kept for long enough, and of the oldest beyond the bound but for the last.
func (o *owner) forgetRecalled() {
	total := 0
	for _, c := range o.recalled {
		if !c.loading {
			c.Window.Forget(lowered(c.Head.Seq, uint64(o.cfg.SearchRecords)))
		}
		total += c.Window.Recalled()
	}
	for len(o.recalled) > 0 {
		c := o.recalled[0]
		n := c.Window.Recalled()
		if n > 0 && (c.loading || o.tick < c.recalled+recallTicks && (total <= recallMost || len(o.recalled) == 1)) {
			return
		}
		c.Window.Forget(c.Head.Seq + 1)
		o.recalled[0] = nil
		o.recalled = o.recalled[1:]
		total -= n
	}
	o.recalled = nil
}

// apply tells the features of a record.
func (o *owner) apply(c *cell, r *logv1.Record) {
	for _, f := range o.Features {
		f.Apply(c.Conversation, r)
	}
}
