package comet

import (
	"slices"
	"strings"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// room is a large conversation with members among a loop's sessions. It belongs to the loop.
type room struct {
	id      presence.RoomID
	members []member
	at      map[uint32]int // slot → index in members
	last    uint64         // the highest seq expanded here
	entered uint64         // the lease's epoch under which presence has this node in the room; 0: not yet
}

// member is one session's part in a room: it gets the records from joined on, up to left and below closed.
type member struct {
	session uint64
	joined  uint64
	left    uint64 // 0: a member
	closed  uint64 // the conversation ceased to be large with this record; 0: it is
	doubt   uint32 // confirmed in this state of doubt of the loop (eventLoop.doubt)
	json    bool
}

// has reports whether the record is the member's, by an expansion.
func (m *member) has(seq uint64) bool {
	return seq >= m.joined && (m.left == 0 || seq <= m.left) && (m.closed == 0 || seq < m.closed)
}

// over reports that nothing after seq will be the member's.
func (m *member) over(seq uint64) bool {
	return m.left != 0 && seq >= m.left || m.closed != 0 && seq+1 >= m.closed
}

// joinRoom makes the session a member from joined on, and this node enter the room if that is new to it.
func (l *eventLoop) joinRoom(s *session, id presence.RoomID, joined uint64) *member {
	r := l.rooms[id]
	if r == nil {
		// The caller's strings may be parts of a batch.
		r = &room{id: presence.RoomID{App: *s.app, Conversation: strings.Clone(id.Conversation)}, at: make(map[uint32]int)}
		l.rooms[r.id] = r
		l.roomCount.Store(int64(len(l.rooms)))
		l.tellKeeper(roomTask{id: r.id, loop: l.index, enter: true})
	}
	if i, ok := r.at[s.slot]; ok {
		m := &r.members[i]
		if joined > m.joined {
			m.joined, m.left = joined, 0
		}
		m.closed = 0
		return m
	}
	r.at[s.slot] = len(r.members)
	r.members = append(r.members, member{session: s.id(), joined: joined, json: s.isJSON(), doubt: l.doubt})
	l.memberOf[s.slot] = append(l.memberOf[s.slot], r)
	return &r.members[len(r.members)-1]
}

// isMember reports whether the session has a part in the room, confirmed or not.
func (l *eventLoop) isMember(s *session, conversation string) bool {
	r := l.rooms[presence.RoomID{App: *s.app, Conversation: conversation}]
	if r == nil {
		return false
	}
	_, ok := r.at[s.slot]
	return ok
}

// dropMember takes a session out of a room, and this node, if it was the loop's last.
func (l *eventLoop) dropMember(r *room, slot uint32) {
	i, ok := r.at[slot]
	if !ok {
		return
	}
	last := len(r.members) - 1
	if i != last {
		r.members[i] = r.members[last]
		r.at[uint32(r.members[i].session)&(maxSlots-1)] = i
	}
	r.members = r.members[:last]
	delete(r.at, slot)
	of := l.memberOf[slot]
	i = len(of) - 1
	for of[i] != r { // From the end: one that leaves all takes the last each time.
		i--
	}
	if of = slices.Delete(of, i, i+1); len(of) == 0 {
		delete(l.memberOf, slot)
	} else {
		l.memberOf[slot] = of
	}
	if len(r.members) == 0 {
		delete(l.rooms, r.id)
		l.roomCount.Store(int64(len(l.rooms)))
		l.tellKeeper(roomTask{id: r.id, loop: l.index})
	}
}

// leaveRooms forgets a session that ends.
func (l *eventLoop) leaveRooms(s *session) {
	l.attaching.drop(s.slot)
	for of := l.memberOf[s.slot]; len(of) > 0; of = l.memberOf[s.slot] {
		l.dropMember(of[len(of)-1], s.slot)
	}
}

// tellKeeper passes on that the loop has the room's first member, or lost its last. What finds no room waits, in order.
func (l *eventLoop) tellKeeper(t roomTask) {
	if len(l.untold) > 0 || !l.comet.keeper.tasks.push(t) {
		l.untold = append(l.untold, t)
	}
}

func (l *eventLoop) tellAgain() {
	for len(l.untold) > 0 && l.comet.keeper.tasks.push(l.untold[0]) {
		l.untold = l.untold[1:]
	}
}

// entered hears that presence has this node in rooms.
func (l *eventLoop) enteredRooms(done []enteredRoom) {
	for _, e := range done {
		r := l.rooms[e.id]
		if r == nil {
			continue
		}
		r.entered = e.epoch
		if len(l.attaching.of) == 0 {
			continue
		}
		for _, m := range slices.Clone(r.members) { // A session that goes live may end.
			if s := l.sessions.get(m.session); s != nil {
				if at := l.attaching.get(s); at != nil {
					l.attachProgress(s, at)
				}
			}
		}
	}
}

// roomWord is a delivery that concerns rooms: it changes them at once, and appends the frames that follow to out.
func (l *eventLoop) roomWord(d *delivery, out []delivery) []delivery {
	switch d.room.Op {
	case link.RoomExpand:
		return l.expand(d, out)
	case link.RoomAlso:
		if !l.expandedTo(d) {
			out = append(out, delivery{conn: d.conn, frame: d.frame, generation: d.generation})
		}
	case link.RoomLeave:
		if len(d.room.Users) > 0 {
			l.usersLeave(d.room)
			return out
		}
		l.sessionWord(d)
	case link.RoomJoin, link.RoomClose:
		l.sessionWord(d)
	}
	return out
}

// maxExpanded is how many frames are gathered before they are written; those of one more record may come on top.
const maxExpanded = 1 << 14

// expand makes one delivery of a record for each member that it belongs to.
func (l *eventLoop) expand(d *delivery, out []delivery) []delivery {
	r := l.rooms[presence.RoomID{App: d.room.App, Conversation: d.room.Conversation}]
	if r == nil {
		return out
	}
	if len(out) >= maxExpanded { // Before the walk and not in it: a write may end sessions, and so change the room.
		l.deliverAll(out)
		clear(out)
		out = out[:0]
	}
	seq := d.room.Seq
	r.last = max(r.last, seq)
	sent := 0
	for i := 0; i < len(r.members); {
		m := &r.members[i]
		if m.over(seq - 1) {
			l.dropMember(r, uint32(m.session)&(maxSlots-1)) // Another stands at i now.
			continue
		}
		if m.doubt == l.doubt && m.has(seq) && m.session != d.conn {
			frame := d.frame
			if m.json {
				frame = d.room.JSON
			}
			if len(frame) > 0 {
				out = append(out, delivery{conn: m.session, frame: frame})
				sent++
			}
		} else if m.doubt != l.doubt {
			l.passedOver(m)
		}
		i++
	}
	l.stats.expanded.add(sent)
	return out
}

// expandedTo reports whether the session had the record by an expansion.
func (l *eventLoop) expandedTo(d *delivery) bool {
	r := l.rooms[presence.RoomID{App: d.room.App, Conversation: d.room.Conversation}]
	if r == nil || d.room.Seq > r.last {
		return false
	}
	i, ok := r.at[uint32(d.conn)&(maxSlots-1)]
	return ok && r.members[i].session == d.conn && r.members[i].doubt == l.doubt && r.members[i].has(d.room.Seq)
}

// usersLeave ends what users may have of a conversation, on all their sessions.
func (l *eventLoop) usersLeave(w *link.Room) {
	r := l.rooms[presence.RoomID{App: w.App, Conversation: w.Conversation}]
	if r == nil {
		return
	}
	for i := range r.members {
		m := &r.members[i]
		if m.joined > w.Seq || m.left != 0 {
			continue
		}
		if s := l.sessions.get(m.session); s != nil && slices.Contains(w.Users, s.user()) {
			m.left = w.Seq
		}
	}
}

// sessionWord is what the owner of a user's log says about one session.
func (l *eventLoop) sessionWord(d *delivery) {
	s := l.sessions.get(d.conn)
	// A session without a name asks for its rooms later.
	if s == nil || s.app == nil || (s.phase != phaseLive && s.phase != phaseConnecting) ||
		(d.generation != 0 && s.generation != 0 && d.generation != s.generation) {
		return
	}
	id := presence.RoomID{App: *s.app, Conversation: d.room.Conversation}
	if d.room.Op == link.RoomJoin {
		l.sessionJoins(s, id, d.room.Seq)
		return
	}
	r := l.rooms[id]
	if r == nil {
		return
	}
	i, ok := r.at[s.slot]
	if !ok {
		return
	}
	m := &r.members[i]
	switch {
	case d.room.Op == link.RoomClose:
		m.closed = d.room.Seq
	case m.joined <= d.room.Seq && m.left == 0:
		m.left = d.room.Seq
	}
	// What was committed before may still be on its way here: the member stays until that is expanded.
	if m.over(r.last) {
		l.dropMember(r, s.slot)
	}
}

// sessionJoins has a session that was not in the room resync once the node is: what came between is below the head then.
func (l *eventLoop) sessionJoins(s *session, id presence.RoomID, joined uint64) {
	if r := l.rooms[id]; r != nil {
		if _, ok := r.at[s.slot]; ok {
			l.joinRoom(s, id, joined)
			return
		}
	}
	l.joinRoom(s, id, joined)
	at := l.attaching.get(s)
	if at == nil {
		at = &attach{deadline: never}
		l.attaching.put(s, at)
	}
	at.resync = at.resync || at.waiting == nil
	l.attaching.arm(at, l.wheel.now)
	l.attachProgress(s, at)
}
