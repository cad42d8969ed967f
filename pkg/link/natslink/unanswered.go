package natslink

import (
	"sync"

	"github.com/halley-im/halley/pkg/link"
)

// unanswered remembers the requests that were sent and not answered, no more than limit of them. They are answered here when
// nobody owned their partition, and when an owner took them and died. Who is forgotten gets no such word and asks again by
// itself.
type unanswered struct {
	limit int

	mu             sync.Mutex
	last           uint64               // token
	batches        map[uint64]*requests // by token
	oldest, newest *requests
	open           map[question]place
}

// question names a request as long as it is not answered.
type question struct{ conn, requestID uint64 }

type place struct {
	batch *requests
	index int
}

func newUnanswered(limit int) unanswered {
	return unanswered{limit: limit, batches: make(map[uint64]*requests), open: make(map[question]place)}
}

// add takes a batch, and forgets the oldest where there are too many.
func (u *unanswered) add(b *requests) (token uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := u.newest; n != nil && n.left == 0 {
		u.take(n).recycle()
	}
	u.last++
	b.token, b.left = u.last, 0
	u.batches[b.token] = b
	if b.older = u.newest; b.older == nil {
		u.oldest = b
	} else {
		b.older.newer = b
	}
	u.newest = b
	for i, a := range b.asked {
		if a.requestID == 0 { // No answer comes.
			continue
		}
		q := question{a.conn, a.requestID}
		if other, again := u.open[q]; again { // A device that gives a number twice is answered once.
			u.close(q, other)
		}
		u.open[q] = place{b, i}
		b.left++
	}
	for len(u.open) > u.limit && u.oldest != b {
		u.take(u.oldest).recycle()
	}
	return b.token
}

// close marks a request as answered. Its batch goes with its last one; the newest goes when the next one comes, for add may be
// at work on it.
func (u *unanswered) close(q question, p place) {
	delete(u.open, q)
	p.batch.asked[p.index].requestID = 0
	p.batch.left--
	if p.batch.left == 0 && p.batch != u.newest {
		u.take(p.batch).recycle()
	}
}

// answered takes note of the answers in a batch of deliveries.
func (u *unanswered) answered(b *link.Batch) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range b.Deliveries {
		if d := &b.Deliveries[i]; d.Answers != 0 {
			q := question{d.Conn, d.Answers}
			if p, ok := u.open[q]; ok {
				u.close(q, p)
			}
		}
	}
}

// remove returns the batch with this token, which is then the caller's, or nil if it is forgotten.
func (u *unanswered) remove(token uint64) *requests {
	u.mu.Lock()
	defer u.mu.Unlock()
	if b := u.batches[token]; b != nil {
		return u.take(b)
	}
	return nil
}

// of returns the partition's batches, oldest first; they are then the caller's.
func (u *unanswered) of(partition int) []*requests {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []*requests
	for b := u.oldest; b != nil; {
		next := b.newer
		if b.partition == partition {
			out = append(out, u.take(b))
		}
		b = next
	}
	return out
}

// take forgets a batch. What is left of asked with a number is not answered.
func (u *unanswered) take(b *requests) *requests {
	delete(u.batches, b.token)
	for _, a := range b.asked {
		if q := (question{a.conn, a.requestID}); a.requestID != 0 && u.open[q].batch == b {
			delete(u.open, q)
		}
	}
	if b.older == nil {
		u.oldest = b.newer
	} else {
		b.older.newer = b.newer
	}
	if b.newer == nil {
		u.newest = b.older
	} else {
		b.newer.older = b.older
	}
	b.older, b.newer = nil, nil
	return b
}
