package conversation

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func heads(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.HeadsRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	if len(req.Conversations) == 0 || len(req.Conversations) > maxWindow {
		return feature.Refuse(protocol.Invalid("conversations", "must be 1 to %d", maxWindow))
	}
	for i, id := range req.Conversations {
		if protocol.KindOf(id) == protocol.KindInvalid {
			return feature.Refuse(protocol.Invalid("conversations", "entry %d: %q is not the id of a conversation", i, id))
		}
	}
	app, user := c.App, c.ID[len("u:"):]
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		heads, unanswered, err := ask(ctx, s, app, user, req.Conversations)
		if err != nil {
			return nil, err
		}
		return &conversationv1.HeadsReply{Heads: heads, Unanswered: unanswered}, nil
	}}
}

// askTimeout is how long one conversation without an owner may hold up the heads of the others.
const askTimeout = 2 * time.Second

// ask gets the heads of conversations from their owners, in the user's name; those of which it may not know are left out, and those
// whose owners cannot tell now are named. It is an error when that is so of all.
func ask(ctx context.Context, s feature.Services, app, user string, ids []string) (heads []*conversationv1.Head, unanswered []string, err error) {
	requests := make([]link.Request, len(ids))
	for i, id := range ids {
		requests[i] = link.Request{
			App: app, User: user, Server: true, Codec: link.CodecProto, Command: protocol.CommandHeadOf, Conversation: id,
		}
	}
	var later, failure error = protocol.Errorf(protocol.CodeRetry, "the owners of the conversations do not answer"), nil
	found, answered := make([]*conversationv1.Head, len(ids)), make([]bool, len(ids))
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = s.Call(askCtx, requests, func(i int, f *envelopev1.Frame) {
		h := &conversationv1.Head{}
		switch {
		case f.Error != nil && f.Error.Retryable:
			later = protocol.FromWire(f.Error)
			return
		case f.Error != nil && protocol.Code(f.Error.Code) != protocol.CodeNotFound:
			failure = protocol.FromWire(f.Error)
		case f.Error == nil:
			if err := h.UnmarshalVT(f.Body); err != nil {
				failure = err
			}
			found[i] = h
		}
		answered[i] = true
	})
	switch {
	case failure != nil:
		return nil, nil, failure
	case err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)):
		return nil, nil, err
	case !slices.Contains(answered, true):
		return nil, nil, later
	}
	for i, id := range ids {
		if !answered[i] {
			unanswered = append(unanswered, id)
		}
	}
	return slices.DeleteFunc(found, func(h *conversationv1.Head) bool { return h == nil }), unanswered, nil
}

// position is where a window of the list ends: activity and id of its last row.
type position struct {
	ActiveUs     int64  `json:"a"`
	Conversation string `json:"c"`
}

func list(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.ListRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	limit, err := windowSize(req.Limit)
	if err != nil {
		return feature.Refuse(err)
	}
	var after *position
	if req.Cursor != "" {
		after = &position{}
		data, decodeErr := base64.RawURLEncoding.DecodeString(req.Cursor)
		if decodeErr != nil || json.Unmarshal(data, after) != nil {
			return feature.Refuse(protocol.Invalid("cursor", "is not one that this server gave"))
		}
	}
	app, user := c.App, c.ID[len("u:"):]
	return feature.Outcome{Read: func(ctx context.Context, s feature.Services) (protocol.Message, error) {
		// Taken before the rows are read: what is written later is not promised.
		until := time.Now().UnixMicro()
		rows, err := window(ctx, s.Store, app, user, state.Minute(req.ChangedSinceUs), after, limit+1)
		if err != nil {
			return nil, err
		}
		reply := &conversationv1.ListReply{CompleteUntilUs: until}
		if len(rows) > limit {
			rows = rows[:limit]
			last := rows[limit-1]
			data, err := json.Marshal(position{last.ActiveUs, last.Conversation})
			if err != nil {
				return nil, err
			}
			reply.NextCursor = base64.RawURLEncoding.EncodeToString(data)
		}
		ids := make([]string, len(rows))
		for i, row := range rows {
			ids[i] = row.Conversation
		}
		if len(ids) == 0 {
			return reply, nil
		}
		heads, unanswered, err := ask(ctx, s, app, user, ids)
		if err == nil && len(unanswered) > 0 { // A window with a hole would look like a shorter list.
			err = protocol.Errorf(protocol.CodeRetry, "the owners of %d conversations do not answer", len(unanswered))
		}
		reply.Conversations = heads
		return reply, err
	}}
}

// window reads the newest rows of a user's list, those behind after where it is set.
func window(ctx context.Context, st store.Users, app, user string, since int64, after *position, limit int) ([]store.Listing, error) {
	newestFirst := func(a, b store.Listing) int {
		return cmp.Or(cmp.Compare(b.ActiveUs, a.ActiveUs), cmp.Compare(a.Conversation, b.Conversation))
	}
	var edge store.Listing
	if after != nil {
		edge.ActiveUs, edge.Conversation = after.ActiveUs, after.Conversation
	}
	var rows []store.Listing
	err := st.List(ctx, app, user, func(row store.Listing) error {
		if row.ActiveUs < since || after != nil && newestFirst(row, edge) <= 0 {
			return nil
		}
		rows = append(rows, row)
		if len(rows) >= 4*limit { // Bounds the memory of a list with very many rows.
			slices.SortFunc(rows, newestFirst)
			rows = rows[:limit]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rows, newestFirst)
	return rows[:min(len(rows), limit)], nil
}
