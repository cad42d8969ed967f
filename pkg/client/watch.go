package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

const (
	// maxWatch is how many users one request may name.
	maxWatch = 100
	// A renewal that was put off is tried again after so long; a watch lasts several times that.
	renewAgain = 5 * time.Second
)

// watches is whose presence the application wants. The server forgets within a minute: each is asked for again in time, and on
// each connection.
type watches struct {
	watched   map[string]*watched      // by conversation
	presences map[string]*lastPresence // by user
	// renewAt is when the first of watched is due; zero: none.
	renewAt time.Time
}

// watched is the users that are watched in one conversation.
type watched struct {
	users   map[string]struct{}
	renewAt time.Time
}

// lastPresence is what the application was told of a user: it is not told the same again.
type lastPresence struct {
	watches  int
	online   bool
	degraded bool
	told     bool
}

// Watch answers who of the members is online, and has Presence events sent for them until Unwatch, over reconnects. When ctx
// ends first they are still wanted; those that the server refuses are not.
func (c *Client) Watch(ctx context.Context, conversation string, users ...string) ([]*signalv1.Presence, error) {
	c.mu.Lock()
	fresh := c.want(conversation, users)
	c.mu.Unlock()
	q := &signalv1.WatchRequest{Users: users}
	reply, err := query(ctx, c, envelopev1.Command_COMMAND_SIGNAL_WATCH, conversation, q, &signalv1.WatchReply{})
	c.mu.Lock()
	defer c.mu.Unlock()
	var refusal *protocol.Error
	switch {
	case err == nil:
		for _, p := range reply.Presences {
			c.news(p)
		}
		c.renewIn(conversation, time.Duration(reply.ExpiresMs)*time.Millisecond/2)
	case errors.As(err, &refusal) && !refusal.Code.Retryable():
		c.unwant(conversation, fresh)
	default:
		c.renewIn(conversation, renewAgain)
	}
	return reply.GetPresences(), err
}

// Unwatch ends what Watch began.
func (c *Client) Unwatch(ctx context.Context, conversation string, users ...string) error {
	c.mu.Lock()
	c.unwant(conversation, users)
	c.mu.Unlock()
	q := &signalv1.UnwatchRequest{Users: users}
	_, err := query(ctx, c, envelopev1.Command_COMMAND_SIGNAL_UNWATCH, conversation, q, &signalv1.WatchReply{})
	return err
}

// want returns those users that were not wanted before.
func (c *Client) want(conversation string, users []string) (fresh []string) {
	w := c.watched[conversation]
	if w == nil {
		w = &watched{users: map[string]struct{}{}}
		c.watched[conversation] = w
	}
	for _, user := range users {
		if _, already := w.users[user]; already {
			continue
		}
		w.users[user] = struct{}{}
		fresh = append(fresh, user)
		if c.presences[user] == nil {
			c.presences[user] = &lastPresence{}
		}
		c.presences[user].watches++
	}
	return fresh
}

func (c *Client) unwant(conversation string, users []string) {
	w := c.watched[conversation]
	if w == nil {
		return
	}
	for _, user := range users {
		if _, wanted := w.users[user]; !wanted {
			continue
		}
		delete(w.users, user)
		if c.presences[user].watches--; c.presences[user].watches == 0 {
			delete(c.presences, user)
		}
	}
	if len(w.users) == 0 {
		delete(c.watched, conversation)
	}
}

// news notes what the application learns of a user. It reports whether that is wanted and differs from what it knows.
func (c *Client) news(p *signalv1.Presence) bool {
	last := c.presences[p.User]
	if last == nil || last.told && last.online == p.Online && last.degraded == p.Degraded {
		return false
	}
	last.told, last.online, last.degraded = true, p.Online, p.Degraded
	return true
}

// presence tells the application. What finds no room is told with the next answer.
func (c *Client) presence(p *signalv1.Presence) {
	if c.news(p) && !c.events.put(Presence{p}) {
		c.presences[p.User].told = false
	}
}

// renewIn has what is watched in a conversation asked for again; a wait of 0 is a server that forgets nothing, or knows no
// watches.
func (c *Client) renewIn(conversation string, wait time.Duration) {
	w := c.watched[conversation]
	if w == nil || wait <= 0 {
		return
	}
	at := time.Now().Add(wait)
	if w.renewAt.IsZero() || at.Before(w.renewAt) {
		w.renewAt = at
	}
	if c.renewAt.IsZero() || at.Before(c.renewAt) {
		c.renewAt = at
		c.poke()
	}
}

// renewTick asks again for what is due and says when something is next.
func (c *Client) renewTick(now time.Time) time.Time {
	if c.renewAt.IsZero() || now.Before(c.renewAt) {
		return c.renewAt
	}
	c.renewAt = time.Time{}
	for id, w := range c.watched {
		if !w.renewAt.IsZero() && !now.Before(w.renewAt) {
			c.renew(id, w)
		}
		if !w.renewAt.IsZero() && (c.renewAt.IsZero() || w.renewAt.Before(c.renewAt)) {
			c.renewAt = w.renewAt
		}
	}
	return c.renewAt
}

// renewAll tells a new session what is watched.
func (c *Client) renewAll() {
	for id, w := range c.watched {
		c.renew(id, w)
	}
}

func (c *Client) renew(conversation string, w *watched) {
	w.renewAt = time.Time{}
	for users := range slices.Chunk(slices.Sorted(maps.Keys(w.users)), maxWatch) {
		c.watchAgain(conversation, users)
	}
}

// watchAgain asks without anybody waiting. The server refuses a request for one user in it who is no member any more: of each half
// of it, then, it is asked again, until it is known who that is.
func (c *Client) watchAgain(conversation string, users []string) {
	body, err := (&signalv1.WatchRequest{Users: users}).MarshalVT()
	if err != nil {
		c.log.Error("a watch cannot be encoded", "conversation", conversation, "err", err)
		return
	}
	c.request(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_SIGNAL_WATCH, Conversation: conversation, Body: body,
	}, func(f *envelopev1.Frame, err error) {
		var reply signalv1.WatchReply
		var refusal *protocol.Error
		if err == nil {
			err = reply.UnmarshalVT(f.Body)
		}
		switch {
		case err == nil:
			for _, p := range reply.Presences {
				c.presence(p)
			}
			c.renewIn(conversation, time.Duration(reply.ExpiresMs)*time.Millisecond/2)
		case errors.Is(err, errDisconnected): // The next connection begins with all of them.
		case !errors.As(err, &refusal):
			c.log.Warn("an answer that cannot be decoded", "command", f.Command, "conversation", conversation, "err", err)
			c.renewIn(conversation, renewAgain)
		case refusal.Code.Retryable():
			c.renewIn(conversation, max(renewAgain, refusal.RetryAfter))
		case len(users) == 1:
			c.unwant(conversation, users)
		default:
			c.watchAgain(conversation, users[:len(users)/2])
			c.watchAgain(conversation, users[len(users)/2:])
		}
	})
}
