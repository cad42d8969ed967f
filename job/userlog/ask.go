package userlog

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// errUnanswered: the owner's answer has nothing about the notice.
var errUnanswered = errors.New("userlog: owner did not answer")

// ask has the owner of a partition write the notices, and returns what became of each.
func (r *run) ask(ctx context.Context, partition int, items []item) []error {
	errs := make([]error, len(items))
	all := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	req := linkv1.RequestBatch{Requests: make([]*linkv1.Request, len(items))}
	for i, it := range items {
		var err error
		if req.Requests[i], err = request(uint64(i), it.notice); err != nil {
			return all(err)
		}
	}
	data, err := req.MarshalVT()
	if err != nil {
		return all(fmt.Errorf("userlog: %w", err))
	}
	release, err := r.acquire(ctx)
	if err != nil {
		return all(err)
	}
	defer release()
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	answer, err := r.conn.Request(ctx, protocol.SubjectServer(partition), data)
	if err != nil {
		return all(err)
	}
	all(errUnanswered)
	if err := r.read(answer, items, errs); err != nil {
		return all(err)
	}
	return errs
}

// request is a notice as the owner of the user's log takes it. The index, which stands where a session would, comes back with
// the answer.
func request(index uint64, n notice) (*linkv1.Request, error) {
	s := n.standing
	body, err := (&recordv1.Standing{
		Conversation: s.Conversation, Seq: s.Seq, Member: s.Member, JoinedSeq: s.JoinedSeq, LeftSeq: s.LeftSeq, Large: s.Large,
	}).MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("userlog: %w", err)
	}
	return &linkv1.Request{
		Conn: index, App: n.app, User: n.user, Codec: linkv1.Codec_CODEC_PROTO, Server: true,
		Command: uint32(protocol.CommandStanding), RequestId: index + 1,
		Conversation: protocol.UserLog(n.user), ClientId: n.clientID(), Body: body,
		// The owner tells a repetition by the standing's seq, whatever its age. A true `since` would have it search a long log
		// for each notice, and refuse what it cannot search as expired.
		Since: math.MaxUint64,
	}, nil
}

// read puts the owner's answers into errs.
func (r *run) read(answer []byte, items []item, errs []error) error {
	var batch linkv1.DeliveryBatch
	if err := batch.UnmarshalVT(answer); err != nil {
		return fmt.Errorf("userlog: answer: %w", err)
	}
	for _, d := range batch.Deliveries {
		var frame envelopev1.Frame
		if err := frame.UnmarshalVT(d.Frame); err != nil {
			return fmt.Errorf("userlog: answer: %w", err)
		}
		for _, i := range d.Conns {
			if i < uint64(len(errs)) {
				errs[i] = r.judge(items[i], frame.Error)
			}
		}
	}
	return nil
}

// judge tells a refusal that another try may turn from one that stands. The latter is reported and passed over: one user whom
// nobody can tell anything must not hold up all others.
func (r *run) judge(it item, e *envelopev1.Error) error {
	if e == nil {
		r.m.notices.WithLabelValues("written").Inc()
		return nil
	}
	switch code := protocol.Code(e.Code); code {
	case protocol.CodeInvalid, protocol.CodeForbidden, protocol.CodeNotFound, protocol.CodeConflict, protocol.CodeTooLarge:
		r.m.notices.WithLabelValues("refused").Inc()
		r.log.Error("an owner refuses a record of a user's log", "app", it.app, "user", it.user,
			"conversation", it.standing.Conversation, "seq", it.standing.Seq, "code", e.Code, "err", e.Message)
		return nil
	default:
		// Codes of a newer or an older owner are among these: a rolling restart passes.
		return protocol.FromWire(e)
	}
}
