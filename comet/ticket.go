package comet

import (
	"math/rand/v2"
	"time"

	"github.com/halley-im/halley/pkg/presence"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
)

// A resume ticket spares a device that comes back the wait for the owner of its user's log: the Hello comes as soon as the token is
// verified and presence written, even while owners are moving. The ticket says which rooms the session was in. The node enters
// them at once, expands to the session only once the owner has confirmed them, and has it resync only if something passed meanwhile. The
// question for that goes with the device's own first question to its user's log.

// Sealer signs what a device keeps for a node, any node of the cluster.
type Sealer interface {
	Seal(data []byte) []byte
	// Open returns what was sealed; false: it was not, or with a key that is gone.
	Open(sealed []byte) (data []byte, ok bool)
}

const (
	// maxTicketRooms keeps tickets small. Who is in more rooms has none, and is attached before the Hello.
	maxTicketRooms = 16
	// maxTicket is more than a ticket with so many rooms takes.
	maxTicket = 8 << 10
	// attachSoon is how long the question waits for one of the device's own to go with; then it is asked by itself, spread.
	attachSoon = time.Second
	// notAsked stands for the number of a question that is yet to be asked. None has it.
	notAsked = 1 << 63
)

// ticket makes a session's ticket; nil: it gets none.
func (l *eventLoop) ticket(s *session, tokenID string, now time.Time) (sealed []byte, life time.Duration) {
	c := l.comet
	rooms := l.memberOf[s.slot]
	if c.tickets == nil || c.cfg.TicketMs == 0 || tokenID == "" || len(rooms) > maxTicketRooms {
		return nil, 0
	}
	life = ms(c.cfg.TicketMs)
	if s.expires != 0 {
		life = min(life, time.Unix(int64(s.expires), 0).Sub(now))
	}
	t := &linkv1.Ticket{
		App: *s.app, User: s.user(), Device: s.device(), TokenId: tokenID, ExpiresUs: now.Add(life).UnixMicro(),
	}
	for _, r := range rooms {
		if m := &r.members[r.at[s.slot]]; m.left == 0 && m.closed == 0 {
			t.Rooms = append(t.Rooms, &linkv1.AttachedRoom{Conversation: r.id.Conversation, JoinedSeq: m.joined})
		}
	}
	data, err := t.MarshalVT()
	if err != nil || life <= 0 {
		return nil, 0
	}
	return c.tickets.Seal(data), life
}

// redeem reads the ticket of a device whose token holds; nil: it does not. It gives nothing that the token does not give.
func (c *Comet) redeem(sealed []byte, id *Identity, now time.Time) *linkv1.Ticket {
	if c.tickets == nil || len(sealed) > maxTicket {
		return nil
	}
	data, ok := c.tickets.Open(sealed)
	if !ok {
		return nil
	}
	t := &linkv1.Ticket{}
	if t.UnmarshalVT(data) != nil || len(t.Rooms) > maxTicketRooms ||
		t.App != id.App || t.User != id.User || t.Device != id.Device || t.TokenId == "" || t.TokenId != id.TokenID ||
		t.ExpiresUs <= now.UnixMicro() {
		return nil
	}
	return t
}

// resume lets a session in by its ticket.
func (l *eventLoop) resume(s *session, a *admission) {
	l.stats.resumed.add(1)
	at := &attach{
		request: notAsked, resumed: true, deadline: never,
		again: l.wheel.now + ticksOf(attachSoon+rand.N(ms(l.comet.cfg.ResyncSpreadMs)+1)),
	}
	l.attaching.put(s, at)
	l.attaching.arm(at, l.wheel.now)
	epoch := l.comet.lease.current()
	for _, room := range a.ticket.Rooms {
		m := l.joinRoom(s, presence.RoomID{App: *s.app, Conversation: room.Conversation}, room.JoinedSeq)
		m.doubt = l.doubt - 1
	}
	for _, r := range l.memberOf[s.slot] {
		if r.entered == 0 || r.entered != epoch { // What is sent until the node is in the room does not come here.
			at.resync = true
		}
	}
	s.flags |= flagResumed
	l.live(s, a)
}

// passedOver notes that a record went past a session whose part in the room is not confirmed.
func (l *eventLoop) passedOver(m *member) {
	if at := l.attaching.of[uint32(m.session)&(maxSlots-1)]; at != nil && at.id == m.session && at.resumed {
		at.resync = true
	}
}

// confirm asks for the rooms of a session that was let in by its ticket, on the way of a question of its own.
func (l *eventLoop) confirm(s *session) {
	s.flags &^= flagResumed
	if at := l.attaching.get(s); at != nil && at.request == notAsked {
		l.askRooms(s, at)
	}
}
