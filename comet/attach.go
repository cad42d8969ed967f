package comet

import (
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
)

// Before its Hello, and again whenever something may have been lost on the way to this node, a session is attached: the owner of its
// user's log says which large conversations it has, and this node enters their rooms. The Hello does not wait longer for that than
// attachPatience; a session that went live before is attached later, and resyncs.

// The times of an attach.
const (
	attachPatience = 2 * time.Second
	attachTry      = time.Second            // for one question
	attachPause    = 200 * time.Millisecond // after the first that got no answer, doubled with each
	maxAttachPause = time.Minute
)

// attachBit marks, where the connection of a request stands, that the answer is for the node. No loop's number reaches it.
const attachBit = 1 << 63

// maxLoops keeps attachBit free.
const maxLoops = 1 << (63 - loopShift)

// attach is a session on its way into its rooms.
type attach struct {
	id       uint64
	request  uint64     // the question whose answer counts; 0: it is answered, and rooms are being entered
	again    uint32     // tick of the next question
	deadline uint32     // tick after which nobody waits any more
	tries    uint8      //
	waiting  *admission // of a session that has no Hello yet
	resync   bool       // the session is to resync, whatever the answer
}

// startAttach asks for the session's rooms. a is set where the Hello waits for it, resync where the session must resync afterwards.
func (l *eventLoop) startAttach(s *session, a *admission, resync bool) {
	at := l.attaching[s.slot]
	if at == nil || at.id != s.id() {
		at = &attach{id: s.id()}
		l.attaching[s.slot] = at
	}
	if a != nil {
		at.waiting = a
	}
	at.resync = at.resync || resync
	at.tries = 0
	at.deadline = l.wheel.now + ticksOf(attachPatience)
	l.askRooms(s, at)
}

// askRooms sends the question, for the first time or again.
func (l *eventLoop) askRooms(s *session, at *attach) {
	c := l.comet
	l.lastAttach++
	at.request = l.lastAttach
	r := link.Request{
		Node: c.node, Conn: s.id() | attachBit, App: *s.app, User: s.user(), Device: s.device(), Codec: link.CodecProto,
		Server: true, Command: protocol.CommandAttach, RequestID: at.request, Conversation: s.userLog(),
	}
	at.again = l.wheel.now + ticksOf(attachTry)
	if err := c.router.Route(protocol.Partition(r.App, r.Conversation, c.partitions), r); err != nil {
		l.pauseAttach(at)
	}
}

func (l *eventLoop) pauseAttach(at *attach) {
	pause := min(attachPause<<min(at.tries, 16), maxAttachPause)
	at.tries = min(at.tries+1, 16)
	at.again = l.wheel.now + max(ticksOf(pause), 1)
}

// attachAnswered takes the owner's answer.
func (l *eventLoop) attachAnswered(conn uint64, frame []byte) {
	s := l.sessions.get(conn &^ attachBit)
	if s == nil {
		return
	}
	at := l.attaching[s.slot]
	if at == nil || at.id != s.id() || at.request == 0 {
		return
	}
	var f envelopev1.Frame
	var reply linkv1.AttachReply
	err := f.UnmarshalVT(frame)
	if err == nil && f.RequestId != at.request {
		return // The answer to a question that was asked again since.
	}
	if err == nil && f.Error == nil {
		err = reply.UnmarshalVT(f.Body)
	}
	if err != nil || f.Error != nil {
		l.stats.attachFailed.add(1)
		l.pauseAttach(at)
		return
	}
	at.request = 0
	l.setRooms(s, reply.Rooms)
	l.attachProgress(s, at)
}

// setRooms makes the session a member of exactly these rooms.
func (l *eventLoop) setRooms(s *session, rooms []*linkv1.AttachedRoom) {
	for _, r := range append([]*room(nil), l.memberOf[s.slot]...) {
		kept := false
		for _, now := range rooms {
			kept = kept || now.Conversation == r.id.Conversation
		}
		if !kept {
			l.dropMember(r, s.slot)
		}
	}
	for _, now := range rooms {
		m := l.joinRoom(s, presence.RoomID{App: *s.app, Conversation: now.Conversation}, now.JoinedSeq)
		m.doubt = l.doubt
	}
}

// attachProgress ends the attach once all rooms are entered.
func (l *eventLoop) attachProgress(s *session, at *attach) {
	if at.request != 0 {
		return
	}
	epoch := l.comet.lease.current()
	for _, r := range l.memberOf[s.slot] {
		if r.entered != 0 && r.entered == epoch {
			continue
		}
		if a := at.waiting; a != nil && !l.comet.registrar.up.Load() { // Nobody knows when: chat does not wait for presence.
			at.waiting = nil
			l.live(s, a)
		}
		return
	}
	delete(l.attaching, s.slot)
	if at.waiting != nil {
		l.live(s, at.waiting)
		return
	}
	if at.resync || len(l.memberOf[s.slot]) > 0 {
		l.resyncNow(s)
	}
}

func (l *eventLoop) resyncNow(s *session) {
	if s.phase != phaseLive {
		return
	}
	l.resync(s)
	l.write(s)
	l.reply = l.reply[:0]
}

// tickAttaches asks again, and lets those go on who have waited long enough.
func (l *eventLoop) tickAttaches() {
	for slot, at := range l.attaching {
		s := l.sessions.get(at.id)
		if s == nil || s.phase == phaseClosing {
			delete(l.attaching, slot)
			continue
		}
		if l.wheel.now >= at.deadline {
			switch {
			case at.waiting != nil:
				a := at.waiting
				at.waiting = nil
				l.stats.attachLate.add(1)
				l.live(s, a)
			case at.resync:
				at.resync = false
				l.resyncNow(s)
			}
		}
		if s.phase != phaseFree && s.phase != phaseClosing && at.request != 0 && l.wheel.now >= at.again {
			l.pauseAttach(at)
			again := at.again
			l.askRooms(s, at)
			at.again = max(at.again, again)
		}
	}
}

// live sends the Hello: from here on the device may ask, and gets what is delivered.
func (l *eventLoop) live(s *session, a *admission) {
	s.phase, s.seen = phaseLive, l.wheel.now
	l.watch(s)
	l.stats.accepts[acceptConnected].add(1)
	l.answerBody(s, envelopev1.Command_COMMAND_CONNECT, a.requestID, l.comet.hello(s))
	l.comet.metrics.connectSeconds.Observe(time.Since(a.began).Seconds())
	l.write(s)
	l.reply = l.reply[:0]
	// A walk over the live ones may have passed the session by while it waited.
	switch {
	case s.phase != phaseLive || s.is(flagRegistered):
	case s.generation != 0: // registered under a lease that has ended
		l.want(sweepRegister)
	default:
		l.comet.registrar.missed.Store(true)
	}
	for _, r := range l.memberOf[s.slot] {
		if r.members[r.at[s.slot]].doubt != l.doubt { // Something was lost since.
			l.startAttach(s, nil, true)
			return
		}
	}
}
