// Package signal is what lives for a moment: typing, and who is online. Nothing of it is ever stored.
package signal

import (
	"context"
	"slices"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

const (
	// In a larger conversation nobody is told who types: it would cost more than the message.
	maxTyping = 200
	maxWatch  = 100
)

// Feature answers signal.typing and signal.watch.
type Feature struct{}

// Handlers implements feature.Feature.
func (Feature) Handlers() map[envelopev1.Command]feature.Handler {
	return map[envelopev1.Command]feature.Handler{
		envelopev1.Command_COMMAND_SIGNAL_TYPING: {Access: feature.Members, Kinds: "dg", Do: typing},
		envelopev1.Command_COMMAND_SIGNAL_WATCH:  {Access: feature.Members, Kinds: "dg", Do: watch},
	}
}

// Apply implements feature.Feature: nothing is derived from records.
func (Feature) Apply(*state.Conversation, *logv1.Record) {}

func typing(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &signalv1.TypingRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	out := feature.Outcome{Reply: &signalv1.TypingReply{}}
	users := slices.DeleteFunc(slices.Clone(c.Active()), func(u string) bool { return u == r.User })
	if len(users) > 0 && len(users) <= maxTyping {
		out.Push = &feature.Push{
			Users: users, Command: envelopev1.Command_COMMAND_TYPING,
			Body: &signalv1.Typing{User: r.User, Stopped: req.Stopped},
		}
	}
	return out
}

// watch answers who of the members is online now.
func watch(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &signalv1.WatchRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	if len(req.Users) == 0 || len(req.Users) > maxWatch {
		return feature.Refuse(protocol.Invalid("users", "must be 1 to %d", maxWatch))
	}
	users := make([]presence.User, len(req.Users))
	for i, user := range req.Users {
		if !c.Member(user).Active() {
			return feature.Refuse(protocol.Errorf(protocol.CodeNotFound, "users: %q shares no conversation with the caller here", user))
		}
		users[i] = presence.User{App: c.App, User: user}
	}
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		reply := &signalv1.WatchReply{Presences: make([]*signalv1.Presence, len(users))}
		entries, err := s.Presence.Lookup(ctx, users, nil)
		for i, u := range users {
			p := &signalv1.Presence{User: u.User, Degraded: err != nil}
			if err == nil {
				p.Online = len(entries[i]) > 0
			}
			reply.Presences[i] = p
		}
		return reply, nil
	}}
}
