package client

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// Text is a message of plain text.
func Text(s string) *messagev1.Message {
	return &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: s}}}
}

// Send writes a message and waits until it is stored. Reconnects and retries happen within; when ctx ends first, the message
// is still on its way.
func (c *Client) Send(ctx context.Context, conversation string, m *messagev1.Message) (*recordv1.Ack, error) {
	return wait(ctx)(c.SendAsync(conversation, m))
}

// SendAsync puts a message into the outbox. Messages of one conversation are stored in the order of these calls.
func (c *Client) SendAsync(conversation string, m *messagev1.Message) (*Pending, error) {
	return c.write(envelopev1.Command_COMMAND_MESSAGE_SEND, conversation, m)
}

// CreateGroup makes a group of the caller and members; the ack names it.
func (c *Client) CreateGroup(ctx context.Context, name string, members ...string) (*recordv1.Ack, error) {
	return wait(ctx)(c.write(envelopev1.Command_COMMAND_CONVERSATION_CREATE, "", &conversationv1.CreateRequest{Name: name, Members: members}))
}

// Add makes users members of a group.
func (c *Client) Add(ctx context.Context, conversation string, members ...string) (*recordv1.Ack, error) {
	return wait(ctx)(c.write(envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation, &conversationv1.AddRequest{Members: members}))
}

// Remove takes users out of a group.
func (c *Client) Remove(ctx context.Context, conversation string, members ...string) (*recordv1.Ack, error) {
	return wait(ctx)(c.write(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, conversation, &conversationv1.RemoveRequest{Members: members}))
}

// Leave takes the caller out of a group.
func (c *Client) Leave(ctx context.Context, conversation string) (*recordv1.Ack, error) {
	return wait(ctx)(c.write(envelopev1.Command_COMMAND_CONVERSATION_LEAVE, conversation, &conversationv1.LeaveRequest{}))
}

func wait(ctx context.Context) func(*Pending, error) (*recordv1.Ack, error) {
	return func(p *Pending, err error) (*recordv1.Ack, error) {
		if err != nil {
			return nil, err
		}
		return p.Wait(ctx)
	}
}

func (c *Client) write(command envelopev1.Command, conversation string, m protocol.Message) (*Pending, error) {
	if command != envelopev1.Command_COMMAND_CONVERSATION_CREATE && protocol.KindOf(conversation) == protocol.KindInvalid {
		return nil, protocol.Invalid("conversation", "%q is not an id such as d:alice:bob or g:7", conversation)
	}
	body, err := m.MarshalVT()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped:
		return nil, ErrStopped
	case c.outbox >= c.limits.Outbox:
		return nil, ErrOutboxFull
	}
	w := Write{ClientID: ids.NewClientID(), Conversation: conversation, Command: command, Body: body}
	if err := c.opts.Store.PutWrite(w); err != nil {
		return nil, err
	}
	p := c.enqueue(w)
	key := conversation
	if key == "" {
		key = createPrefix + w.ClientID
	}
	c.pump(c.conversations[key], time.Now())
	return p, nil
}

// History reads records of a conversation: those after afterSeq, oldest first, or with beforeSeq the newest before it.
func (c *Client) History(ctx context.Context, conversation string, q *conversationv1.HistoryRequest) (*conversationv1.HistoryReply, error) {
	return query(ctx, c, envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation, q, &conversationv1.HistoryReply{})
}

// Heads asks where conversations stand; those that the user has no part in are left out.
func (c *Client) Heads(ctx context.Context, conversations ...string) ([]*Head, error) {
	var heads []*Head
	for {
		q := &conversationv1.HeadsRequest{Conversations: conversations}
		reply, err := query(ctx, c, envelopev1.Command_COMMAND_CONVERSATION_HEADS, "", q, &conversationv1.HeadsReply{})
		if err != nil {
			return nil, err
		}
		heads = append(heads, reply.Heads...)
		if conversations = reply.Unanswered; len(conversations) == 0 {
			return heads, nil
		}
	}
}

// List reads a window of the user's conversations, newest first.
func (c *Client) List(ctx context.Context, q *conversationv1.ListRequest) (*conversationv1.ListReply, error) {
	return query(ctx, c, envelopev1.Command_COMMAND_CONVERSATION_LIST, "", q, &conversationv1.ListReply{})
}

