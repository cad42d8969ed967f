package comet

import (
	"context"
	"sync"
)

// queue is a bounded queue between goroutines whose consumers take many items at once.
type queue[T any] struct {
	limit int
	wake  chan struct{} // holds a token while items may be there

	mu    sync.Mutex
	items []T
}

func newQueue[T any](limit int) *queue[T] {
	return &queue[T]{limit: limit, wake: make(chan struct{}, 1)}
}

// push adds an item; false means that the queue is full.
func (q *queue[T]) push(item T) bool {
	q.mu.Lock()
	if len(q.items) >= q.limit {
		q.mu.Unlock()
		return false
	}
	q.items = append(q.items, item)
	first := len(q.items) == 1
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return true
}

func (q *queue[T]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for items and moves at most n of them to dst[:0]. It returns none when ctx has ended.
func (q *queue[T]) take(ctx context.Context, dst []T, n int) []T {
	for ctx.Err() == nil {
		if dst = q.poll(dst, n); len(dst) > 0 {
			return dst
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return dst[:0]
}

// poll is take without waiting.
func (q *queue[T]) poll(dst []T, n int) []T {
	q.mu.Lock()
	n = min(n, len(q.items))
	dst = append(dst[:0], q.items[:n]...)
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:])
	q.items = q.items[:rest]
	q.mu.Unlock()
	if rest > 0 {
		q.signal() // for another consumer
	}
	return dst
}
