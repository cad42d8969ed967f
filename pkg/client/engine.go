package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// engine is the state of a client, all of it guarded by Client.mu. Nothing here waits.
type engine struct {
	// The life of Run, and the goroutines that fetch tokens within it.
	life    context.Context
	endLife context.CancelFunc
	helpers sync.WaitGroup
	stopped bool

	// The connection; link is nil while there is none, up is closed when there is one.
	link      *conn
	up        chan struct{}
	hello     *envelopev1.Hello
	self      string
	heartbeat time.Duration
	lastSent  time.Time
	lastHeard time.Time

	// The token at hand.
	token        string
	tokenExpires time.Time
	refreshAt    time.Time
	refreshing   bool

	// What lets the next session in sooner, if it opens with the same token; until when, and when it is to be renewed.
	ticket        []byte
	ticketEnds    time.Time
	renewTicketAt time.Time

	// Requests on the way, by id.
	calls      map[uint64]*call
	lastID     uint64
	nextExpiry time.Time

	// Conversations, and those of them with something due at a time.
	conversations map[string]*conversation
	due           map[*conversation]struct{}
	outbox        int

	sync syncState

	// What is repeated on each connection.
	reads map[string]readMark
	watches
}

type call struct {
	expires time.Time
	// done gets the answer, or errDisconnected, or what the server refused it with. It runs under the lock.
	done func(*envelopev1.Frame, error)
}

// errDisconnected: the answer, if there is one, will never come.
var errDisconnected = errors.New("client: connection lost")

// errTimeout: the answer did not come in time; the connection may be fine.
var errTimeout = &protocol.Error{Code: protocol.CodeRetry, Message: "no answer in time"}

func (e *engine) init() {
	e.life, e.endLife = context.WithCancel(context.Background())
	e.up = make(chan struct{})
	e.calls = map[uint64]*call{}
	e.lastID = 1 // Connect's.
	e.conversations = map[string]*conversation{}
	e.due = map[*conversation]struct{}{}
	e.reads = map[string]readMark{}
	e.watched = map[string]*watched{}
	e.presences = map[string]*lastPresence{}
	// The most is short: other conversations whose heads are wanted wait with the one that has none.
	e.sync.putOff = backOff{first: 500 * time.Millisecond, most: 2 * time.Second}
}

// load brings back what the store kept.
func (c *Client) load() error {
	cursors, writes, err := c.opts.Store.Load()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, seq := range cursors {
		conv := c.conversation(id)
		conv.tracked, conv.cursor = true, seq
		c.sync.resumed = true
	}
	for _, w := range writes {
		c.enqueue(w)
	}
	return nil
}

// connected takes over a link that has its hello.
func (c *Client) connected(link *conn, hello *envelopev1.Hello) {
	now := time.Now()
	c.link, c.hello, c.self = link, hello, hello.User
	c.heartbeat = time.Duration(hello.HeartbeatMs) * time.Millisecond
	c.lastSent, c.lastHeard = now, now
	c.scheduleRefresh(hello)
	close(c.up)
	c.log.Info("connected", "node", hello.Node, "user", hello.User, "device", hello.Device)
	c.events.put(State{Connected: true})
	c.startSync()
	c.repeat()
	for _, conv := range c.conversations {
		c.pump(conv, now)
	}
}

// disconnected takes the link away; what was asked for will not be answered. It reports whether there was one.
func (c *Client) disconnected() bool {
	if c.link == nil {
		return false
	}
	c.link = nil
	c.up = make(chan struct{})
	calls := c.calls
	c.calls = map[uint64]*call{}
	c.sync.abort()
	for _, conv := range c.conversations {
		conv.fetching, conv.fetchAt = false, time.Time{}
	}
	clear(c.due)
	for _, one := range calls {
		one.done(nil, errDisconnected)
	}
	return true
}

// stop ends everything that waits for this client.
func (c *Client) stop() {
	c.mu.Lock()
	c.stopped = true
	c.endLife()
	c.disconnected()
	for _, conv := range c.conversations {
		for _, w := range conv.queue {
			w.finish(nil, ErrStopped)
		}
		conv.queue = nil
	}
	c.mu.Unlock()
	c.helpers.Wait()
}

// request sends a frame whose answer done gets. Without a link, done is told at once.
func (c *Client) request(f *envelopev1.Frame, done func(*envelopev1.Frame, error)) uint64 {
	if c.link == nil {
		done(nil, errDisconnected)
		return 0
	}
	c.lastID++
	f.RequestId = c.lastID
	expires := time.Now().Add(c.limits.AnswerTimeout)
	c.calls[f.RequestId] = &call{expires: expires, done: done}
	if c.nextExpiry.IsZero() {
		c.nextExpiry = expires
		c.poke()
	}
	c.link.send(f)
	c.lastSent = time.Now()
	return f.RequestId
}

