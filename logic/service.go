package logic

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
)

// service is one partition as its runner sees it.
type service struct {
	*manager
	number  int
	serving atomic.Bool
}

// serve takes the partition over, waiting for the one who has it, and serves it until ctx ends or the reign does.
func (s *service) serve(ctx context.Context) error {
	p, release, err := s.open(ctx, s.number)
	if err != nil {
		return err
	}
	defer release()
	candidate := p.Candidate()
	var announced *bus.Lease
	var withdrawing sync.WaitGroup
	defer withdrawing.Wait()
	withdraw := func() {
		if l := announced; l != nil {
			announced = nil
			withdrawing.Go(func() { s.withdraw(l) })
		}
	}
	defer withdraw()
	for {
		err := p.Run(ctx, candidate, func(serving bool) {
			s.serving.Store(serving)
			s.signal()
			withdraw()
		})
		if !errors.Is(err, partition.ErrHeld) || ctx.Err() != nil {
			return err
		}
		// Another owner serves. Read what it has written, so that little is left to read once it goes, and tell it so.
		if err := candidate.CatchUp(ctx); err != nil {
			return err
		}
		if announced == nil {
			if l, err := s.leases.Acquire(ctx, successorKey(s.number), []byte(s.deps.Node)); err == nil {
				announced = l
			}
		} else if time.Since(announced.Renewed) > s.leases.TTL()/4 && s.leases.Renew(ctx, announced) != nil {
			announced = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.vacant[s.number]:
		case <-time.After(candidatePoll):
		}
	}
}

// candidatePoll is how often a candidate reads on and asks for the key, though nobody told it that the key was given up.
const candidatePoll = 50 * time.Millisecond

// withdraw takes the announcement of a successor back. The owner before takes this for the word that its partition is served again, and
// the next successor announces itself under the same key.
func (s *service) withdraw(l *bus.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.leases.Release(ctx, l) // Runs out by itself.
}

// attach opens a partition to nodes and to job's followers.
func (l *Logic) attach(p int, epoch uint64, in link.Inbox) (func(), error) {
	detach, err := l.deps.Attach(p, epoch, in)
	if err != nil {
		return nil, err
	}
	sub, err := l.deps.Bus.Subscribe(protocol.SubjectServer(p), 1024, l.serverBatch)
	if err != nil {
		detach()
		return nil, err
	}
	return func() {
		detach()
		if err := sub.Close(); err != nil {
			l.deps.Logger.Debug("subscription was not closed cleanly", "err", err)
		}
	}, nil
}

// serverBatch answers a batch of requests of a follower: one delivery for each, by its place in the batch.
func (l *Logic) serverBatch(m bus.Msg) {
	batch := &linkv1.RequestBatch{}
	if err := batch.UnmarshalVT(m.Data); err != nil || m.Reply == "" {
		l.deps.Logger.Warn("a follower's request cannot be read", "subject", m.Subject, "err", err)
		return
	}
	if l.reads.do(func(ctx context.Context) { l.answerBatch(ctx, m.Reply, batch) }) {
		return
	}
	out := &linkv1.DeliveryBatch{From: l.deps.Node}
	busy := &envelopev1.Frame{Error: protocol.Errorf(protocol.CodeBusy, "too many reads are under way").Wire()}
	for i := range batch.Requests {
		out.Deliveries = appendAnswer(out.Deliveries, i, busy)
	}
	l.sendAnswers(m.Reply, out)
}

// appendAnswer adds the answer to the request at this place of the batch. The follower takes a missing one for one to ask for
// again.
func appendAnswer(dst []*linkv1.Delivery, i int, f *envelopev1.Frame) []*linkv1.Delivery {
	frame, err := f.MarshalVT()
	if err != nil {
		return dst
	}
	return append(dst, &linkv1.Delivery{Conns: []uint64{uint64(i)}, Frame: frame})
}

func (l *Logic) answerBatch(ctx context.Context, reply string, batch *linkv1.RequestBatch) {
	requests := make([]link.Request, len(batch.Requests))
	for i, r := range batch.Requests {
		requests[i] = link.Request{
			App: r.App, User: r.User, Device: r.Device, Codec: link.CodecProto, Server: true,
			Command: envelopev1.Command(r.Command), Conversation: r.Conversation, ClientID: r.ClientId, Since: r.Since, Body: r.Body,
		}
	}
	out := &linkv1.DeliveryBatch{From: l.deps.Node, Deliveries: make([]*linkv1.Delivery, 0, len(requests))}
	err := l.deps.Caller.Call(ctx, requests, func(i int, f *envelopev1.Frame) {
		out.Deliveries = appendAnswer(out.Deliveries, i, f)
	})
	if err != nil {
		l.deps.Logger.Warn("a follower's request was not answered", "err", err)
		return
	}
	l.sendAnswers(reply, out)
}

func (l *Logic) sendAnswers(reply string, out *linkv1.DeliveryBatch) {
	data, err := out.MarshalVT()
	if err == nil {
		err = l.deps.Bus.Publish(reply, "", data)
	}
	if err != nil {
		l.deps.Logger.Warn("an answer to a follower was not sent", "err", err)
	}
}
