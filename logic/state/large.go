package state

import (
	"slices"

	"github.com/halley-im/halley/pkg/store"
)

// Large reports whether the conversation's messages go to nodes instead of members. The log says so, not the number of members now:
// what members' nodes were told follows the same records.
func (c *Conversation) Large() bool { return c.large }

// NoteLarge keeps what the record with this seq, one with joined or left, says; an older record changes nothing.
func (c *Conversation) NoteLarge(seq uint64, large bool) {
	if seq >= c.largeSeq {
		c.large, c.largeSeq = large, seq
	}
}

// LastChange is the seq of the last record with joined or left, as far as the members tell.
func LastChange(members []store.Member) (seq uint64) {
	for _, m := range members {
		for _, i := range m.Intervals {
			seq = max(seq, i.From, i.To)
		}
	}
	return seq
}

// After is who is a member after a record with these joined and left, were it the next one; sorted.
func (c *Conversation) After(joined, left []string) []string {
	all := c.Recipients(joined)
	if len(left) == 0 {
		return all
	}
	gone := make(map[string]struct{}, len(left))
	for _, user := range left {
		gone[user] = struct{}{}
	}
	return slices.DeleteFunc(slices.Clone(all), func(user string) bool {
		_, ok := gone[user]
		return ok
	})
}

// NoteStanding keeps what a user's log tells of a conversation; an older standing changes nothing.
func (c *Conversation) NoteStanding(s store.Standing) {
	if c.standings == nil {
		c.standings = make(map[string]uint64)
	}
	if s.Seq < c.standings[s.Conversation] {
		return
	}
	c.standings[s.Conversation] = s.Seq
	if !s.Member || !s.Large {
		delete(c.rooms, s.Conversation)
		return
	}
	if c.rooms == nil {
		c.rooms = make(map[string]uint64)
	}
	c.rooms[s.Conversation] = s.JoinedSeq
}

// Rooms calls fn for each large conversation that the user of this log is a member of, in no order.
func (c *Conversation) Rooms(fn func(conversation string, joined uint64)) {
	for id, joined := range c.rooms {
		fn(id, joined)
	}
}
