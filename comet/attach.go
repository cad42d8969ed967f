package comet

import (
	"fmt"
	"slices"
	"strings"
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
	attachTry      = time.Second            // for one question: the pause before it, but no less than this
	maxAttachTry   = 5 * time.Second        // and no more
	attachPause    = 200 * time.Millisecond // after the first that got no answer, doubled with each
	maxAttachPause = time.Minute
)

// attachBit marks, where the connection of a request stands, that the answer is for the node. No loop's number reaches it.
const attachBit = 1 << 63

// never is a tick that does not come.
const never = ^uint32(0)

// maxLoops keeps attachBit free.
const maxLoops = 1 << (63 - loopShift)

// attach is a session on its way into its rooms.
type attach struct {
	id       uint64
	request  uint64     // the question whose answer counts; 0: it is answered, and rooms are being entered
	again    uint32     // tick of the next question
	deadline uint32     // tick after which nobody waits any more
	tries    uint8      //
	armed    uint32     // tick at which it is looked at next
	place    int        // 1 + where it stands among those that are; 0: nothing is due
	flying   bool       // the question is on its way, or its answer
	paced    bool       // and counts against the pace
	queued   bool       // it waits for its turn to ask
	gone     bool       // nothing of it counts any more
	after    string     // the last room of the page before
	waiting  *admission // of a session that has no Hello yet
	resync   bool       // the session is to resync, whatever the answer
	resumed  bool       // the session went live by its ticket: without cause it does not resync
}

// startAttach asks for the session's rooms. a is set where the Hello waits for it, resync where the session must resync afterwards.
func (l *eventLoop) startAttach(s *session, a *admission, resync bool) {
	at := l.attaching.get(s)
	if at == nil {
		at = &attach{}
		l.attaching.put(s, at)
	}
	if a != nil {
		at.waiting = a
	}
	at.resync = at.resync || resync
	at.tries, at.after = 0, ""
	at.deadline = l.wheel.now + ticksOf(attachPatience)
	l.askRooms(s, at)
}

// askRooms sends the question, for the first time or again.
func (l *eventLoop) askRooms(s *session, at *attach) {
	c := l.comet
	body, err := (&linkv1.AttachRequest{After: at.after}).MarshalVT()
	if err != nil {
		body = nil // It cannot fail; and without a name the rooms come from the first on.
	}
	l.lastAttach++
	at.request = l.lastAttach
	r := link.Request{
		Node: c.node, Conn: s.id() | attachBit, App: *s.app, User: s.user(), Device: s.device(), Codec: link.CodecProto,
		Server: true, Command: protocol.CommandAttach, RequestID: at.request, Conversation: s.userLog(), Body: body,
	}
	at.again = l.wheel.now + ticksOf(min(max(attachPause<<at.tries, attachTry), maxAttachTry))
	l.attaching.sent(at)
	if err := c.route(&r); err != nil {
		l.pauseAttach(at)
	}
	l.attaching.arm(at, l.wheel.now)
}

// pauseAttach has the question wait that got no answer, or a refusal.
func (l *eventLoop) pauseAttach(at *attach) {
	if l.attaching.landed(at) {
		l.pace.refused(l.wheel.now)
	}
	pause := min(attachPause<<at.tries, maxAttachPause)
	at.tries = min(at.tries+1, 16)
	at.again = l.wheel.now + max(ticksOf(pause), 1)
}

