package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// conn is one connection: a reader and a writer goroutine around a wire.
type conn struct {
	wire wire
	in   chan *envelopev1.Frame
	out  chan *envelopev1.Frame
	// failed holds the first error of either goroutine.
	failed chan error
	// ended is closed when both shall stop.
	ended chan struct{}
	end   sync.Once
	both  sync.WaitGroup
}

// Frames that wait to be written. What may be on the way is bounded by the calls and the in-flight writes, so a queue this
// full means a connection that does not move.
const (
	outQueue = 4096
	inQueue  = 64
)

var errStuck = errors.New("client: the connection takes no more frames")

func newConn(w wire) *conn {
	c := &conn{
		wire: w, in: make(chan *envelopev1.Frame, inQueue), out: make(chan *envelopev1.Frame, outQueue),
		failed: make(chan error, 3), ended: make(chan struct{}),
	}
	c.both.Go(c.readAll)
	c.both.Go(c.writeAll)
	return c
}

// close ends both goroutines and waits for them.
func (c *conn) close() {
	c.end.Do(func() {
		close(c.ended)
		c.wire.close()
	})
	c.both.Wait()
}

func (c *conn) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

func (c *conn) readAll() {
	for {
		data, err := c.wire.read()
		if err != nil {
			c.fail(err)
			return
		}
		f := &envelopev1.Frame{}
		if err := f.UnmarshalVT(data); err != nil {
			c.fail(fmt.Errorf("client: a frame that cannot be decoded: %w", err))
			return
		}
		select {
		case c.in <- f:
		case <-c.ended:
			return
		}
	}
}

func (c *conn) writeAll() {
	for {
		var err error
		select {
		case f := <-c.out:
			err = c.writeFrame(f)
		case payload := <-c.wire.pings():
			err = c.wire.pong(payload)
		case <-c.ended:
			return
		}
		if err == nil && len(c.out) == 0 { // What is queued meanwhile leaves in one write.
			err = c.wire.flush()
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *conn) writeFrame(f *envelopev1.Frame) error {
	data, err := f.MarshalVT()
	if err != nil {
		return err
	}
	return c.wire.write(data)
}

// send queues a frame without waiting.
func (c *conn) send(f *envelopev1.Frame) {
	select {
	case c.out <- f:
	default:
		c.fail(errStuck)
	}
}

// session is one connection from dial to its end.
func (c *Client) session(ctx context.Context) error {
	connectCtx, cancel := context.WithTimeout(ctx, c.limits.ConnectTimeout)
	defer cancel()
	token, ticket, err := c.freshToken(connectCtx)
	if err != nil {
		return fmt.Errorf("client: token: %w", err)
	}
	w, err := dial(connectCtx, c.url, c.opts.TLS)
	if err != nil {
		return fmt.Errorf("client: connect: %w", err)
	}
	link := newConn(w)
	defer link.close()
	hello, err := c.greet(connectCtx, link, &envelopev1.Connect{Token: token, Client: c.opts.Name, Ticket: ticket})
	if err != nil {
		if _, closed := errors.AsType[*CloseError](err); !closed {
			c.unheard = time.Now()
		}
		return err
	}
	c.mu.Lock()
	c.connected(link, hello)
	c.mu.Unlock()
	return c.serve(ctx, link)
}

// greet sends Connect and waits for Hello.
func (c *Client) greet(ctx context.Context, link *conn, connect *envelopev1.Connect) (*envelopev1.Hello, error) {
	body, err := connect.MarshalVT()
	if err != nil {
		return nil, err
	}
	link.send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 1, Body: body})
	var refusal error
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("client: no hello: %w", ctx.Err())
		case err := <-link.failed:
			if closed, ok := errors.AsType[*CloseError](err); ok {
				return nil, closed
			}
			if refusal != nil {
				return nil, refusal
			}
			return nil, err
		case f := <-link.in:
			switch {
			case f.Command == envelopev1.Command_COMMAND_CLOSE:
				return nil, closeError(f)
			case f.RequestId == 1 && f.Error != nil: // The close that follows says what to do.
				refusal = fmt.Errorf("client: connect: %w", protocol.FromWire(f.Error))
			case f.RequestId == 1:
				hello := &envelopev1.Hello{}
				return hello, hello.UnmarshalVT(f.Body)
			}
		}
	}
}

func closeError(f *envelopev1.Frame) error {
	var body envelopev1.Close
	if err := body.UnmarshalVT(f.Body); err != nil {
		return fmt.Errorf("client: a close that cannot be decoded: %w", err)
	}
	return &CloseError{
		Code: protocol.CloseCode(body.Code), Reason: body.Reason, Reconnect: body.Reconnect,
		RetryAfter: time.Duration(body.RetryAfterMs) * time.Millisecond,
	}
}

// serve handles frames and what falls due until the connection ends.
func (c *Client) serve(ctx context.Context, link *conn) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-link.failed:
			return c.lastFrames(link, err)
		case f := <-link.in:
			if f.Command == envelopev1.Command_COMMAND_CLOSE {
				return closeError(f)
			}
			c.mu.Lock()
			c.frame(f)
			c.mu.Unlock()
		case <-c.wake:
		case <-timer.C:
		}
		c.mu.Lock()
		next, err := c.tick(time.Now())
		c.mu.Unlock()
		if err != nil {
			return err
		}
		timer.Reset(time.Until(next))
	}
}

// lastFrames looks for a Close among what arrived before the connection failed: it says more than the failure.
func (c *Client) lastFrames(link *conn, err error) error {
	for {
		select {
		case f := <-link.in:
			if f.Command == envelopev1.Command_COMMAND_CLOSE {
				return closeError(f)
			}
			c.mu.Lock()
			c.frame(f)
			c.mu.Unlock()
		default:
			return err
		}
	}
}
