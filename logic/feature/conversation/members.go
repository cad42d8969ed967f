package conversation

import (
	"slices"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
)

const (
	defaultMembers = 200
	maxMembersPage = 1000
)

// members lists who is a member now, by name. The cursor is the last name of the page before: names are no secret among
// members, and members who come and go between two pages move nobody else.
func members(c *state.Conversation, r *link.Request) feature.Outcome {
	req := &conversationv1.MembersRequest{}
	if err := feature.Decode(r, req); err != nil {
		return feature.Refuse(err)
	}
	limit := int(req.Limit)
	switch {
	case limit == 0:
		limit = defaultMembers
	case limit > maxMembersPage:
		return feature.Refuse(protocol.Invalid("limit", "%d, at most %d", limit, maxMembersPage))
	}
	if req.Cursor != "" && !protocol.ValidUser(req.Cursor) {
		return feature.Refuse(protocol.Invalid("cursor", "is not one that this server gave"))
	}
	names := c.Active()
	start, found := slices.BinarySearch(names, req.Cursor)
	if found {
		start++
	}
	reply := &conversationv1.MembersReply{}
	for _, name := range names[start:min(start+limit, len(names))] {
		m := c.Member(name)
		role := conversationv1.Role_ROLE_MEMBER
		if name == c.Owner {
			role = conversationv1.Role_ROLE_OWNER
		}
		reply.Members = append(reply.Members, &conversationv1.Member{
			User: name, Role: role, JoinedSeq: m.Last().From, ReadSeq: m.Cursor.Seq,
		})
	}
	if start+limit < len(names) {
		reply.NextCursor = names[start+limit-1]
	}
	return feature.Outcome{Reply: reply}
}
