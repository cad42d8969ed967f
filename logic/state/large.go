package state

import (
	"slices"
	"strings"

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
	at, known := c.findStanding(s.Conversation)
	switch {
	case !known:
		c.standings = slices.Insert(c.standings, at, standing{s.Conversation, s.Seq})
	case s.Seq < c.standings[at].seq:
		return
	default:
		c.standings[at].seq = s.Seq
	}
	i, ok := c.findRoom(s.Conversation)
	switch {
	case s.Member && s.Large && ok:
		c.rooms[i].Joined = s.JoinedSeq
	case s.Member && s.Large:
		c.rooms = slices.Insert(c.rooms, i, Room{s.Conversation, s.JoinedSeq})
	case ok:
		c.rooms = slices.Delete(c.rooms, i, i+1)
	}
}

// Room is a large conversation that the user of a log is a member of, and the first seq that the user may read.
type Room struct {
	Conversation string
	Joined       uint64
}

// standing is how far a user's log tells of a conversation. They are kept in the order of their conversations, which
// is that in which stores list them: a map of one takes more than ten of them here.
type standing struct {
	conversation string
	seq          uint64
}

func (c *Conversation) findStanding(id string) (int, bool) {
	return slices.BinarySearchFunc(c.standings, id, func(s standing, id string) int { return strings.Compare(s.conversation, id) })
}

func (c *Conversation) findRoom(id string) (int, bool) {
	return slices.BinarySearchFunc(c.rooms, id, func(r Room, id string) int { return strings.Compare(r.Conversation, id) })
}

// RoomsAfter returns up to most of the user's large conversations whose ids are behind after, in order, and whether there are more. Nobody
// may change them.
func (c *Conversation) RoomsAfter(after string, most int) (rooms []Room, more bool) {
	i, ok := c.findRoom(after)
	if ok {
		i++
	}
	rest := c.rooms[i:]
	return rest[:min(len(rest), most)], len(rest) > most
}
