package client

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// conversation is where one stands on this device.
type conversation struct {
	id string
	// tracked: cursor is the seq of the last record given to the application.
	tracked bool
	cursor  uint64
	// The highest seq heard of. headKnown: the server was asked at least once, so head is a lower bound of the truth.
	head      uint64
	headKnown bool
	asking    bool // Its head is wanted or on the way.

	// Records that came before their predecessors.
	early map[uint64]*recordv1.Record
	// A page of history is on the way, waits for its turn, or is due.
	fetching, fetchQueued bool
	fetchAt               time.Time
	page                  uint32
	fruitless             int
	// stalled: the handler's queue was full; history has the rest.
	stalled bool

	queued
}

const (
	maxEarly   = 256
	maxPage    = 100
	maxFetches = 8
	maxHeads   = 200
	// After this many pages that brought nothing, what was heard of is taken for unreadable.
	maxFruitless = 20
)

// syncState is the comparison of heads after a connect or a resync.
type syncState struct {
	// resumed: the store knew cursors. baseline: so it did, or the first comparison is over; conversations that turn up from
	// then on were joined since.
	resumed, baseline bool
	// Heads to ask for, and the question on the way.
	wanted   map[*conversation]struct{}
	asking   int
	askAt    time.Time
	putOff   backOff // what askAt comes from
	resyncAt time.Time

	// Where conversations must come for this connection to have recovered; told says that the application knows.
	goals map[*conversation]uint64
	told  bool

	fetches int
	waiting []*conversation // for a fetch
	stalled map[*conversation]struct{}
}

func (s *syncState) abort() {
	for conv := range s.wanted {
		conv.asking = false
	}
	for _, conv := range s.waiting {
		conv.fetchQueued = false
	}
	*s = syncState{resumed: s.resumed, baseline: s.baseline, stalled: s.stalled, putOff: s.putOff}
}

func (c *Client) conversation(id string) *conversation {
	conv := c.conversations[id]
	if conv == nil {
		conv = &conversation{id: id, page: maxPage}
		c.conversations[id] = conv
	}
	return conv
}

// startSync asks where everything stands.
func (c *Client) startSync() {
	s := &c.sync
	s.baseline = s.baseline || s.resumed
	s.goals = map[*conversation]uint64{}
	s.resyncAt = time.Time{}
	c.conversation(protocol.UserLog(c.self)).tracked = true
	for _, conv := range c.conversations {
		if conv.tracked || conv.headKnown || len(conv.early) > 0 {
			if protocol.KindOf(conv.id) != protocol.KindInvalid {
				c.askHead(conv)
			}
		}
	}
}

func (c *Client) resyncIn(delay time.Duration) {
	c.sync.resyncAt = time.Now().Add(delay)
	c.poke()
}

// askHead wants the head of a conversation; questions are gathered.
func (c *Client) askHead(conv *conversation) {
	if conv.asking || c.link == nil {
		return
	}
	conv.asking = true
	if c.sync.wanted == nil {
		c.sync.wanted = map[*conversation]struct{}{}
	}
	c.sync.wanted[conv] = struct{}{}
	c.poke()
}

// syncTick does what is due and says when to come again; zero: nothing is due.
func (c *Client) syncTick(now time.Time) time.Time {
	s := &c.sync
	if !s.resyncAt.IsZero() && !now.Before(s.resyncAt) {
		c.startSync()
	}
	if len(s.wanted) > 0 && s.asking == 0 && !now.Before(s.askAt) {
		batch := slices.Collect(maps.Keys(s.wanted))
		c.askHeads(batch[:min(len(batch), maxHeads)])
	}
	if len(s.stalled) > 0 && !c.events.full() {
		stalled := s.stalled
		s.stalled = nil
		for conv := range stalled {
			conv.stalled = false
			c.fetch(conv)
		}
	}
	c.recovered()
	next := s.resyncAt
	if len(s.wanted) > 0 && s.asking == 0 && (next.IsZero() || s.askAt.Before(next)) {
		next = s.askAt
	}
	return next
}

func (c *Client) askHeads(batch []*conversation) {
	ids := make([]string, len(batch))
	for i, conv := range batch {
		ids[i] = conv.id
		delete(c.sync.wanted, conv)
	}
	slices.Sort(ids)
	body, err := (&conversationv1.HeadsRequest{Conversations: ids}).MarshalVT()
	if err != nil {
		return
	}
	c.sync.asking++
	c.request(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONVERSATION_HEADS, Body: body}, func(f *envelopev1.Frame, err error) {
		for _, conv := range batch {
			conv.asking = false
		}
		if errors.Is(err, errDisconnected) {
			return // The next connection asks again.
		}
		c.sync.asking--
		reply := &conversationv1.HeadsReply{}
		if err == nil {
			err = reply.UnmarshalVT(f.Body)
		}
		if err != nil {
			c.headsFailed(batch, err)
			return
		}
		heads := map[string]*Head{}
		for _, h := range reply.Heads {
			heads[h.Conversation] = h
		}
		var unanswered []*conversation
		for _, conv := range batch {
			if slices.Contains(reply.Unanswered, conv.id) {
				unanswered = append(unanswered, conv)
				continue
			}
			c.headAnswered(conv, heads[conv.id])
		}
		if len(unanswered) > 0 {
			c.headsFailed(unanswered, errTimeout)
		} else {
			c.sync.putOff.reset()
		}
	})
}

