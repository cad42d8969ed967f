package conversation

import (
	"cmp"
	"slices"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

var _ feature.Rooms = Feature{}

// attach tells comet of the caller's large conversations.
func attach(c *state.Conversation, _ *link.Request) feature.Outcome {
	reply := &linkv1.AttachReply{}
	c.Rooms(func(conversation string, joined uint64) {
		reply.Rooms = append(reply.Rooms, &linkv1.AttachedRoom{Conversation: conversation, JoinedSeq: joined})
	})
	slices.SortFunc(reply.Rooms, func(a, b *linkv1.AttachedRoom) int { return cmp.Compare(a.Conversation, b.Conversation) })
	return feature.Outcome{Reply: reply}
}

// Room implements feature.Rooms. Who attached before this record was committed is found in presence after it, and who attaches later is
// told by attach: so no session misses it.
func (Feature) Room(r *logv1.Record) *link.Room {
	if r.Type != TypeStanding {
		return nil
	}
	s := &recordv1.Standing{}
	if err := s.UnmarshalVT(r.Body); err != nil {
		return nil
	}
	room := &link.Room{App: r.App, Conversation: s.Conversation}
	switch {
	case s.Member && s.Large:
		room.Op, room.Seq = link.RoomJoin, s.JoinedSeq
	case !s.Member:
		room.Op, room.Seq = link.RoomLeave, s.LeftSeq
	case s.Seq != s.JoinedSeq: // A member since longer: the conversation ceased to be large.
		room.Op, room.Seq = link.RoomClose, s.Seq
	default:
		return nil
	}
	return room
}
