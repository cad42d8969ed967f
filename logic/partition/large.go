package partition

import (
	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// A large conversation's messages go to the nodes in its room, which know its members among their sessions from the users' logs. Between a
// record that changes who is a member and the moment when all those logs tell of it, the nodes may not know. In that time
// who joined is delivered to one by one as well, and who left is named to the nodes with each delivery.

// minLarge is the least that large_members may be: smaller groups need no look at what the log says of their size.
const minLarge = 8

// maxLarge is the most that large_members may be: the record with which a group crosses the line names all its members.
const maxLarge = 1000

// settleTicks is for how many seconds more leaves are named after users' logs tell of them: the word of the logs' owners may still be
// on its way to the nodes. A link that delivers later than that has said that it lost something, and its node confirms all.
const settleTicks = 15

// maxChanges is how many changes of members the nodes may not know of while the conversation's messages still go to them: each of their
// deliveries names them all. Beyond it members are delivered to one by one until their logs catch up.
const maxChanges = 256

// told is what the nodes of a conversation's members may not know yet.
type told struct {
	changes []change
	// Who must be delivered to one by one; nil: to be gathered anew. Everyone, where the conversation became large.
	fresh    map[string]struct{}
	everyone bool
}

// change is a record with joined or left.
type change struct {
	record *logv1.Record
	block  uint64
	leave  *link.Room // for the nodes; nil if nobody left
	until  int64      // tick up to which leaves are still named; 0: the users' logs do not tell of it yet
}

// note keeps a committed record if it changes who is a member of a group. Leaves count although the group is not large, for
// it may have been, and be so again before the nodes know. Of a user's log it keeps that the store's list may not have the record.
func (o *owner) note(c *cell, r *logv1.Record, block uint64) {
	if c.Kind == protocol.KindUser {
		c.listed, o.changed = block, block
		return
	}
	if protocol.KindOf(r.Conversation) != protocol.KindGroup || len(r.Left) == 0 && (!r.Large || len(r.Joined) == 0) {
		return
	}
	if len(c.told.changes)%64 == 63 { // Who is delivered to one by one needs none of them, and would never look.
		o.settle(c)
	}
	ch := change{record: r, block: block}
	if len(r.Left) > 0 {
		ch.leave = &link.Room{App: r.App, Conversation: r.Conversation, Op: link.RoomLeave, Seq: r.Seq, Users: r.Left}
	}
	c.told.changes = append(c.told.changes, ch)
	c.told.fresh = nil
	o.changed = block
}

// settle forgets the changes that all nodes know of.
func (o *owner) settle(c *cell) {
	t := &c.told
	if len(t.changes) == 0 {
		return
	}
	kept := t.changes[:0]
	for _, ch := range t.changes {
		if ch.until == 0 && ch.block <= o.toldTo {
			ch.until = o.tick + settleTicks
			t.fresh = nil
		}
		if ch.until == 0 || ch.leave != nil && ch.until > o.tick {
			kept = append(kept, ch)
		}
	}
	clear(t.changes[len(kept):])
	if t.changes = kept; len(kept) == 0 {
		*t = told{}
	}
}

// gather makes the list of those who must be delivered to one by one.
func (t *told) gather() {
	t.fresh, t.everyone = make(map[string]struct{}), false
	for _, ch := range t.changes {
		if ch.until != 0 {
			continue
		}
		t.everyone = t.everyone || ch.record.Large && len(ch.record.Active) > 0
		for _, users := range [][]string{ch.record.Joined, ch.record.Left} {
			for _, user := range users {
				t.fresh[user] = struct{}{}
			}
		}
	}
}

// address says how a delivery to the members reaches them, and what it means for their nodes.
func (o *owner) address(c *cell, d *delivery) {
	if c.Kind == protocol.KindUser {
		d.control = o.roomOf(d.record)
		return
	}
	if !c.Large() {
		return
	}
	o.settle(c)
	t := &c.told
	if len(t.changes) > maxChanges {
		return
	}
	d.large = true
	if len(t.changes) == 0 {
		d.users = nil
		return
	}
	if t.fresh == nil {
		t.gather()
	}
	for _, ch := range t.changes {
		if ch.leave != nil {
			d.leaves = append(d.leaves, ch.leave)
		}
	}
	if t.everyone {
		return
	}
	var users []string
	for _, user := range d.users {
		if _, ok := t.fresh[user]; ok {
			users = append(users, user)
		}
	}
	d.users = users
}

// roomOf asks the features what a record of a user's log means for the user's large conversations.
func (o *owner) roomOf(r *logv1.Record) *link.Room {
	for _, f := range o.Features {
		if f, ok := f.(feature.Rooms); ok {
			if room := f.Room(r); room != nil {
				return room
			}
		}
	}
	return nil
}

// measure says on a record that changes who is a member whether the group is large as of it, names all members where that changed, and
// says since when those whom users' logs tell of it were members: the store may not know yet.
func (o *owner) measure(c *cell, r *logv1.Record) {
	if c.Kind != protocol.KindGroup || len(r.Joined)+len(r.Left) == 0 {
		return
	}
	joinedBy := func(users []string) []uint64 {
		out := make([]uint64, len(users))
		for i, user := range users {
			if out[i] = r.Seq; c.Member(user).Active() { // Else it joins with this record.
				out[i] = c.Member(user).Last().From
			}
		}
		return out
	}
	var since logv1.Since
	since.Left = joinedBy(r.Left)
	after := c.After(r.Joined, r.Left)
	if c.Large() {
		r.Large = len(after) >= o.cfg.LargeMembers*3/4
	} else {
		r.Large = len(after) > o.cfg.LargeMembers
	}
	if r.Large != c.Large() {
		r.Active, since.Active = after, joinedBy(after)
	}
	if len(since.Left)+len(since.Active) > 0 {
		r.Since = &since
	}
}
