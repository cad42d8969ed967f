package logic

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// callTimeout bounds a call whose context does not end earlier.
const callTimeout = 10 * time.Second

// Caller asks the owners of conversations and waits for their answers: a node without sessions, for the HTTP API and for reads
// that concern several conversations. Safe for concurrent use.
type Caller struct {
	node   string
	router link.Router
	next   atomic.Uint64
	epochs link.Epochs

	mu      sync.Mutex
	waiting map[uint64]*call
}

// call is one batch of requests under way.
type call struct {
	answers chan answer // cap: all of the batch, so that Deliver never blocks
}

type answer struct {
	index int
	frame []byte
}

// NewCaller makes a caller that is reached as node.
func NewCaller(node string, router link.Router) *Caller {
	return &Caller{node: node, router: router, epochs: make(link.Epochs, router.Partitions()), waiting: make(map[uint64]*call)}
}

// Node is the name under which the caller must be registered with the link.
func (c *Caller) Node() string { return c.node }

// Deliver implements link.Node.
func (c *Caller) Deliver(b *link.Batch) {
	c.epochs.Admit(b.Partition, b.Epoch) // What a late owner says is the caller's to weigh: it is an answer, and no push.
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range b.Deliveries {
		// Low bits of the connection are the place in the batch.
		if w := c.waiting[d.Conn>>indexBits]; w != nil {
			select {
			case w.answers <- answer{int(d.Conn & (1<<indexBits - 1)), d.Frame}:
			default: // A second answer to the same request.
			}
		}
	}
}

// Lost implements link.Node. What was lost is asked for again by whoever called: its call runs into its time limit.
func (c *Caller) Lost() {}

// LostTo implements link.Node, like Lost.
func (c *Caller) LostTo(link.Users) {}

const indexBits = 12

// maxCall is the most requests of one call.
const maxCall = 1 << indexBits

// Call sends the requests to their owners and gives each answer's frame to fn, in this goroutine. A request that gets no answer
// in time gets a frame with the error retry. It returns an error only when ctx ends first.
func (c *Caller) Call(ctx context.Context, requests []link.Request, fn func(i int, f *envelopev1.Frame)) error {
	for len(requests) > maxCall {
		if err := c.Call(ctx, requests[:maxCall], fn); err != nil {
			return err
		}
		done := fn
		fn = func(i int, f *envelopev1.Frame) { done(i+maxCall, f) }
		requests = requests[maxCall:]
	}
	id := c.next.Add(1)
	w := &call{answers: make(chan answer, 2*len(requests))}
	c.mu.Lock()
	c.waiting[id] = w
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	answered := make([]bool, len(requests))
	missing := len(requests)
	send := func(i int) {
		if err := c.route(id, i, requests[i]); err != nil {
			answered[i] = true
			missing--
			fn(i, &envelopev1.Frame{Command: requests[i].Command, Error: err.Wire()})
		}
	}
	for i := range requests {
		send(i)
	}
	timeout := time.NewTimer(callTimeout)
	defer timeout.Stop()
	for missing > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			for i := range answered {
				if !answered[i] {
					fn(i, &envelopev1.Frame{Error: protocol.Errorf(protocol.CodeRetry, "the owner of the conversation did not answer").Wire()})
				}
			}
			return nil
		case a := <-w.answers:
			if a.index >= len(answered) || answered[a.index] {
				continue
			}
			f := &envelopev1.Frame{}
			if err := f.UnmarshalVT(a.frame); err != nil {
				f = &envelopev1.Frame{Error: protocol.Errorf(protocol.CodeInternal, "the answer cannot be read").Wire()}
			}
			if f.Error != nil && protocol.Code(f.Error.Code) == protocol.CodeResend && requests[a.index].After == "" {
				send(a.index) // Its owner is a later one than was known here, and is known now.
				continue
			}
			answered[a.index] = true
			missing--
			fn(a.index, f)
		}
	}
	return nil
}

// route sends the request at this place of a call.
func (c *Caller) route(call uint64, i int, r link.Request) *protocol.Error {
	r.Node, r.Conn, r.RequestID = c.node, call<<indexBits|uint64(i), uint64(i)+1
	if r.Codec == 0 {
		r.Codec = link.CodecProto
	}
	p := protocol.Partition(r.App, r.Conversation, c.router.Partitions())
	r.Epoch = c.epochs.Highest(p)
	return c.router.Route(p, r)
}

// One is Call for a single request; a refusal is returned as *protocol.Error.
func (c *Caller) One(ctx context.Context, r link.Request, reply protocol.Message) error {
	var failure error
	if err := c.Call(ctx, []link.Request{r}, func(_ int, f *envelopev1.Frame) {
		if f.Error != nil {
			failure = protocol.FromWire(f.Error)
			return
		}
		failure = reply.UnmarshalVT(f.Body)
	}); err != nil {
		return err
	}
	return failure
}
