package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// The scopes of server keys; each operation's first tag is the one it needs.
const (
	ScopeMessages      = "messages"
	ScopeConversations = "conversations"
	ScopeUsers         = "users"
	ScopeTokens        = "tokens"
)

func (a *API) register(h huma.API) {
	huma.NewError = problemOf
	a.registerMessages(h)
	a.registerGroups(h)
	a.registerUsers(h)
}

func operation(method, path, id, scope, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{scope}}
}

// Written is the place of a record.
type Written struct {
	Conversation string `json:"conversation"`
	ID           string `json:"id" doc:"Unique in the cluster."`
	Seq          uint64 `json:"seq" doc:"The record's number in its conversation: 1, 2, 3 …"`
	Count        uint64 `json:"count" doc:"Messages among 1 to seq."`
	TimeUs       int64  `json:"time_us"`
	Duplicate    bool   `json:"duplicate" doc:"An earlier request with the same Idempotency-Key wrote it."`
}

type writtenOutput struct{ Body Written }

func written(ack *recordv1.Ack, conversation string) *writtenOutput {
	if ack.Conversation != "" {
		conversation = ack.Conversation
	}
	return &writtenOutput{Written{
		Conversation: conversation, ID: strconv.FormatUint(ack.Id, 10), Seq: ack.Seq, Count: ack.Count, TimeUs: ack.TimeUs, Duplicate: ack.Duplicate,
	}}
}

// remembered is what an Idempotency-Key stands for.
type remembered struct {
	Request string `json:"request"` // Hash of what was asked for.
	Since   uint64 `json:"since"`
}

// write sends a record-writing request on behalf of sender. With an Idempotency-Key it can be repeated for 24 hours: the key is
// stored, with the head the conversation had then, before anything is written, and the client id follows from it; so the
// conversation's owner finds an earlier write wherever it happened. fixed overrides the client id for a create, whose
// conversation follows from it.
func (a *API) write(ctx context.Context, r link.Request, idempotencyKey string) (*recordv1.Ack, error) {
	r.App, r.Server, r.Device, r.Codec = app(ctx), true, "api", link.CodecProto
	r.ClientID = ids.NewClientID()
	if idempotencyKey != "" {
		sum := sha256.Sum256([]byte(r.App + "\x00" + idempotencyKey))
		r.ClientID = "ik-" + hex.EncodeToString(sum[:24])
	}
	if r.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		r.Conversation = protocol.Group(r.App, r.User, r.ClientID)
	}
	head, err := a.head(ctx, r.App, r.Conversation)
	if err != nil {
		return nil, err
	}
	r.Since = head.GetSeq()
	if idempotencyKey != "" {
		if r.Since, err = a.remember(ctx, r, idempotencyKey); err != nil {
			return nil, err
		}
	}
	ack := &recordv1.Ack{}
	return ack, a.patiently(ctx, func() error { return a.deps.Caller.One(ctx, r, ack) })
}

// remember stores the key, or finds what was stored under it.
func (a *API) remember(ctx context.Context, r link.Request, idempotencyKey string) (uint64, error) {
	sum := sha256.New()
	for _, part := range []string{strconv.Itoa(int(r.Command)), r.User, r.Conversation} {
		sum.Write([]byte(part + "\x00"))
	}
	sum.Write(r.Body)
	mine := remembered{Request: hex.EncodeToString(sum.Sum(nil)), Since: r.Since}
	value, err := json.Marshal(mine)
	if err != nil {
		return 0, err
	}
	if _, err = a.deps.Idempotency.Acquire(ctx, r.ClientID, value); err == nil {
		return mine.Since, nil
	}
	if !errors.Is(err, bus.ErrHeld) {
		a.deps.Logger.Warn("api: an Idempotency-Key cannot be stored", "err", err)
		return 0, protocol.Errorf(protocol.CodeRetry, "the Idempotency-Key cannot be stored just now")
	}
	if value, err = a.deps.Idempotency.Get(ctx, r.ClientID); err != nil || value == nil {
		return 0, protocol.Errorf(protocol.CodeRetry, "the Idempotency-Key cannot be read just now")
	}
	var first remembered
	if err := json.Unmarshal(value, &first); err != nil {
		return 0, err
	}
	if first.Request != mine.Request {
		return 0, protocol.Invalid("Idempotency-Key", "was used for another request")
	}
	return first.Since, nil
}

// patiently repeats what is refused as retryable, within the request's time.
func (a *API) patiently(ctx context.Context, try func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := try()
		var refusal *protocol.Error
		if err == nil || !errors.As(err, &refusal) || !refusal.Code.Retryable() {
			return err
		}
		wait := max(refusal.RetryAfter, time.Duration(rand.Int64N(int64(pause))+1))
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait+100*time.Millisecond {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// head is where a conversation stands; nil where it does not exist.
func (a *API) head(ctx context.Context, app, conversation string) (*conversationv1.Head, error) {
	if protocol.KindOf(conversation) == protocol.KindInvalid {
		return nil, protocol.Invalid("conversation", "%q is not the id of a conversation", conversation)
	}
	head := &conversationv1.Head{}
	err := a.ask(ctx, link.Request{App: app, Command: protocol.CommandHeadOf, Conversation: conversation}, nil, head)
	var refusal *protocol.Error
	if errors.As(err, &refusal) && refusal.Code == protocol.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return head, nil
}

// ask sends a reading request with the server key's rights.
func (a *API) ask(ctx context.Context, r link.Request, body, reply protocol.Message) error {
	r.Server, r.Device, r.Codec = true, "api", link.CodecProto
	if r.App == "" {
		r.App = app(ctx)
	}
	if body != nil {
		var err error
		if r.Body, err = body.MarshalVT(); err != nil {
			return err
		}
	}
	return a.patiently(ctx, func() error { return a.deps.Caller.One(ctx, r, reply) })
}

func validUser(field, name string) error {
	if !protocol.ValidUser(name) {
		return protocol.Invalid(field, "%q is not the name of a user", name)
	}
	return nil
}
