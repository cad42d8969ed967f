// Package conversation is groups and their members, the list of a user's conversations, and history. It decides who may what,
// and never reads a message.
package conversation

import (
	"slices"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// The fields of halley.record.v1.Record.body that this feature's records are.
const (
	TypeCreated  = 17
	TypeMembers  = 18
	TypeStanding = 19
)

const (
	maxName       = 128
	maxCreate     = 999
	maxChange     = 1000
	maxMembers    = 100_000
	defaultWindow = 50
	maxWindow     = 200
)

// Feature answers conversation.* and what Halley's own processes ask of conversations.
type Feature struct{}

// Handlers implements feature.Feature.
func (Feature) Handlers() map[envelopev1.Command]feature.Handler {
	return map[envelopev1.Command]feature.Handler{
		envelopev1.Command_COMMAND_CONVERSATION_CREATE:  {Access: feature.Anyone, Kinds: "g", Write: true, Do: create},
		envelopev1.Command_COMMAND_CONVERSATION_ADD:     {Access: feature.Members, Kinds: "g", Write: true, Do: add},
		envelopev1.Command_COMMAND_CONVERSATION_REMOVE:  {Access: feature.Members, Kinds: "g", Write: true, Do: remove},
		envelopev1.Command_COMMAND_CONVERSATION_LEAVE:   {Access: feature.Readers, Kinds: "g", Write: true, Do: leave},
		envelopev1.Command_COMMAND_CONVERSATION_LIST:    {Access: feature.Members, Kinds: "u", Do: list},
		envelopev1.Command_COMMAND_CONVERSATION_HEADS:   {Access: feature.Members, Kinds: "u", Do: heads},
		envelopev1.Command_COMMAND_CONVERSATION_HISTORY: {Access: feature.Readers, Kinds: "dgu", Do: history},
		envelopev1.Command_COMMAND_CONVERSATION_MEMBERS: {Access: feature.Members, Kinds: "dg", Do: members},
		protocol.CommandHeadOf:                          {Access: feature.Readers, Internal: true, Kinds: "dgu", Do: headOf},
		protocol.CommandAttach:                          {Access: feature.Members, Internal: true, Kinds: "u", Do: attach},
		protocol.CommandStanding:                        {Access: feature.Members, Internal: true, Kinds: "u", Write: true, Do: standing},
	}
}

// Apply implements feature.Feature: the group's name and owner, and what a user's log already tells.
func (Feature) Apply(c *state.Conversation, r *logv1.Record) {
	switch {
	case r.Type == TypeCreated && c.Kind == protocol.KindGroup:
		created := &recordv1.Created{}
		if err := created.UnmarshalVT(r.Body); err == nil {
			c.Name, c.Owner = created.Name, r.Sender
		}
	case r.Type == TypeStanding && c.Kind == protocol.KindUser:
		s := &recordv1.Standing{}
		if err := s.UnmarshalVT(r.Body); err == nil {
			c.NoteStanding(store.Standing{
				Conversation: s.Conversation, Seq: s.Seq, Member: s.Member, JoinedSeq: s.JoinedSeq, LeftSeq: s.LeftSeq, Large: s.Large,
			})
		}
	}
}

func create(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.CreateRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	switch {
	case !protocol.ValidUser(r.User):
		return feature.Refuse(protocol.Invalid("creator", "%q is not the name of a user", r.User))
	case c.ID != protocol.Group(r.App, r.User, r.ClientID):
		return feature.Refuse(protocol.Invalid("conversation", "the id of a new group follows from its creator and client id"))
	case c.Exists():
		return feature.Refuse(protocol.Errorf(protocol.CodeConflict, "the group exists already"))
	case len(req.Name) > maxName:
		return feature.Refuse(protocol.Invalid("name", "%d bytes, at most %d", len(req.Name), maxName))
	}
	joined, err := users("members", req.Members, maxCreate)
	if err != nil {
		return feature.Refuse(err)
	}
	if i, found := slices.BinarySearch(joined, r.User); !found {
		joined = slices.Insert(joined, i, r.User)
	}
	body, encodeErr := (&recordv1.Created{Name: req.Name}).MarshalVT()
	if encodeErr != nil {
		return feature.Refuse(protocol.Errorf(protocol.CodeInternal, "the record could not be encoded"))
	}
	return feature.Outcome{Record: &feature.Draft{Type: TypeCreated, Body: body, Joined: joined}}
}

func add(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.AddRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	wanted, err := mayChange(c, r, req.Members)
	if err != nil {
		return feature.Refuse(err)
	}
	joined := slices.DeleteFunc(wanted, func(u string) bool { return c.Member(u).Active() })
	switch {
	case len(joined) == 0:
		return feature.Refuse(protocol.Errorf(protocol.CodeConflict, "members: all are members already"))
	case len(c.Active())+len(joined) > maxMembers:
		return feature.Refuse(protocol.Errorf(protocol.CodeTooLarge, "members: a group has at most %d", maxMembers))
	}
	return feature.Outcome{Record: &feature.Draft{Type: TypeMembers, Joined: joined}}
}

func remove(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.RemoveRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	wanted, err := mayChange(c, r, req.Members)
	if err != nil {
		return feature.Refuse(err)
	}
	left := slices.DeleteFunc(wanted, func(u string) bool { return !c.Member(u).Active() })
	switch {
	case len(left) == 0:
		return feature.Refuse(protocol.Errorf(protocol.CodeConflict, "members: none of them is a member"))
	case slices.Contains(left, c.Owner) && !r.Server:
		return feature.Refuse(protocol.Errorf(protocol.CodeForbidden, "members: the owner leaves by itself"))
	}
	return feature.Outcome{Record: &feature.Draft{Type: TypeMembers, Left: left}}
}

func leave(c *state.Conversation, r *link.Request) feature.Outcome {
	if err := feature.Decode(r, &conversationv1.LeaveRequest{}); err != nil {
		return feature.Refuse(err)
	}
	if !c.Member(r.User).Active() {
		return feature.Refuse(protocol.Errorf(protocol.CodeConflict, "the caller has left already"))
	}
	return feature.Outcome{Record: &feature.Draft{Type: TypeMembers, Left: []string{r.User}}}
}

// mayChange checks that the caller may add and remove, and returns whom, sorted.
func mayChange(c *state.Conversation, r *link.Request, names []string) ([]string, *protocol.Error) {
	switch {
	case !c.Exists():
		return nil, protocol.Errorf(protocol.CodeNotFound, "no such conversation")
	case !r.Server && r.User != c.Owner:
		return nil, protocol.Errorf(protocol.CodeForbidden, "only the owner adds and removes members")
	case len(names) == 0:
		return nil, protocol.Invalid("members", "must not be empty")
	}
	return users("members", names, maxChange)
}

// users checks names and returns them sorted, each once.
func users(field string, names []string, most int) ([]string, *protocol.Error) {
	if len(names) > most {
		return nil, protocol.Invalid(field, "%d entries, at most %d", len(names), most)
	}
	out := make([]string, 0, len(names)+1)
	for i, name := range names {
		if !protocol.ValidUser(name) {
			return nil, protocol.Invalid(field, "entry %d: %q is not the name of a user", i, name)
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// standing appends to a user's log what job's userlog follower found, unless the log tells something newer already.
func standing(c *state.Conversation, r *link.Request) feature.Outcome {
	s := &recordv1.Standing{}
	if err := feature.Decode(r, s); err != nil {
		return feature.Refuse(err)
	}
	if protocol.KindOf(s.Conversation) == protocol.KindInvalid || s.Seq == 0 {
		return feature.Refuse(protocol.Invalid("conversation", "%q at %d is not a place in a conversation", s.Conversation, s.Seq))
	}
	if s.Seq <= c.Standing(s.Conversation) {
		return feature.Outcome{Reply: &recordv1.Ack{Conversation: c.ID, Duplicate: true}}
	}
	// Alone: an older one behind it in the same block would be taken for news.
	d := &feature.Draft{Type: TypeStanding, Body: r.Body, Alone: true}
	if !c.Exists() {
		d.Joined = []string{c.ID[len("u:"):]}
	}
	return feature.Outcome{Record: d}
}
