// Package message is what people write to each other: it decides whether a message may become a record, and never what
// happens to it then.
package message

import (
	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

// Type is the field of halley.record.v1.Record.body that a message is.
const Type = 16

// Feature answers message.send.
type Feature struct{}

// Handlers implements feature.Feature.
func (Feature) Handlers() map[envelopev1.Command]feature.Handler {
	return map[envelopev1.Command]feature.Handler{
		envelopev1.Command_COMMAND_MESSAGE_SEND: {Access: feature.Members, Kinds: "dg", Write: true, Do: send},
	}
}

// Apply implements feature.Feature: nothing is derived from messages.
func (Feature) Apply(*state.Conversation, *logv1.Record) {}

func send(c *state.Conversation, r *link.Request) feature.Outcome {
	body := r.Body
	if r.Codec == link.CodecJSON || !plain(body) {
		var err *protocol.Error
		if body, err = judge(c, r); err != nil {
			return feature.Refuse(err)
		}
	}
	d := &feature.Draft{Type: Type, Body: body, Counted: true}
	switch c.Kind {
	case protocol.KindDirect:
		a, b := protocol.Peers(c.ID)
		if r.User != a && r.User != b {
			return feature.Refuse(protocol.Errorf(protocol.CodeForbidden, "sender: %q has no part in %q", r.User, c.ID))
		}
		if !c.Exists() {
			d.Joined = []string{a, b}
		}
	case protocol.KindGroup:
		if !c.Exists() {
			return feature.Refuse(protocol.Errorf(protocol.CodeNotFound, "no such conversation"))
		}
	}
	return feature.Outcome{Record: d}
}

// judge decodes a message and returns it as it is stored and delivered: a sender's own bytes, unless they are JSON.
func judge(c *state.Conversation, r *link.Request) ([]byte, *protocol.Error) {
	m := &messagev1.Message{}
	if err := feature.Decode(r, m); err != nil {
		return nil, err
	}
	if err := Validate(m); err != nil {
		return nil, err
	}
	if err := mentionsMembers(c, m); err != nil {
		return nil, err
	}
	if r.Codec != link.CodecJSON {
		return r.Body, nil
	}
	body, err := m.MarshalVT()
	if err != nil {
		return nil, protocol.Errorf(protocol.CodeInternal, "the message could not be encoded")
	}
	return body, nil
}

func mentionsMembers(c *state.Conversation, m *messagev1.Message) *protocol.Error {
	for i, mention := range m.Mentions {
		user := mention.GetUser()
		if user == "" {
			continue
		}
		if c.Kind == protocol.KindDirect {
			if a, b := protocol.Peers(c.ID); user == a || user == b {
				continue
			}
		} else if c.Member(user).Active() {
			continue
		}
		return protocol.Invalid("mentions", "entry %d: %q is not a member", i, user)
	}
	return nil
}
