package conversation

import (
	"context"
	"slices"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// page is a read of history: the records of some intervals, ascending or the newest first, up to limit.
type page struct {
	conversation store.Conversation
	// What the caller may read of what it asked for, ascending.
	intervals []store.Interval
	limit     int
	newest    bool
	// The newest records, from memory. What lies below held[0] is in the log as far as logged says, and below that in the store.
	held   []*logv1.Record
	logged []state.Place
	lowest uint64 // of the window
	// The page ends with logged, for more blocks than it may read hold the rest.
	cut  bool
	head uint64
}

// pageBlocks is how many blocks of the log a page reads at most: each may hold a thousand records of others.
const pageBlocks = 32

func history(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.HistoryRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	limit, err := windowSize(req.Limit)
	if err != nil {
		return feature.Refuse(err)
	}
	p := page{
		conversation: store.Conversation{App: c.App, ID: c.ID}, limit: limit + 1, newest: req.BeforeSeq > 0,
	}
	readable := c.Readable(r.User)
	if r.Server && r.User == "" && c.Exists() { // With a user, it reads as that user does.
		readable = []store.Interval{{From: 1, To: c.Head.Seq}}
	}
	if n := len(readable); n > 0 {
		p.head = readable[n-1].To
	}
	from, to := min(req.AfterSeq, c.Head.Seq)+1, c.Head.Seq
	if p.newest {
		from, to = 1, min(req.BeforeSeq-1, to)
	}
	p.intervals = clip(readable, from, to)
	p.held = p.inMemory(c)
	if records, whole := p.fromMemory(c.Window.First()); whole {
		return feature.Outcome{Reply: p.reply(records, limit)}
	}
	p.inLog(c)
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		records, err := p.read(ctx, &s)
		if err != nil {
			return nil, err
		}
		return p.reply(records, limit), nil
	}}
}

func windowSize(limit uint32) (int, *protocol.Error) {
	switch {
	case limit == 0:
		return defaultWindow, nil
	case limit > maxWindow:
		return 0, protocol.Invalid("limit", "%d, at most %d", limit, maxWindow)
	}
	return int(limit), nil
}

// clip cuts intervals to [from, to].
func clip(intervals []store.Interval, from, to uint64) []store.Interval {
	var out []store.Interval
	for _, i := range intervals {
		i.From, i.To = max(i.From, from), min(i.To, to)
		if i.From <= i.To {
			out = append(out, i)
		}
	}
	return out
}

// inMemory collects, ascending, what the window holds of the page: as many as the page can use.
func (p *page) inMemory(c *state.Conversation) []*logv1.Record {
	var out []*logv1.Record
	if p.newest {
		for _, i := range slices.Backward(p.intervals) {
			held := c.Window.Range(i.From, i.To)
			for _, e := range slices.Backward(held) {
				if len(out) == p.limit {
					slices.Reverse(out)
					return out
				}
				out = append(out, e.Record)
			}
		}
		slices.Reverse(out)
		return out
	}
	for _, i := range p.intervals {
		for _, e := range c.Window.Range(i.From, i.To) {
			if len(out) == p.limit {
				return out
			}
			out = append(out, e.Record)
		}
	}
	return out
}

// fromMemory answers without the store where it can: when the page is full of held records, or nothing of it lies below them.
func (p *page) fromMemory(first uint64) ([]*logv1.Record, bool) {
	if len(p.intervals) == 0 {
		return nil, true
	}
	below := first == 0 || p.intervals[0].From < first
	if !below || p.newest && len(p.held) == p.limit {
		return p.held, true
	}
	return nil, false
}

// inLog collects, ascending, where the log has what the page can use of the records below the held ones.
func (p *page) inLog(c *state.Conversation) {
	p.lowest = c.Window.Lowest()
	below, left := p.belowHeld(), p.limit
	if p.newest {
		left -= len(p.held)
		slices.Reverse(below)
	}
	var places []state.Place
	for _, i := range below {
		found := c.Window.Places(i.From, i.To, left-len(places), p.newest)
		if p.newest {
			slices.Reverse(found)
		}
		places = append(places, found...)
	}
	blocks := 0
	for i := range places {
		if i > 0 && places[i].Block == places[i-1].Block {
			continue
		}
		if blocks++; blocks > pageBlocks {
			places, p.cut = places[:i], true
			break
		}
	}
	if p.newest {
		slices.Reverse(places)
	}
	p.logged = places
}

