// Package receipt is how far each member has read. A cursor is a max-register, not a record: it only rises, and never
// enters the log.
package receipt

import (
	"context"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
)

// Feature answers receipt.read.
type Feature struct{}

// Handlers implements feature.Feature.
func (Feature) Handlers() map[envelopev1.Command]feature.Handler {
	return map[envelopev1.Command]feature.Handler{
		envelopev1.Command_COMMAND_RECEIPT_READ: {Access: feature.Members, Kinds: "dgu", Do: read},
		protocol.CommandCursorAt:                {Access: feature.Members, Internal: true, Kinds: "dgu", Do: cursorAt},
	}
}

// Apply implements feature.Feature: nothing is derived from records.
func (Feature) Apply(*state.Conversation, *logv1.Record) {}

// read clamps to [old, head] and stamps the count of messages at the new cursor. A place before the reader joined is no
// place of the reader's: its count would tell of what was written before.
func read(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &receiptv1.ReadRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	m := c.Member(r.User)
	if m == nil {
		return feature.Refuse(protocol.Errorf(protocol.CodeNotFound, "%q is no member of %q", r.User, c.ID))
	}
	seq := min(req.Seq, c.Head.Seq)
	if seq <= m.Cursor.Seq || seq < m.Last().From {
		return feature.Outcome{Reply: &receiptv1.Cursor{User: r.User, Seq: m.Cursor.Seq, Count: m.Cursor.Count}}
	}
	if seq == c.Head.Seq {
		return moved(c, r, seq, c.Head.Count)
	}
	if held := c.Window.Range(seq, seq); len(held) == 1 {
		return moved(c, r, seq, held[0].Count)
	}
	conversation, at, back := store.Conversation{App: c.App, ID: c.ID}, c.Window.Place(seq), *r
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		record, err := s.Record(ctx, conversation, at)
		if err != nil {
			return nil, err
		}
		if record == nil {
			return nil, protocol.Errorf(protocol.CodeRetry, "record %d is not in the store yet", seq)
		}
		return setCount(ctx, s, back, &receiptv1.Cursor{User: back.User, Seq: seq, Count: record.Count})
	}}
}

// setCount goes back to the owner with the count that the store had.
func setCount(ctx context.Context, s feature.Services, r link.Request, cursor *receiptv1.Cursor) (protocol.Message, error) {
	body, err := cursor.MarshalVT()
	if err != nil {
		return nil, err
	}
	r.Command, r.Body, r.Codec, r.Server = protocol.CommandCursorAt, body, link.CodecProto, true
	var failure error
	if err := s.Call(ctx, []link.Request{r}, func(_ int, f *envelopev1.Frame) {
		if f.Error != nil {
			failure = protocol.FromWire(f.Error)
			return
		}
		failure = cursor.UnmarshalVT(f.Body)
	}); err != nil {
		return nil, err
	}
	return cursor, failure
}

// cursorAt is read with the count that the store had.
func cursorAt(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &receiptv1.Cursor{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	m := c.Member(r.User)
	if m == nil || req.Seq <= m.Cursor.Seq || req.Seq > c.Head.Seq || req.Seq < m.Last().From {
		var at store.Cursor
		if m != nil {
			at = m.Cursor
		}
		return feature.Outcome{Reply: &receiptv1.Cursor{User: r.User, Seq: at.Seq, Count: at.Count}}
	}
	return moved(c, r, req.Seq, req.Count)
}

// moved tells the reader's other devices and, in a 1:1, the peer.
func moved(c *state.Conversation, r *link.Request, seq, count uint64) feature.Outcome {
	users := []string{r.User}
	if c.Kind == protocol.KindDirect {
		a, b := protocol.Peers(c.ID)
		users = []string{a, b}
	}
	cursor := &receiptv1.Cursor{User: r.User, Seq: seq, Count: count}
	return feature.Outcome{
		Cursor: &store.Cursor{User: r.User, Seq: seq, Count: count},
		Push:   &feature.Push{Users: users, Command: envelopev1.Command_COMMAND_CURSOR, Body: cursor, ExceptSender: true},
		Reply:  cursor,
	}
}
