package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

type createInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255"`
	Body           struct {
		Owner   string   `json:"owner" doc:"The user who owns the group; always a member."`
		Name    string   `json:"name,omitempty" maxLength:"128"`
		Members []string `json:"members,omitempty" maxItems:"999"`
	}
}

type membersInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255"`
	ID             string `path:"id" doc:"The group."`
	Body           struct {
		Members []string `json:"members" minItems:"1" maxItems:"1000"`
	}
}

type listMembersInput struct {
	ID     string `path:"id"`
	Limit  uint32 `query:"limit" maximum:"1000" doc:"0 means 200."`
	Cursor string `query:"cursor" doc:"next_cursor of the page before."`
}

// Member is one member of a conversation.
type Member struct {
	User      string `json:"user"`
	Role      string `json:"role" enum:"member,owner"`
	JoinedSeq uint64 `json:"joined_seq"`
	ReadSeq   uint64 `json:"read_seq"`
}

type listMembersOutput struct {
	Body struct {
		Data       []Member `json:"data"`
		NextCursor string   `json:"next_cursor" doc:"Empty at the end."`
	}
}

// Head is where a conversation stands.
type Head struct {
	Conversation string `json:"conversation"`
	Name         string `json:"name,omitempty"`
	Seq          uint64 `json:"seq"`
	Count        uint64 `json:"count"`
	TimeUs       int64  `json:"time_us"`
	Members      uint32 `json:"members"`
	// Of the user in whose name it was asked.
	ReadSeq   uint64 `json:"read_seq,omitempty"`
	ReadCount uint64 `json:"read_count,omitempty"`
	JoinedSeq uint64 `json:"joined_seq,omitempty"`
	LeftSeq   uint64 `json:"left_seq,omitempty"`
}

func headOf(h *conversationv1.Head) Head {
	return Head{
		Conversation: h.Conversation, Name: h.Name, Seq: h.Seq, Count: h.Count, TimeUs: h.TimeUs, Members: h.Members,
		ReadSeq: h.ReadSeq, ReadCount: h.ReadCount, JoinedSeq: h.JoinedSeq, LeftSeq: h.LeftSeq,
	}
}

type headInput struct {
	ID string `path:"id"`
}

type headOutput struct{ Body Head }

func (a *API) registerGroups(h huma.API) {
	create := operation(http.MethodPost, "/v1/groups", "create-group", ScopeConversations, "Create a group")
	create.DefaultStatus = http.StatusCreated
	huma.Register(h, create, a.createGroup)
	huma.Register(h, operation(http.MethodPost, "/v1/groups/{id}/members", "add-members", ScopeConversations, "Add members to a group"),
		func(ctx context.Context, in *membersInput) (*writtenOutput, error) {
			return a.changeMembers(ctx, in, envelopev1.Command_COMMAND_CONVERSATION_ADD, &conversationv1.AddRequest{Members: in.Body.Members})
		})
	huma.Register(h, operation(http.MethodPost, "/v1/groups/{id}/members/remove", "remove-members", ScopeConversations, "Remove members from a group"),
		func(ctx context.Context, in *membersInput) (*writtenOutput, error) {
			return a.changeMembers(ctx, in, envelopev1.Command_COMMAND_CONVERSATION_REMOVE, &conversationv1.RemoveRequest{Members: in.Body.Members})
		})
	huma.Register(h, operation(http.MethodGet, "/v1/conversations/{id}/members", "list-members", ScopeConversations, "List the members of a conversation"), a.listMembers)
	huma.Register(h, operation(http.MethodGet, "/v1/conversations/{id}", "read-head", ScopeConversations, "Where a conversation stands"), a.readHead)
}

func (a *API) createGroup(ctx context.Context, in *createInput) (*writtenOutput, error) {
	if err := validUser("owner", in.Body.Owner); err != nil {
		return nil, a.failure(err)
	}
	body, err := (&conversationv1.CreateRequest{Name: in.Body.Name, Members: in.Body.Members}).MarshalVT()
	if err != nil {
		return nil, a.failure(err)
	}
	ack, err := a.write(ctx, link.Request{User: in.Body.Owner, Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, Body: body}, in.IdempotencyKey)
	if err != nil {
		return nil, a.failure(err)
	}
	return written(ack, ack.Conversation), nil
}

func (a *API) changeMembers(ctx context.Context, in *membersInput, command envelopev1.Command, m protocol.Message) (*writtenOutput, error) {
	body, err := m.MarshalVT()
	if err != nil {
		return nil, a.failure(err)
	}
	ack, err := a.write(ctx, link.Request{Command: command, Conversation: in.ID, Body: body}, in.IdempotencyKey)
	if err != nil {
		return nil, a.failure(err)
	}
	return written(ack, in.ID), nil
}

func (a *API) listMembers(ctx context.Context, in *listMembersInput) (*listMembersOutput, error) {
	if head, err := a.head(ctx, app(ctx), in.ID); err != nil {
		return nil, a.failure(err)
	} else if head == nil {
		return nil, a.failure(protocol.Errorf(protocol.CodeNotFound, "no such conversation"))
	}
	reply := &conversationv1.MembersReply{}
	r := link.Request{Command: envelopev1.Command_COMMAND_CONVERSATION_MEMBERS, Conversation: in.ID}
	if err := a.ask(ctx, r, &conversationv1.MembersRequest{Limit: in.Limit, Cursor: in.Cursor}, reply); err != nil {
		return nil, a.failure(err)
	}
	out := &listMembersOutput{}
	out.Body.NextCursor = reply.NextCursor
	out.Body.Data = make([]Member, len(reply.Members))
	for i, m := range reply.Members {
		role := "member"
		if m.Role == conversationv1.Role_ROLE_OWNER {
			role = "owner"
		}
		out.Body.Data[i] = Member{User: m.User, Role: role, JoinedSeq: m.JoinedSeq, ReadSeq: m.ReadSeq}
	}
	return out, nil
}

func (a *API) readHead(ctx context.Context, in *headInput) (*headOutput, error) {
	head, err := a.head(ctx, app(ctx), in.ID)
	if err == nil && head == nil {
		err = protocol.Errorf(protocol.CodeNotFound, "no such conversation")
	}
	if err != nil {
		return nil, a.failure(err)
	}
	return &headOutput{headOf(head)}, nil
}