func (p *page) belowHeld() []store.Interval {
	if len(p.held) == 0 {
		return slices.Clone(p.intervals)
	}
	return clip(p.intervals, 1, p.held[0].Seq-1)
}

// read fetches what lies below the held records.
func (p *page) read(ctx context.Context, s *feature.Services) ([]*logv1.Record, error) {
	var out []*logv1.Record
	var err error
	if p.newest {
		if out, err = p.fromLog(ctx, s); err != nil {
			return nil, err
		}
		out = append(out, p.held...)
		if p.cut || len(out) >= p.limit {
			return out, nil
		}
		older, err := p.fromStore(ctx, s.Store, p.limit-len(out))
		return append(older, out...), err
	}
	if out, err = p.fromStore(ctx, s.Store, p.limit); err != nil || len(out) >= p.limit {
		return out, err
	}
	p.logged = p.logged[:min(len(p.logged), p.limit-len(out))]
	logged, err := p.fromLog(ctx, s)
	if err != nil {
		return nil, err
	}
	if out = append(out, logged...); p.cut {
		return out, nil
	}
	return append(out, p.held[:min(len(p.held), p.limit-len(out))]...), nil
}

func (p *page) fromLog(ctx context.Context, s *feature.Services) ([]*logv1.Record, error) {
	if len(p.logged) == 0 {
		return nil, nil
	}
	return s.Log(ctx, p.conversation, p.logged)
}

// fromStore reads what lies below the window, at most limit records, ascending.
func (p *page) fromStore(ctx context.Context, st store.Records, limit int) ([]*logv1.Record, error) {
	below := p.intervals
	if p.lowest > 0 {
		below = clip(below, 1, p.lowest-1)
	}
	var out []*logv1.Record
	if !p.newest {
		for _, i := range below {
			if len(out) >= limit {
				break
			}
			records, err := st.Range(ctx, p.conversation, i.From, i.To, limit-len(out), false)
			if err != nil {
				return nil, err
			}
			out = append(out, records...)
		}
		return out, nil
	}
	for _, i := range slices.Backward(below) {
		if len(out) >= limit {
			break
		}
		records, err := st.Range(ctx, p.conversation, i.From, i.To, limit-len(out), true)
		if err != nil {
			return nil, err
		}
		out = append(slices.Clone(records), out...)
	}
	return out, nil
}

// pageBytes is what the records of a page have at most, but for a single one that is larger: a page that fills a device's outbox would
// close it as a slow reader, which would ask for the same page again.
const pageBytes = 64 << 10

// fitting is how many of the records, from the end that was asked for, a page of at most limit holds.
func (p *page) fitting(records []*logv1.Record, limit int) int {
	size := 0
	for n := range min(limit, len(records)) {
		r := records[n]
		if p.newest {
			r = records[len(records)-1-n]
		}
		if size += r.SizeVT(); size > pageBytes && n > 0 {
			return n
		}
	}
	return min(limit, len(records))
}

// reply encodes at most limit records; one more than that was asked for, to know whether there are more.
func (p *page) reply(records []*logv1.Record, limit int) protocol.Message {
	n := p.fitting(records, limit)
	out := &conversationv1.HistoryReply{HeadSeq: p.head, More: len(records) > n || p.cut}
	if p.newest {
		records = records[len(records)-n:]
	} else {
		records = records[:n]
	}
	for _, r := range records {
		client, err := protocol.ClientRecord(r)
		if err != nil {
			// A record that this server cannot read is passed over here and stays in the store; a hole that a device
			// notices is better than a history that nobody can read.
			continue
		}
		out.Records = append(out.Records, client)
	}
	return out
}