// frame handles one frame from the server.
func (c *Client) frame(f *envelopev1.Frame) {
	c.lastHeard = time.Now()
	if f.RequestId != 0 && f.Command < protocol.FirstPush && f.Command != envelopev1.Command_COMMAND_PING {
		one := c.calls[f.RequestId]
		if one == nil {
			return // It came after its time-out.
		}
		delete(c.calls, f.RequestId)
		if f.Error != nil {
			one.done(nil, protocol.FromWire(f.Error))
		} else {
			one.done(f, nil)
		}
		return
	}
	if err := c.push(f); err != nil {
		c.log.Warn("a push that cannot be decoded", "command", f.Command, "conversation", f.Conversation, "err", err)
	}
}

// push handles a frame that answers nothing. Commands of a later server are passed over.
func (c *Client) push(f *envelopev1.Frame) error {
	switch f.Command {
	case envelopev1.Command_COMMAND_PING:
		c.link.send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PONG, RequestId: f.RequestId})
	case envelopev1.Command_COMMAND_RESYNC:
		var body envelopev1.Resync
		if err := body.UnmarshalVT(f.Body); err != nil {
			return err
		}
		c.resyncIn(time.Duration(body.DelayMs) * time.Millisecond)
	case envelopev1.Command_COMMAND_RECORD:
		body := &recordv1.Record{}
		if err := body.UnmarshalVT(f.Body); err != nil {
			return err
		}
		c.pushed(f.Conversation, body)
	case envelopev1.Command_COMMAND_HEAD:
		body := &conversationv1.Head{}
		if err := body.UnmarshalVT(f.Body); err != nil {
			return err
		}
		if body.Conversation == "" {
			body.Conversation = f.Conversation
		}
		c.headPushed(body)
	case envelopev1.Command_COMMAND_CURSOR:
		body := &receiptv1.Cursor{}
		if err := body.UnmarshalVT(f.Body); err != nil {
			return err
		}
		c.events.put(Cursor{f.Conversation, body})
	case envelopev1.Command_COMMAND_TYPING:
		body := &signalv1.Typing{}
		if err := body.UnmarshalVT(f.Body); err != nil {
			return err
		}
		c.events.put(Typing{f.Conversation, body})
	case envelopev1.Command_COMMAND_PRESENCE:
		body := &signalv1.Presence{}
		if err := body.UnmarshalVT(f.Body); err != nil {
			return err
		}
		c.presence(body)
	}
	return nil
}

// tick does what is due and says when to come again. An error ends the connection.
func (c *Client) tick(now time.Time) (time.Time, error) {
	next := now.Add(time.Minute)
	earliest := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	c.expireCalls(now)
	earliest(c.nextExpiry)
	if c.heartbeat > 0 {
		// Half the interval, so that one ping may be lost; silence for two of them, and an answer's time, is a dead server.
		if quiet := now.Sub(c.lastHeard); quiet > c.heartbeat+c.limits.AnswerTimeout {
			return next, errors.New("client: nothing heard from the server")
		}
		if now.Sub(c.lastSent) >= c.heartbeat/2 {
			c.request(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING}, func(*envelopev1.Frame, error) {})
		}
		earliest(c.lastSent.Add(c.heartbeat / 2))
	}
	if !c.refreshAt.IsZero() && !now.Before(c.refreshAt) {
		c.startRefresh(now)
	}
	earliest(c.refreshAt)
	if !c.renewTicketAt.IsZero() && !now.Before(c.renewTicketAt) {
		c.renewTicket()
	}
	earliest(c.renewTicketAt)
	earliest(c.syncTick(now))
	earliest(c.renewTick(now))
	for conv := range c.due {
		at := c.conversationTick(conv, now)
		if at.IsZero() {
			delete(c.due, conv)
		}
		earliest(at)
	}
	return next, nil
}

func (c *Client) expireCalls(now time.Time) {
	if c.nextExpiry.IsZero() || now.Before(c.nextExpiry) {
		return
	}
	c.nextExpiry = time.Time{}
	var late []*call
	for id, one := range c.calls {
		switch {
		case !now.Before(one.expires):
			late = append(late, one)
			delete(c.calls, id)
		case c.nextExpiry.IsZero() || one.expires.Before(c.nextExpiry):
			c.nextExpiry = one.expires
		}
	}
	for _, one := range late {
		one.done(nil, errTimeout)
	}
}

// conversationTick does what is due in one conversation and says when something is again; zero: nothing.
func (c *Client) conversationTick(conv *conversation, now time.Time) time.Time {
	var next time.Time
	earliest := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if !conv.fetchAt.IsZero() && !now.Before(conv.fetchAt) {
		c.fetch(conv)
	}
	earliest(conv.fetchAt)
	if !conv.notBefore.IsZero() && !now.Before(conv.notBefore) {
		conv.notBefore = time.Time{}
		c.pump(conv, now)
	}
	earliest(conv.notBefore)
	return next
}

// dueNow has the loop look at a conversation.
func (c *Client) dueNow(conv *conversation) {
	c.due[conv] = struct{}{}
	c.poke()
}