// headsFailed asks again, unless the question itself is refused: then the conversations are asked for one by one, so that one
// that the server does not take hides no other.
func (c *Client) headsFailed(batch []*conversation, err error) {
	var refusal *protocol.Error
	if errors.As(err, &refusal) && !refusal.Code.Retryable() {
		if len(batch) == 1 {
			c.headAnswered(batch[0], nil)
			return
		}
		for _, conv := range batch {
			conv.asking = true
			c.askHeads([]*conversation{conv})
		}
		return
	}
	wait := time.Duration(0)
	if refusal != nil {
		wait = refusal.RetryAfter
	}
	c.sync.askAt = time.Now().Add(c.sync.putOff.next(wait))
	for _, conv := range batch {
		c.askHead(conv)
	}
}

// headAnswered takes a head; nil: there is none for this user.
func (c *Client) headAnswered(conv *conversation, h *Head) {
	conv.headKnown = true
	if h != nil {
		conv.head = max(conv.head, h.Seq)
		if !conv.tracked {
			c.track(conv, h)
		}
		if !c.sync.told && conv.cursor < h.Seq {
			c.sync.goals[conv] = h.Seq
		}
		if h.Last != nil && h.Last.Seq == conv.cursor+1 { // All that is missing: history need not be asked for it.
			c.arrived(conv, h.Last)
		}
		c.repeatRead(h)
		if conv.cursor < conv.head {
			c.fetch(conv)
		}
	} else if !conv.tracked {
		conv.early = nil
	}
	c.pump(conv, time.Now())
}

// track begins the application's view of a conversation.
func (c *Client) track(conv *conversation, h *Head) {
	conv.tracked = true
	if c.sync.baseline || c.opts.Start == StartAtJoin {
		conv.cursor = max(h.JoinedSeq, 1) - 1
	} else {
		conv.cursor = h.Seq
		for seq := range conv.early {
			conv.cursor = min(conv.cursor, seq-1)
		}
	}
	c.drain(conv)
}

// recovered tells the application, once for each connection, that nothing is missing any more.
func (c *Client) recovered() {
	s := &c.sync
	if s.told || c.link == nil || len(s.wanted) > 0 || s.asking > 0 || len(s.goals) > 0 {
		return
	}
	s.told = c.events.put(State{Connected: true, Recovered: true})
	s.baseline = true
}

// pushed takes a record that the server sent by itself.
func (c *Client) pushed(id string, r *recordv1.Record) {
	if protocol.KindOf(id) == protocol.KindInvalid || r.Seq == 0 {
		return
	}
	conv := c.conversation(id)
	if !conv.tracked && slices.Contains(r.Joined, c.self) {
		conv.tracked, conv.cursor = true, r.Seq-1 // It begins here.
	}
	c.arrived(conv, r)
}

// headPushed takes a head that stands for records too many to push.
func (c *Client) headPushed(h *Head) {
	if protocol.KindOf(h.Conversation) != protocol.KindInvalid {
		c.headRose(c.conversation(h.Conversation), h.Seq)
	}
}

// headRose has history asked for what is missing up to seq.
func (c *Client) headRose(conv *conversation, seq uint64) {
	conv.head = max(conv.head, seq)
	switch {
	case !conv.tracked:
		c.askHead(conv)
	case conv.cursor < conv.head:
		c.fetch(conv)
	}
}

// arrived gives a record to the application if it is the next, and keeps it if it is early.
func (c *Client) arrived(conv *conversation, r *recordv1.Record) {
	conv.head = max(conv.head, r.Seq)
	switch {
	case conv.tracked && (r.Seq <= conv.cursor || conv.stalled):
		return
	case conv.tracked && r.Seq == conv.cursor+1:
		if c.deliver(conv, r) {
			c.drain(conv)
		}
		return
	}
	if conv.early == nil {
		conv.early = map[uint64]*recordv1.Record{}
	}
	if len(conv.early) < maxEarly {
		conv.early[r.Seq] = r
	}
	switch {
	case !conv.tracked:
		c.askHead(conv)
	case conv.fetchAt.IsZero() && !conv.fetching && !conv.fetchQueued:
		// An ack overtakes the pushes before it as a rule; asking at once would double every busy conversation's traffic.
		conv.fetchAt = time.Now().Add(c.limits.GapGrace)
		c.dueNow(conv)
	}
}

// deliver puts the next record into the handler's queue. Without room the conversation stalls, and is fetched when there is.
func (c *Client) deliver(conv *conversation, r *recordv1.Record) bool {
	if !c.events.put(Record{conv.id, r}) {
		conv.stalled, conv.early = true, nil
		if c.sync.stalled == nil {
			c.sync.stalled = map[*conversation]struct{}{}
		}
		c.sync.stalled[conv] = struct{}{}
		return false
	}
	conv.cursor = r.Seq
	conv.head = max(conv.head, r.Seq)
	conv.fruitless = 0
	c.reached(conv)
	if s := r.GetStanding(); s != nil && conv.id == protocol.UserLog(c.self) && s.Member {
		if joined := c.conversation(s.Conversation); !joined.tracked && protocol.KindOf(s.Conversation) != protocol.KindInvalid {
			c.askHead(joined)
		}
	}
	return true
}

// reached takes a conversation off what this connection has to recover.
func (c *Client) reached(conv *conversation) {
	if goal, ok := c.sync.goals[conv]; ok && conv.cursor >= goal {
		delete(c.sync.goals, conv)
	}
}

// drain gives the early records that are next.
func (c *Client) drain(conv *conversation) {
	for seq := range conv.early {
		if seq <= conv.cursor {
			delete(conv.early, seq)
		}
	}
	for len(conv.early) > 0 {
		r := conv.early[conv.cursor+1]
		if r == nil {
			return
		}
		delete(conv.early, r.Seq)
		if !c.deliver(conv, r) {
			return
		}
	}
	if conv.cursor >= conv.head {
		conv.fetchAt = time.Time{}
	}
}