// Members reads a page of a group's members.
func (c *Client) Members(ctx context.Context, conversation string, q *conversationv1.MembersRequest) (*conversationv1.MembersReply, error) {
	return query(ctx, c, envelopev1.Command_COMMAND_CONVERSATION_MEMBERS, conversation, q, &conversationv1.MembersReply{})
}

// readMark is how far the user has read a conversation, repeated on connects for a while: the server keeps it in memory for some
// seconds before it stores it.
type readMark struct {
	seq uint64
	at  time.Time
}

const repeatReadsFor = time.Minute

// MarkRead moves the user's read cursor forward.
func (c *Client) MarkRead(ctx context.Context, conversation string, seq uint64) (*receiptv1.Cursor, error) {
	c.mu.Lock()
	now := time.Now()
	maps.DeleteFunc(c.reads, func(_ string, m readMark) bool { return now.Sub(m.at) > repeatReadsFor })
	c.reads[conversation] = readMark{max(seq, c.reads[conversation].seq), now}
	c.mu.Unlock()
	return query(ctx, c, envelopev1.Command_COMMAND_RECEIPT_READ, conversation, &receiptv1.ReadRequest{Seq: seq}, &receiptv1.Cursor{})
}

// Typing tells the other members that the user types, or stopped. It does not wait: late, it would be untrue.
func (c *Client) Typing(conversation string, stopped bool) error {
	body, err := (&signalv1.TypingRequest{Stopped: stopped}).MarshalVT()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return ErrNotConnected
	}
	c.request(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_SIGNAL_TYPING, Conversation: conversation, Body: body,
	}, func(*envelopev1.Frame, error) {})
	return nil
}

// repeat tells a new session what the last one knew, but for read marks of conversations whose heads are asked for: the answer says
// whether the server has them (repeatRead). It runs under the lock.
func (c *Client) repeat() {
	for id, mark := range c.reads {
		if conv := c.conversations[id]; conv == nil || !conv.asking {
			c.sendRead(id, mark.seq)
		}
	}
	c.renewAll()
}

// repeatRead marks a conversation read again if the server has forgotten it.
func (c *Client) repeatRead(h *Head) {
	if mark, ok := c.reads[h.Conversation]; ok && mark.seq > h.ReadSeq {
		c.sendRead(h.Conversation, mark.seq)
	}
}

func (c *Client) sendRead(conversation string, seq uint64) {
	if body, err := (&receiptv1.ReadRequest{Seq: seq}).MarshalVT(); err == nil {
		c.request(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECEIPT_READ, Conversation: conversation, Body: body},
			func(*envelopev1.Frame, error) {})
	}
}

// query asks until it is answered: reads may be repeated freely.
func query[R protocol.Message](ctx context.Context, c *Client, command envelopev1.Command, conversation string, q protocol.Message, reply R) (R, error) {
	var none R
	body, err := q.MarshalVT()
	if err != nil {
		return none, err
	}
	pause := backOff{first: 50 * time.Millisecond, most: 5 * time.Second}
	for {
		f, err := c.ask(ctx, &envelopev1.Frame{Command: command, Conversation: conversation, Body: body})
		if err == nil {
			return reply, reply.UnmarshalVT(f.Body)
		}
		var refusal *protocol.Error
		switch {
		case errors.As(err, &refusal) && refusal.Code.Retryable():
			select {
			case <-ctx.Done():
				return none, errors.Join(ctx.Err(), refusal)
			case <-time.After(pause.next(refusal.RetryAfter)):
			}
		case !errors.Is(err, errDisconnected):
			return none, err
		}
	}
}

// ask waits for a connection, sends f and waits for its answer.
func (c *Client) ask(ctx context.Context, f *envelopev1.Frame) (*envelopev1.Frame, error) {
	type answer struct {
		f   *envelopev1.Frame
		err error
	}
	for {
		c.mu.Lock()
		if c.stopped {
			c.mu.Unlock()
			return nil, ErrStopped
		}
		up := c.up
		if c.link != nil {
			break
		}
		c.mu.Unlock()
		select {
		case <-up:
		case <-c.life.Done():
			return nil, ErrStopped
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	answers := make(chan answer, 1)
	c.request(f, func(f *envelopev1.Frame, err error) { answers <- answer{f, err} })
	c.mu.Unlock()
	select {
	case a := <-answers:
		return a.f, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
