package client

import (
	"context"
	"sync"

	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// Event is one of Record, Cursor, Typing, Presence and State.
type Event interface{ event() }

// Record is the next record of a conversation, this device's own writes included. In the conversation u:<user> it tells of
// the user's conversations (Standing).
type Record struct {
	Conversation string
	*recordv1.Record
}

// Cursor is how far a user has read a conversation.
type Cursor struct {
	Conversation string
	*receiptv1.Cursor
}

// Typing says that a member types, or stopped.
type Typing struct {
	Conversation string
	*signalv1.Typing
}

// Presence says that a watched user came or went.
type Presence struct{ *signalv1.Presence }

// State says where the session stands.
type State struct {
	Connected bool
	// Recovered says that all conversations have been shown up to where they stood when this connection began: nothing was
	// missed. It follows the first State of a connection as soon as that is so.
	Recovered bool
	// Err is why the connection ended; nil while connected.
	Err error
}

func (Record) event()   {}
func (Cursor) event()   {}
func (Typing) event()   {}
func (Presence) event() {}
func (State) event()    {}

// Head is where a conversation stands.
type Head = conversationv1.Head

// eventQueue holds what waits for the handler. It is bounded and never blocks who puts: a record that finds no room stays on
// the server, for the cursor does not move past it; typing and presence are dropped; states always fit, in a reserve of their
// own that keeps the newest.
type eventQueue struct {
	room func() // Called when records may be put again after one was turned away.

	mu     sync.Mutex
	ring   []Event
	most   int
	denied bool
	filled chan struct{} // Holds one.
}

// stateReserve is how many states may wait beyond the bound; the connection changes slower than any handler is.
const stateReserve = 16

func newEventQueue(most int, room func()) *eventQueue {
	return &eventQueue{most: most, room: room, filled: make(chan struct{}, 1)}
}

// put reports whether there was room.
func (q *eventQueue) put(e Event) bool {
	_, isRecord := e.(Record)
	_, isState := e.(State)
	q.mu.Lock()
	most := q.most
	if isState {
		most += stateReserve
	}
	if len(q.ring) >= most {
		q.denied = q.denied || isRecord
		q.mu.Unlock()
		return false
	}
	q.ring = append(q.ring, e)
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
	return true
}

// take removes the oldest event.
func (q *eventQueue) take() (Event, bool) {
	q.mu.Lock()
	if len(q.ring) == 0 {
		q.ring = nil
		q.mu.Unlock()
		return nil, false
	}
	e := q.ring[0]
	q.ring[0] = nil
	q.ring = q.ring[1:]
	resume := q.denied && len(q.ring) <= q.most/2
	if resume {
		q.denied = false
	}
	q.mu.Unlock()
	if resume {
		q.room()
	}
	return e, true
}

// full reports whether a record would be turned away.
func (q *eventQueue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.denied || len(q.ring) >= q.most
}

// dispatch calls the handler until ctx ends. A cursor is stored when the handler has returned: a crash in between shows the
// record again, and never loses one.
func (c *Client) dispatch(ctx context.Context) {
	for ctx.Err() == nil {
		e, ok := c.events.take()
		if !ok {
			select {
			case <-ctx.Done():
			case <-c.events.filled:
			}
			continue
		}
		c.opts.Handler(e)
		if r, ok := e.(Record); ok {
			if err := c.opts.Store.SetCursor(r.Conversation, r.Seq); err != nil {
				c.log.Error("a cursor was not stored; the record will be shown again", "conversation", r.Conversation, "err", err)
			}
		}
	}
}