// attachAnswered takes the owner's answer.
func (l *eventLoop) attachAnswered(conn uint64, frame []byte) {
	s := l.sessions.get(conn &^ attachBit)
	if s == nil {
		return
	}
	at := l.attaching.get(s)
	if at == nil || at.request == 0 {
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
	if err == nil && f.Error == nil {
		err = checkPage(at.after, &reply)
	}
	if err != nil || f.Error != nil {
		l.stats.attachFailed.add(1)
		l.pauseAttach(at)
		l.attaching.arm(at, l.wheel.now)
		return
	}
	l.attaching.landed(at)
	l.pace.answered()
	l.setRooms(s, at.after, &reply)
	if reply.More {
		at.tries, at.after = 0, reply.Rooms[len(reply.Rooms)-1].Conversation
		l.askRooms(s, at)
		return
	}
	at.request = 0
	l.attachProgress(s, at)
}

// checkPage holds an answer to its bound and order, so that page after page comes to an end.
func checkPage(after string, page *linkv1.AttachReply) error {
	if len(page.Rooms) > protocol.MaxAttachedRooms || page.More && len(page.Rooms) == 0 {
		return fmt.Errorf("a page of %d rooms", len(page.Rooms))
	}
	for _, r := range page.Rooms {
		if r.Conversation <= after {
			return fmt.Errorf("room %q behind %q", r.Conversation, after)
		}
		after = r.Conversation
	}
	return nil
}

// setRooms makes the session, among the rooms that the page speaks of, a member of exactly those in it. What of the others was told since
// the page before stays.
func (l *eventLoop) setRooms(s *session, after string, page *linkv1.AttachReply) {
	find := func(id string) (int, bool) {
		return slices.BinarySearchFunc(page.Rooms, id, func(r *linkv1.AttachedRoom, id string) int { return strings.Compare(r.Conversation, id) })
	}
	for _, r := range slices.Clone(l.memberOf[s.slot]) {
		i, in := find(r.id.Conversation)
		beyond := page.More && i == len(page.Rooms)
		if !in && !beyond && r.id.Conversation > after {
			l.dropMember(r, s.slot)
		}
	}
	at := l.attaching.get(s)
	for _, now := range page.Rooms {
		if at.resumed && !l.isMember(s, now.Conversation) { // Nothing of it came here so far.
			at.resync = true
		}
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
	l.attaching.drop(s.slot)
	if at.waiting != nil {
		l.live(s, at.waiting)
		return
	}
	if at.resync || !at.resumed && len(l.memberOf[s.slot]) > 0 {
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

// tickAttaches lets those go on who have waited long enough, and asks again: at the pace of the answers, or those who got none would be a
// load that leaves no room for any.
func (l *eventLoop) tickAttaches() {
	now := l.wheel.now
	for at := l.attaching.next(now); at != nil; at = l.attaching.next(now) {
		s := l.sessions.get(at.id)
		if s == nil || s.phase == phaseClosing {
			l.attaching.drop(uint32(at.id) & (maxSlots - 1))
			continue
		}
		if now >= at.deadline {
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
		if !at.gone && at.request != 0 && now >= at.again && s.phase != phaseFree && s.phase != phaseClosing {
			switch {
			case at.flying: // It got no answer.
				l.pauseAttach(at)
			case at.waiting != nil:
				l.askRooms(s, at)
			default:
				l.attaching.later(at)
			}
		}
		l.attaching.arm(at, now)
	}
	turns := l.mayAsk()
	if l.sweep.kind&sweepResync != 0 { // Half of them are the walk's.
		turns = (turns + now&1) / 2
	}
	for ; turns > 0; turns-- {
		at := l.attaching.turn()
		if at == nil {
			return
		}
		if s := l.sessions.get(at.id); s != nil && s.phase != phaseClosing && at.request != 0 && !at.flying {
			l.askRooms(s, at)
		} else {
			l.attaching.arm(at, now)
		}
	}
}

// live sends the Hello: from here on the device may ask, and gets what is delivered.
func (l *eventLoop) live(s *session, a *admission) {
	s.phase, s.seen = phaseLive, l.wheel.now
	l.watch(s)
	l.stats.accepts[acceptConnected].add(1)
	l.answerBody(s, envelopev1.Command_COMMAND_CONNECT, a.requestID, l.hello(s, a.identity.TokenID))
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
		if !s.is(flagResumed) && r.members[r.at[s.slot]].doubt != l.doubt { // Something was lost since.
			l.startAttach(s, nil, true)
			return
		}
	}
}
