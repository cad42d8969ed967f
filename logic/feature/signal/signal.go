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
	maxNamed  = 100
)

// Feature answers signal.typing, and signal.watch and signal.unwatch where it has Watches.
type Feature struct{ Watches *Watches }

// Handlers implements feature.Feature.
func (f Feature) Handlers() map[envelopev1.Command]feature.Handler {
	handlers := map[envelopev1.Command]feature.Handler{
		envelopev1.Command_COMMAND_SIGNAL_TYPING: {Access: feature.Members, Kinds: "dg", Do: typing},
	}
	if f.Watches != nil {
		handlers[envelopev1.Command_COMMAND_SIGNAL_WATCH] = feature.Handler{Access: feature.Members, Kinds: "dg", Do: f.watch}
		// Who was removed may still stop.
		handlers[envelopev1.Command_COMMAND_SIGNAL_UNWATCH] = feature.Handler{Access: feature.Readers, Kinds: "dg", Do: f.unwatch}
	}
	return handlers
}

// Apply implements feature.Feature: nothing is derived from records.
func (Feature) Apply(*state.Conversation, *logv1.Record) {}

func typing(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &signalv1.TypingRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	out := feature.Outcome{Reply: &signalv1.TypingReply{}}
	members := c.Active()
	if c.Kind == protocol.KindDirect && !c.Exists() { // Who writes the first message may be seen typing it.
		a, b := protocol.Peers(c.ID)
		members = []string{a, b}
	}
	if len(members) > maxTyping {
		return out
	}
	users := slices.DeleteFunc(slices.Clone(members), func(u string) bool { return u == r.User })
	if len(users) > 0 {
		out.Push = &feature.Push{
			Users: users, Command: envelopev1.Command_COMMAND_TYPING,
			Body: &signalv1.Typing{User: r.User, Stopped: req.Stopped},
		}
	}
	return out
}

// watch answers who of the members is online now, and has the session told of changes. The watch is noted here, in the order
// of the session's requests, and not in the Read, which an unwatch could overtake.
func (f Feature) watch(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &signalv1.WatchRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	if err := named(req.Users); err != nil {
		return feature.Refuse(err)
	}
	users := make([]presence.User, len(req.Users))
	for i, user := range req.Users {
		if !c.Member(user).Active() {
			return feature.Refuse(protocol.Errorf(protocol.CodeNotFound, "users: %q shares no conversation with the caller here", user))
		}
		users[i] = presence.User{App: c.App, User: user}
	}
	var expiresMs uint32
	if !r.Server { // A server key has no session that could be told.
		if err := f.Watches.add(r, users); err != nil {
			return feature.Refuse(err)
		}
		expiresMs = uint32(Lasts.Milliseconds())
	}
	from := address{r.Node, r.Conn}
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		entries, err := s.Presence.Lookup(ctx, users, nil)
		return &signalv1.WatchReply{Presences: f.Watches.answer(from, users, entries, err == nil), ExpiresMs: expiresMs}, nil
	}}
}

func (f Feature) unwatch(_ *state.Conversation, r *link.Request) feature.Outcome {
	req := &signalv1.UnwatchRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	if err := named(req.Users); err != nil {
		return feature.Refuse(err)
	}
	f.Watches.remove(r, req.Users)
	return feature.Outcome{Reply: &signalv1.WatchReply{}}
}

func named(users []string) *protocol.Error {
	if len(users) == 0 || len(users) > maxNamed {
		return protocol.Invalid("users", "must be 1 to %d", maxNamed)
	}
	return nil
}
