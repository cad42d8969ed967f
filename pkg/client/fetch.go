package client

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// fetch reads the next page of what the application lacks of a conversation. A few run at a time; the others wait their turn.
func (c *Client) fetch(conv *conversation) {
	conv.fetchAt = time.Time{}
	switch {
	case c.link == nil || !conv.tracked || conv.fetching || conv.fetchQueued || conv.stalled || conv.cursor >= conv.head:
		return
	case c.sync.fetches >= maxFetches:
		conv.fetchQueued = true
		c.sync.waiting = append(c.sync.waiting, conv)
		return
	}
	body, err := (&conversationv1.HistoryRequest{AfterSeq: conv.cursor, Limit: conv.page}).MarshalVT()
	if err != nil {
		return
	}
	conv.fetching = true
	c.sync.fetches++
	c.request(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: conv.id, Body: body,
	}, func(f *envelopev1.Frame, err error) {
		conv.fetching = false
		if errors.Is(err, errDisconnected) {
			// Perhaps because of this page: a server bounds what may wait for a slow reader.
			conv.page = max(conv.page/2, 1)
			return
		}
		c.sync.fetches--
		c.fetched(conv, f, err)
		c.fetchNext()
	})
}

func (c *Client) fetchNext() {
	for len(c.sync.waiting) > 0 && c.sync.fetches < maxFetches {
		conv := c.sync.waiting[0]
		c.sync.waiting = c.sync.waiting[1:]
		conv.fetchQueued = false
		c.fetch(conv)
	}
}

// fetched takes a page. History is in order but may have gaps of its own: what lies between two memberships is not this
// user's to read.
func (c *Client) fetched(conv *conversation, f *envelopev1.Frame, err error) {
	reply := &conversationv1.HistoryReply{}
	if err == nil {
		err = reply.UnmarshalVT(f.Body)
	}
	var refusal *protocol.Error
	if errors.As(err, &refusal) && !refusal.Code.Retryable() {
		c.giveUp(conv)
		return
	}
	if err != nil {
		wait := rand.N(500 * time.Millisecond)
		if refusal != nil {
			wait += refusal.RetryAfter
		}
		c.fetchLater(conv, wait)
		return
	}
	conv.page = min(conv.page*2, maxPage)
	for _, r := range reply.Records {
		if r.Seq > conv.cursor && !c.deliver(conv, r) {
			return
		}
	}
	c.drain(conv)
	switch {
	case conv.cursor >= conv.head || conv.stalled:
	case reply.More:
		c.fetch(conv)
	case reply.HeadSeq >= conv.head && len(conv.early) == 0:
		// All there is up to the head was given; the rest of it is not readable.
		c.giveUp(conv)
	default: // What was heard of is not in history yet, or the owner is changing.
		if conv.fruitless++; conv.fruitless > maxFruitless {
			c.giveUp(conv)
			return
		}
		c.fetchLater(conv, c.limits.GapGrace)
	}
}

// giveUp takes the cursor for all that can be had; the next push or comparison of heads looks again.
func (c *Client) giveUp(conv *conversation) {
	conv.head, conv.early, conv.fruitless = conv.cursor, nil, 0
	delete(c.sync.goals, conv)
}

func (c *Client) fetchLater(conv *conversation, wait time.Duration) {
	conv.fetchAt = time.Now().Add(wait)
	c.dueNow(conv)
}
