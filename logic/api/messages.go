package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

type sendInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"Makes the request repeatable for 24 hours."`
	Body           struct {
		Conversation string          `json:"conversation" example:"d:alice:bob" doc:"d:<user>:<user> with the users sorted, or g:<id>."`
		Sender       string          `json:"sender" example:"alice" doc:"The user in whose name the message is sent."`
		Message      json.RawMessage `json:"message" doc:"The message as in the JSON subprotocol, for example {\"text\":{\"text\":\"hello\"}}."`
	}
}

// Record is one entry of a conversation.
type Record struct {
	Seq      uint64          `json:"seq"`
	Count    uint64          `json:"count"`
	ID       string          `json:"id"`
	Sender   string          `json:"sender"`
	ClientID string          `json:"client_id,omitempty"`
	TimeUs   int64           `json:"time_us"`
	Target   uint64          `json:"target,omitempty"`
	Joined   []string        `json:"joined,omitempty"`
	Left     []string        `json:"left,omitempty"`
	Type     string          `json:"type" enum:"message,created,members,standing,unknown"`
	Body     json.RawMessage `json:"body,omitempty" doc:"What the record says, as in the JSON subprotocol."`
}

type historyInput struct {
	ID        string `path:"id" doc:"The conversation."`
	AfterSeq  uint64 `query:"after_seq" doc:"Records above it, oldest first."`
	BeforeSeq uint64 `query:"before_seq" doc:"The newest records below it; wins over after_seq."`
	Limit     uint32 `query:"limit" maximum:"200" doc:"0 means 50."`
	User      string `query:"user" doc:"Read as this member does; without it everything."`
}

type historyOutput struct {
	Body struct {
		Data    []Record `json:"data" doc:"Ascending by seq."`
		HeadSeq uint64   `json:"head_seq"`
		More    bool     `json:"more" doc:"Whether more follow in the direction asked for."`
	}
}

func (a *API) registerMessages(h huma.API) {
	huma.Register(h, operation(http.MethodPost, "/v1/messages", "send-message", ScopeMessages, "Send a message in a user's name"), a.send)
	huma.Register(h, operation(http.MethodGet, "/v1/conversations/{id}/records", "read-history", ScopeMessages, "Read the records of a conversation"), a.history)
}

func (a *API) send(ctx context.Context, in *sendInput) (*writtenOutput, error) {
	if err := validUser("sender", in.Body.Sender); err != nil {
		return nil, a.failure(err)
	}
	message := &messagev1.Message{}
	if err := protocol.DecodeBody(true, in.Body.Message, message); err != nil {
		return nil, a.failure(protocol.Invalid("message", "%s", err.Message))
	}
	body, err := message.MarshalVT()
	if err != nil {
		return nil, a.failure(err)
	}
	ack, err := a.write(ctx, link.Request{
		User: in.Body.Sender, Command: envelopev1.Command_COMMAND_MESSAGE_SEND, Conversation: in.Body.Conversation, Body: body,
	}, in.IdempotencyKey)
	if err != nil {
		return nil, a.failure(err)
	}
	return written(ack, in.Body.Conversation), nil
}

func (a *API) history(ctx context.Context, in *historyInput) (*historyOutput, error) {
	r := link.Request{User: in.User, Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: in.ID}
	reply := &conversationv1.HistoryReply{}
	body := &conversationv1.HistoryRequest{AfterSeq: in.AfterSeq, BeforeSeq: in.BeforeSeq, Limit: in.Limit}
	if head, err := a.head(ctx, app(ctx), in.ID); err != nil {
		return nil, a.failure(err)
	} else if head == nil {
		return nil, a.failure(protocol.Errorf(protocol.CodeNotFound, "no such conversation"))
	}
	if err := a.ask(ctx, r, body, reply); err != nil {
		return nil, a.failure(err)
	}
	out := &historyOutput{}
	out.Body.HeadSeq, out.Body.More = reply.HeadSeq, reply.More
	out.Body.Data = make([]Record, 0, len(reply.Records))
	for _, r := range reply.Records {
		rec, err := record(r)
		if err != nil {
			return nil, a.failure(err)
		}
		out.Body.Data = append(out.Body.Data, rec)
	}
	return out, nil
}

// record is a client's record as the API shows it.
func record(r *recordv1.Record) (Record, error) {
	out := Record{
		Seq: r.Seq, Count: r.Count, ID: strconv.FormatUint(r.Id, 10), Sender: r.Sender, ClientID: r.ClientId, TimeUs: r.TimeUs,
		Target: r.Target, Joined: r.Joined, Left: r.Left, Type: "unknown",
	}
	var body protocol.Message
	switch b := r.Body.(type) {
	case *recordv1.Record_Message:
		out.Type, body = "message", b.Message
	case *recordv1.Record_Created:
		out.Type, body = "created", b.Created
	case *recordv1.Record_Members:
		out.Type = "members"
	case *recordv1.Record_Standing:
		out.Type, body = "standing", b.Standing
	}
	if body != nil {
		var err error
		if out.Body, err = protocol.EncodeBody(true, body); err != nil {
			return Record{}, err
		}
	}
	return out, nil
}
