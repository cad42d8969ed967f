// Package state is what the owner of a partition holds in memory of its conversations. It never waits, and it never locks:
// only the partition's goroutine touches it.
package state

import (
	"slices"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Position is where a conversation stands.
type Position struct {
	Seq    uint64
	Count  uint64
	TimeUs int64
}

// Member is one user's membership, past or present.
type Member struct {
	// Ascending, disjoint; at most the last is open.
	Intervals []store.Interval
	Cursor    store.Cursor
	// The count at the record of the last join, if that was seen; else the store has it.
	JoinCount uint64
	JoinKnown bool
}

// Active reports whether the user is a member now.
func (m *Member) Active() bool {
	return m != nil && len(m.Intervals) > 0 && m.Intervals[len(m.Intervals)-1].To == 0
}

// Last returns the latest interval; a user that never joined has the zero interval.
func (m *Member) Last() store.Interval {
	if m == nil || len(m.Intervals) == 0 {
		return store.Interval{}
	}
	return m.Intervals[len(m.Intervals)-1]
}

// Conversation is one conversation as of the last committed record.
type Conversation struct {
	App  string
	ID   string
	Kind protocol.Kind

	// Head is the last committed record.
	Head Position
	// Window has the newest records, everything above history's floor included.
	Window Window
	// Until SetMembers: records with joined or left that the window no longer holds, but only the log is sure to have.
	changes []*logv1.Record

	// Set by the feature that owns the record which opened a group.
	Owner   string
	Name    string
	members roster
	// The active members, sorted. Never changed in place: records in flight share it.
	active []string
	// In a user's log: the seqs of the standings last applied, by conversation.
	standings []standing
	// In a user's log: the large conversations of which the user is a member, by id.
	rooms []Room
	// Large, and the seq of the record with joined or left that said so.
	large    bool
	largeSeq uint64
	// The minute of the last record with `active` set, microseconds since 1970.
	activeMinuteUs int64
}

// New makes a conversation that has no records.
func New(app, id string) *Conversation {
	return &Conversation{App: app, ID: id, Kind: protocol.KindOf(id)}
}

// Exists reports whether the conversation has a record.
func (c *Conversation) Exists() bool { return c.Head.Seq > 0 }

// Member returns what is known of the user; nil where it never was a member.
func (c *Conversation) Member(user string) *Member { return c.members.get(user) }

// Active returns the members as of the last committed record, sorted; the slice is shared and must not be changed.
func (c *Conversation) Active() []string { return c.active }

// Users calls fn for everyone who is or was a member, in no order.
func (c *Conversation) Users(fn func(user string, m *Member)) {
	c.members.each(fn)
}

// SetMembers replaces the membership by what the store has, and by what the window has from its first record on: above
// history's floor the store may have some records and lack others, so there the window alone is right.
func (c *Conversation) SetMembers(members []store.Member) {
	c.members = newRoster(len(members))
	c.active = nil
	for _, m := range members {
		intervals := m.Intervals
		if lowest := c.Window.Lowest(); lowest > 0 {
			intervals = before(intervals, lowest)
		}
		member := &Member{Intervals: intervals, Cursor: m.Cursor}
		c.members.add(m.User, member)
		if member.Active() {
			c.active = append(c.active, m.User)
		}
	}
	slices.Sort(c.active)
	for _, r := range c.changes {
		c.ApplyMembers(r)
	}
	c.changes = nil
	for _, e := range c.Window.All() {
		c.ApplyMembers(e.Record)
	}
	// The row of one who, as it turns out, never joined.
	c.members.drop(func(m *Member) bool { return len(m.Intervals) == 0 })
}

// Trim forgets what is in the store, the blocks up to floor, but for the newest keep records.
func (c *Conversation) Trim(floor uint64, keep int) {
	c.Window.Trim(floor, keep)
	if len(c.changes) > 0 {
		lowest := c.Window.Lowest()
		c.changes = slices.DeleteFunc(c.changes, func(r *logv1.Record) bool { return lowest == 0 || r.Seq < lowest })
	}
}

// Evict lets go of the records of blocks up to block; what is above floor can be read again from the log. With members it is yet to
// be set who they are, so changes of them are kept.
func (c *Conversation) Evict(block, floor uint64, members bool) {
	c.Window.Evict(block, floor, func(r *logv1.Record) {
		if members && len(r.Joined)+len(r.Left) > 0 {
			c.changes = append(c.changes, r)
		}
	})
}

// before returns the intervals as they stood just before the record with this seq.
func before(intervals []store.Interval, seq uint64) []store.Interval {
	out := make([]store.Interval, 0, len(intervals)+1)
	for _, i := range intervals {
		if i.From >= seq {
			break
		}
		if i.To >= seq {
			i.To = 0
		}
		out = append(out, i)
	}
	return out
}

// Recipients is who gets a record that changes membership by joined and left, were it the next one: all who are members
// just before or just after it.
func (c *Conversation) Recipients(joined []string) []string {
	if len(joined) == 0 {
		return c.active
	}
	all := make([]string, 0, len(c.active)+len(joined))
	all = append(all, c.active...)
	for _, user := range joined {
		if !c.members.get(user).Active() {
			all = append(all, user)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Apply moves the conversation to a committed record: head, membership, window. Records come in seq order; one that is
// already below the head changes membership only as far as it was not known.
func (c *Conversation) Apply(r *logv1.Record, block uint64) {
	c.ApplyMembers(r)
	if r.Seq > c.Head.Seq {
		c.Head = Position{Seq: r.Seq, Count: r.Count, TimeUs: r.TimeUs}
	}
	if len(r.Active) > 0 && (c.Kind == protocol.KindDirect || len(r.Joined)+len(r.Left) == 0) {
		c.activeMinuteUs = Minute(r.TimeUs)
	}
	c.Window.Push(Entry{Record: r, Block: block})
}

// ApplyMembers applies joins and leaves of a record; applying them again changes nothing.
func (c *Conversation) ApplyMembers(r *logv1.Record) {
	if len(r.Joined) == 0 && len(r.Left) == 0 {
		return
	}
	c.NoteLarge(r.Seq, r.Large)
	if c.members.empty() {
		c.members = newRoster(len(r.Joined))
	}
	for _, user := range r.Joined {
		m := c.members.get(user)
		if m == nil {
			m = &Member{}
			c.members.add(user, m)
		}
		if last := m.Last(); !m.Active() && r.Seq > last.To && r.Seq > last.From {
			m.Intervals = append(m.Intervals, store.Interval{From: r.Seq})
			m.JoinCount, m.JoinKnown = r.Count, true
		}
	}
	for _, user := range r.Left {
		if m := c.members.get(user); m.Active() && r.Seq >= m.Last().From {
			m.Intervals[len(m.Intervals)-1].To = r.Seq
		}
	}
	c.active = c.activeAfter(r)
}

// activeAfter merges the members that a record changes into those before it. It walks both in order, so a join in a group of
// 100,000 costs a copy and not a sort.
func (c *Conversation) activeAfter(r *logv1.Record) []string {
	changed := make([]string, 0, len(r.Joined)+len(r.Left))
	changed = append(append(changed, r.Joined...), r.Left...)
	slices.Sort(changed)
	changed = slices.Compact(changed)
	active := make([]string, 0, len(c.active)+len(r.Joined))
	rest := c.active
	for _, user := range changed {
		at, found := slices.BinarySearch(rest, user)
		active = append(active, rest[:at]...)
		if found {
			at++
		}
		rest = rest[at:]
		if c.members.get(user).Active() {
			active = append(active, user)
		}
	}
	return append(active, rest...)
}

// May reports whether the user may read the record with this seq.
func (c *Conversation) May(user string, seq uint64) bool {
	for _, i := range c.members.get(user).intervals() {
		if i.From <= seq && (i.To == 0 || seq <= i.To) {
			return true
		}
	}
	return false
}

// Readable returns the stretches of 1..head that the user may read, ascending.
func (c *Conversation) Readable(user string) []store.Interval {
	var out []store.Interval
	for _, i := range c.members.get(user).intervals() {
		if i.To == 0 || i.To > c.Head.Seq {
			i.To = c.Head.Seq
		}
		if i.From <= i.To {
			out = append(out, i)
		}
	}
	return out
}

func (m *Member) intervals() []store.Interval {
	if m == nil {
		return nil
	}
	return m.Intervals
}

// Standing is the seq up to which a user's log tells of a conversation.
func (c *Conversation) Standing(conversation string) uint64 {
	if i, ok := c.findStanding(conversation); ok {
		return c.standings[i].seq
	}
	return 0
}

// MarkActive reports whether a message at this time is the first of its minute here, for the lists of its members.
func (c *Conversation) MarkActive(timeUs int64) bool { return Minute(timeUs) > c.activeMinuteUs }

// Minute rounds down to the minute.
func Minute(timeUs int64) int64 {
	const minute = 60_000_000
	return timeUs - timeUs%minute
}
