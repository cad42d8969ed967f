package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// The order of a device's writes in a conversation rests on one rule: a write names the one before it that has no answer yet,
// and the server takes it only behind that one. So a write that fails on the way takes its successors with it, all are
// answered or lost, and then the queue starts again from its oldest. Nothing is transmitted while a start over waits for
// the answers that are still out.

// Pending is a write on its way.
type Pending struct {
	Write
	done chan struct{}
	ack  *recordv1.Ack
	err  error
}

// Done is closed when the write has its answer.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait returns the answer. An error that is a *protocol.Error is the server's final refusal, ErrStopped means that none is
// known yet, and a context's error that the caller went before the answer came: the write is still on its way.
func (p *Pending) Wait(ctx context.Context) (*recordv1.Ack, error) {
	select {
	case <-p.done:
		return p.ack, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *Pending) finish(ack *recordv1.Ack, err error) {
	p.ack, p.err = ack, err
	close(p.done)
}

// queued is a conversation's outbox.
type queued struct {
	queue    []*Pending // Unanswered, in the order given.
	next     int        // The first of them that is not on the way.
	inFlight int
	// startOver: when nothing is in flight any more and notBefore has come, go on from the oldest.
	startOver bool
	notBefore time.Time
	refused   int // Rounds in a row without an ack.
}

// createPrefix begins the keys of outboxes that hold one create each: what does not exist yet has no order.
const createPrefix = "create "

func (c *Client) enqueue(w Write) *Pending {
	p := &Pending{Write: w, done: make(chan struct{})}
	key := w.Conversation
	if w.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		key = createPrefix + w.ClientID
	}
	conv := c.conversation(key)
	conv.headKnown = conv.headKnown || key != w.Conversation
	conv.queue = append(conv.queue, p)
	c.outbox++
	return p
}

// pump transmits what may be.
func (c *Client) pump(conv *conversation, now time.Time) {
	if c.link == nil || len(conv.queue) == 0 {
		return
	}
	if !conv.headKnown { // Without it, since would be a guess, and a retry might be too old to be judged.
		c.askHead(conv)
		return
	}
	if conv.startOver {
		if conv.inFlight > 0 {
			return
		}
		if now.Before(conv.notBefore) {
			c.dueNow(conv)
			return
		}
		conv.startOver, conv.next, conv.notBefore = false, 0, time.Time{}
	}
	for conv.next < len(conv.queue) && conv.inFlight < c.limits.InFlight {
		p := conv.queue[conv.next]
		if err := c.transmittable(conv, p); err != nil {
			c.answered(conv, p, nil, err)
			return // answered has called pump again.
		}
		after := ""
		if conv.next > 0 {
			after = conv.queue[conv.next-1].ClientID
		}
		conv.next++
		conv.inFlight++
		c.request(&envelopev1.Frame{
			Command: p.Command, Conversation: p.Conversation, ClientId: p.ClientID, After: after, Since: p.Since, Body: p.Body,
		}, func(f *envelopev1.Frame, err error) {
			conv.inFlight--
			c.answered(conv, p, f, err)
		})
	}
}

// transmittable makes sure that the write can be repeated by whoever comes after this process, before it first leaves.
func (c *Client) transmittable(conv *conversation, p *Pending) error {
	if limit := c.hello.GetLimits().GetBodyBytes(); limit > 0 && len(p.Body) > int(limit) {
		return protocol.Errorf(protocol.CodeTooLarge, "body: %d bytes, the limit is %d", len(p.Body), limit)
	}
	if p.Sent {
		return nil
	}
	p.Sent, p.Since = true, max(conv.head, conv.cursor)
	if err := c.opts.Store.PutWrite(p.Write); err != nil {
		return fmt.Errorf("client: the write was not stored, so it was not sent: %w", err)
	}
	return nil
}

// answered takes what became of one transmission.
func (c *Client) answered(conv *conversation, p *Pending, f *envelopev1.Frame, err error) {
	now := time.Now()
	ack := &recordv1.Ack{}
	if err == nil {
		err = ack.UnmarshalVT(f.Body)
	}
	var refusal *protocol.Error
	switch {
	case err == nil:
		c.acked(conv, p, ack)
	case errors.Is(err, errDisconnected):
		conv.startOver = true
	case errors.As(err, &refusal) && refusal.Code.Retryable():
		c.putOff(conv, refusal, now)
	default:
		c.remove(conv, p)
		p.finish(nil, err)
	}
	c.pump(conv, now)
}

// putOff has the queue start over, not before the server wants it. What was on the way behind the write comes back as resend, so
// only the first refusal of a round counts as one.
func (c *Client) putOff(conv *conversation, refusal *protocol.Error, now time.Time) {
	wait := refusal.RetryAfter
	if !conv.startOver {
		conv.startOver = true
		conv.refused++
		if refusal.Code != protocol.CodeResend || conv.refused > 1 {
			wait += rand.N(min(longestPause(refusal.Code), 20*time.Millisecond<<min(conv.refused, 8)))
		}
	}
	if until := now.Add(wait); until.After(conv.notBefore) {
		conv.notBefore = until
	}
}

// longestPause: an owner that changes is back soon and the question costs it nothing; one that is busy is helped by silence.
func longestPause(code protocol.Code) time.Duration {
	if code == protocol.CodeRetry {
		return time.Second
	}
	return 5 * time.Second
}

func (c *Client) acked(conv *conversation, p *Pending, ack *recordv1.Ack) {
	conv.refused = 0
	c.remove(conv, p)
	if ack.Conversation == "" {
		ack.Conversation = p.Conversation
	}
	c.wrote(p, ack)
	p.finish(ack, nil)
}

// remove takes an answered write out of the outbox.
func (c *Client) remove(conv *conversation, p *Pending) {
	if i := slices.Index(conv.queue, p); i >= 0 {
		conv.queue = slices.Delete(conv.queue, i, i+1)
		if conv.next > i {
			conv.next--
		}
		c.outbox--
	}
	if len(conv.queue) == 0 && p.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		delete(c.conversations, conv.id)
	}
	if err := c.opts.Store.DropWrite(p.ClientID); err != nil {
		c.log.Error("an answered write was not dropped; it will be sent again, as a duplicate", "client_id", p.ClientID, "err", err)
	}
}

// wrote shows this device its own record: the server pushes it to the others only.
func (c *Client) wrote(p *Pending, ack *recordv1.Ack) {
	conv := c.conversation(ack.Conversation)
	// A first record tells who joined, and other commands' records are the server's to word: history has them.
	if p.Command != envelopev1.Command_COMMAND_MESSAGE_SEND || ack.Seq == 1 {
		c.headRose(conv, ack.Seq)
		return
	}
	message := &messagev1.Message{}
	if err := message.UnmarshalVT(p.Body); err != nil {
		c.headRose(conv, ack.Seq)
		return
	}
	c.arrived(conv, &recordv1.Record{
		Seq: ack.Seq, Count: ack.Count, Id: ack.Id, Sender: c.self, ClientId: p.ClientID, TimeUs: ack.TimeUs,
		Body: &recordv1.Record_Message{Message: message},
	})
}
