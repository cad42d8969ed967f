package conversation

import (
	"context"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// head is a Head and the records that it still needs.
type head struct {
	*conversationv1.Head
	newest, joined *logv1.Record
	// Where they are if they are not in memory.
	newestAt, joinedAt state.Place
	// Seq of the record with which the caller joined, where its count stands for the read cursor.
	join uint64
}

// headOf is where the conversation stands for the caller.
func headOf(c *state.Conversation, r *link.Request) feature.Outcome {
	if !c.Exists() {
		return feature.Refuse(protocol.Errorf(protocol.CodeNotFound, "no such conversation"))
	}
	h := head{Head: &conversationv1.Head{
		Conversation: c.ID, Seq: c.Head.Seq, Count: c.Head.Count, TimeUs: c.Head.TimeUs, Name: c.Name,
		Members: uint32(len(c.Active())),
	}}
	if m := c.Member(r.User); m != nil {
		last := m.Last()
		h.JoinedSeq, h.LeftSeq = last.From, last.To
		h.ReadSeq, h.ReadCount = m.Cursor.Seq, m.Cursor.Count
		if last.To > 0 { // How many they are now is not for one who left.
			h.Seq, h.Count, h.TimeUs, h.Members = last.To, 0, 0, 0
		}
		// What was written before the caller joined is not unread. The record of a join is no message, except for the first of
		// a 1:1.
		switch {
		case m.Cursor.Seq >= last.From || last.From <= 1:
		case m.JoinKnown:
			h.ReadSeq, h.ReadCount = last.From, m.JoinCount
		default:
			h.join = last.From
		}
	}
	h.newest, h.joined = held(c, h.Seq), held(c, h.join)
	if h.newest != nil && (h.join == 0 || h.joined != nil) {
		return feature.Outcome{Reply: h.reply()}
	}
	h.newestAt, h.joinedAt = c.Window.Place(h.Seq), c.Window.Place(h.join)
	conversation := store.Conversation{App: c.App, ID: c.ID}
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		if err := h.read(ctx, &s, conversation); err != nil {
			return nil, err
		}
		return h.reply(), nil
	}}
}

// held is the record with this seq, if it is in memory.
func held(c *state.Conversation, seq uint64) *logv1.Record {
	if entries := c.Window.Range(seq, seq); len(entries) == 1 {
		return entries[0].Record
	}
	return nil
}

// read fetches what was not in memory.
func (h *head) read(ctx context.Context, s *feature.Services, c store.Conversation) (err error) {
	if h.newest == nil {
		if h.newest, err = s.Record(ctx, c, h.newestAt); err != nil {
			return err
		}
	}
	if h.join > 0 && h.joined == nil {
		h.joined, err = s.Record(ctx, c, h.joinedAt)
	}
	return err
}

func (h *head) reply() protocol.Message {
	if h.newest != nil {
		h.Count, h.TimeUs = h.newest.Count, h.newest.TimeUs
		if client, err := protocol.ClientRecord(h.newest); err == nil {
			h.Last = client
		}
	}
	if h.joined != nil {
		h.ReadSeq, h.ReadCount = h.joined.Seq, h.joined.Count
	}
	return h.Head
}
