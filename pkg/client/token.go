package client

import (
	"context"
	"time"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// tokenSpare is how much of a token's life must be left for it to open another session.
const tokenSpare = 30 * time.Second

// freshToken is the token at hand with its ticket, or a new one if there is none, or none that lasts: a reconnect storm must not become a
// storm on the app's server.
func (c *Client) freshToken(ctx context.Context) (token string, ticket []byte, err error) {
	c.mu.Lock()
	token, expires := c.token, c.tokenExpires
	if time.Now().Before(c.ticketEnds) {
		ticket = c.ticket
	}
	c.mu.Unlock()
	if token != "" && (expires.IsZero() || time.Until(expires) > tokenSpare) {
		return token, ticket, nil
	}
	token, err = c.newToken(ctx)
	return token, nil, err
}

func (c *Client) newToken(ctx context.Context) (string, error) {
	token, err := c.opts.Token(ctx)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	c.token, c.tokenExpires = token, time.Time{}
	c.mu.Unlock()
	return token, nil
}

func (c *Client) forgetToken() {
	c.mu.Lock()
	c.token = ""
	c.mu.Unlock()
}

// scheduleRefresh is called with every hello: at nine tenths of what is left of the token's life.
func (e *engine) scheduleRefresh(hello *envelopev1.Hello) {
	e.keepTicket(hello)
	e.refreshAt, e.tokenExpires = time.Time{}, time.Time{}
	if hello.TokenExpiresUs == 0 {
		return
	}
	// By the server's clock, for the device's may be wrong.
	left := time.Duration(hello.TokenExpiresUs-hello.TimeUs) * time.Microsecond
	e.tokenExpires = time.Now().Add(left)
	e.refreshAt = time.Now().Add(left * 9 / 10)
}

// startRefresh gets a token outside the lock and replaces the session's in band. One runs at a time; a failure is tried
// again until the token ends, when the server closes and a reconnect does the same.
func (c *Client) startRefresh(now time.Time) {
	c.refreshAt = now.Add(max(time.Second, time.Until(c.tokenExpires)/4))
	if c.refreshing {
		return
	}
	c.refreshing = true
	link := c.link
	c.helpers.Go(func() {
		ctx, cancel := context.WithTimeout(c.life, c.limits.ConnectTimeout)
		defer cancel()
		token, err := c.newToken(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refreshing = false
		if err != nil {
			c.log.Warn("no new token; trying again", "err", err)
			return
		}
		if c.link != link {
			return // It serves the next connect.
		}
		c.refresh(token, c.scheduleRefresh)
	})
}

// refresh gives the session this token; took gets the hello.
func (c *Client) refresh(token string, took func(*envelopev1.Hello)) {
	body, err := (&envelopev1.Refresh{Token: token}).MarshalVT()
	if err != nil {
		return
	}
	c.request(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_REFRESH, Body: body}, func(f *envelopev1.Frame, err error) {
		var hello envelopev1.Hello
		switch {
		case err != nil:
			c.log.Warn("token was not refreshed", "err", err)
		case hello.UnmarshalVT(f.Body) == nil:
			took(&hello)
		}
	})
}

// leastTicket is a ticket that is worth renewing: towards the end of the token each one is shorter than the one before.
const leastTicket = 2 * time.Second

// keepTicket takes the ticket of a hello, to be renewed at half of its life.
func (e *engine) keepTicket(hello *envelopev1.Hello) {
	life := time.Duration(hello.TicketMs) * time.Millisecond
	e.ticket, e.ticketEnds, e.renewTicketAt = hello.Ticket, time.Now().Add(life), time.Time{}
	if life >= leastTicket && len(hello.Ticket) > 0 {
		e.renewTicketAt = time.Now().Add(life / 2)
	}
}

// renewTicket refreshes with the token at hand, which is to be replaced when it was to be before.
func (c *Client) renewTicket() {
	c.renewTicketAt = time.Time{}
	if !c.refreshing && c.token != "" {
		c.refresh(c.token, c.keepTicket)
	}
}
