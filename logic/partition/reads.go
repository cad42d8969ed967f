package partition

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/turns"
	"github.com/halley-im/halley/protocol"
)

// reads are those that found no slot. They wait, for to be refused and to ask again costs more, and most when everybody comes back
// at once. A read of Halley's own does not wait: it has slots of its own, those of loads, for it is what the others wait for.
type reads struct {
	waiting []waitingRead
	some    atomic.Bool  // waiting is not empty; for the goroutines that free slots
	begun   int          // reads that got a slot
	turns   *turns.Turns // of those who wait in vain, or cannot
}

func newReadTurns() *turns.Turns {
	return &turns.Turns{Soonest: time.Second, Latest: time.Minute, Least: 100}
}

type waitingRead struct {
	r     link.Request
	fn    readFunc
	since time.Time
	begun int // reads that had got a slot by then
}

var errManyReads = protocol.Errorf(protocol.CodeBusy, "too many reads are under way")

type readFunc = func(context.Context, feature.Services) (protocol.Message, error)

// manyReads refuses a read until its turn: asked again at once, reads that wait would be fewer than reads that are refused. oldest is the one
// that has waited longest: how many got a slot meanwhile is how fast that goes.
func (o *owner) manyReads(r *link.Request, oldest *waitingRead) {
	err := *errManyReads
	var rate float64
	if waited := time.Since(oldest.since); waited > rateAfter {
		rate = max(float64(o.reads.begun-oldest.begun), 1) / waited.Seconds()
	}
	err.RetryAfter = o.reads.turns.Take(time.Now(), rate)
	o.refuse(r, &err)
}

// rateAfter is how long a read has waited that says how fast reads get slots.
const rateAfter = 100 * time.Millisecond

// read carries a read out, now or in its turn. What waits counts as held.
func (o *owner) read(r *link.Request, h *feature.Handler, fn readFunc) {
	if h.Internal {
		if !o.startRead(o.Load, r, fn) {
			o.refuse(r, errManyReads)
		}
		return
	}
	if len(o.reads.waiting) == 0 && o.startRead(o.Go, r, fn) {
		o.reads.begun++
		return
	}
	if o.held >= o.cfg.QueueRequests || o.heldBytes+len(r.Body) > o.cfg.QueueBytes {
		oldest := &waitingRead{since: time.Now()} // What is held waits for its conversation.
		if len(o.reads.waiting) > 0 {
			oldest = &o.reads.waiting[0]
		}
		o.manyReads(r, oldest)
		return
	}
	o.held++
	o.heldBytes += len(r.Body)
	o.reads.waiting = append(o.reads.waiting, waitingRead{*r, fn, time.Now(), o.reads.begun})
	o.reads.some.Store(true)
}

// readMore starts reads that wait, as slots are free. One that has waited for as long as it may take is not of use any more.
func (o *owner) readMore() {
	waiting := o.reads.waiting
	for len(waiting) > 0 {
		w := &waiting[0]
		if time.Since(w.since) > readTimeout {
			o.manyReads(&w.r, w)
			o.reply.flush(o.epoch)
		} else if o.startRead(o.Go, &w.r, w.fn) {
			o.reads.begun++
		} else {
			break
		}
		o.held--
		o.heldBytes -= len(w.r.Body)
		*w = waitingRead{}
		waiting = waiting[1:]
	}
	if len(waiting) == 0 {
		waiting = nil
	}
	o.reads.waiting = waiting
	o.reads.some.Store(len(waiting) > 0)
}

func (o *owner) startRead(run func(func(context.Context)) bool, r *link.Request, fn readFunc) bool {
	req := *r
	return o.async.start(run, func(ctx context.Context) {
		reply := o.newReplier()
		services := o.Services
		services.Log = o.logged
		m, err := fn(ctx, services)
		frame, err := encodeRead(&req, m, err)
		if err != nil {
			o.Logger.Error("read failed", "command", req.Command, "conversation", req.Conversation, "err", err)
		}
		reply.add(&req, frame)
		reply.flush(o.stage.epoch.Load())
		if o.reads.some.Load() {
			o.queue.post(o.readMore)
		}
	})
}

// encodeRead makes the frame that answers a read. An error that is not the device's business becomes retry: a store that does
// not answer now may later. It is returned to be logged.
func encodeRead(r *link.Request, m protocol.Message, err error) ([]byte, error) {
	var refusal *protocol.Error
	if err == nil {
		var frame []byte
		if frame, err = encodeAnswer(r, m); err == nil {
			return frame, nil
		}
	} else if errors.As(err, &refusal) {
		err = nil
	}
	if refusal == nil {
		refusal = protocol.Errorf(protocol.CodeRetry, "the history store does not answer")
	}
	return EncodeError(r.Codec, r.Command, r.RequestID, r.Conversation, refusal), err
}
