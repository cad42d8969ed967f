package conversation

import (
	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

var _ feature.Rooms = Feature{}

// attach tells comet of the caller's large conversations, a page at a time.
func attach(c *state.Conversation, r *link.Request) feature.Outcome {
	var q linkv1.AttachRequest
	if err := q.UnmarshalVT(r.Body); err != nil {
		return feature.Refuse(protocol.Invalid("body", "%v", err))
	}
	rooms, more := c.RoomsAfter(q.After, protocol.MaxAttachedRooms)
	reply := &linkv1.AttachReply{Rooms: make([]*linkv1.AttachedRoom, len(rooms)), More: more}
	for i, room := range rooms {
		reply.Rooms[i] = &linkv1.AttachedRoom{Conversation: room.Conversation, JoinedSeq: room.Joined}
	}
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
