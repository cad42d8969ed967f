package partition

import (
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// queue takes requests and events from any goroutine for the partition's one. Only the request that finds it empty wakes the
// owner, which then takes everything: that is what makes blocks grow with load.
type queue struct {
	wake        chan struct{} // cap 1
	maxRequests int
	maxBytes    int

	mu       sync.Mutex
	requests []link.Request
	bytes    int
	arrived  time.Time // of the oldest of requests
	events   []func()  // run in the partition's goroutine, before the requests
	closed   bool
}

func newQueue(maxRequests, maxBytes int) *queue {
	return &queue{wake: make(chan struct{}, 1), maxRequests: maxRequests, maxBytes: maxBytes}
}

// Enqueue implements link.Inbox.
func (q *queue) Enqueue(r link.Request) *protocol.Error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return protocol.Errorf(protocol.CodeRetry, "the owner of the conversation is changing")
	case len(q.requests) >= q.maxRequests || q.bytes+len(r.Body) > q.maxBytes:
		q.mu.Unlock()
		return protocol.Errorf(protocol.CodeBusy, "too many requests wait for this partition")
	}
	first := len(q.requests) == 0
	if first {
		q.arrived = time.Now()
	}
	q.requests = append(q.requests, r)
	q.bytes += len(r.Body)
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return nil
}

// post runs fn in the partition's goroutine, unless it has stopped.
func (q *queue) post(fn func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.events = append(q.events, fn)
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take exchanges the queue's slices for the given, emptied ones, and says when the oldest request came.
func (q *queue) take(requests []link.Request, events []func()) ([]link.Request, []func(), time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	outR, outE, arrived := q.requests, q.events, q.arrived
	q.arrived = time.Time{}
	q.requests, q.events, q.bytes = requests[:0], events[:0], 0
	return outR, outE, arrived
}

// close refuses what comes from now on and returns what was waiting.
func (q *queue) close() []link.Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	rest := q.requests
	q.requests, q.events = nil, nil
	return rest
}
