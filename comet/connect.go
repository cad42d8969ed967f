package comet

import (
	"math/rand/v2"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
)

// purpose of an admission.
type purpose uint8

const (
	purposeConnect  purpose = iota // verify the token, register presence, send Hello
	purposeRefresh                 // verify the token, send Hello
	purposeRegister                // register a live session again, then have it resync
)

// admission is what waits between a session and its answer: it goes to a verifier, to the registrar and back to the loop. One
// goroutine at a time has it.
type admission struct {
	id        uint64
	purpose   purpose
	codec     link.Codec
	requestID uint64
	began     time.Time

	token    string
	sealed   []byte         // the ticket as it came
	ticket   *linkv1.Ticket // nil: none that holds
	identity Identity
	fault    *protocol.Error

	registration presence.Registration
	registered   bool
	inDoubt      bool // presence was asked and did not answer
}

// connect takes a session's first frame.
func (l *eventLoop) connect(s *session, f *envelopev1.Frame) {
	var body envelopev1.Connect
	if err := protocol.DecodeBody(s.isJSON(), f.Body, &body); err != nil {
		l.refuse(s, f, err)
		l.end(s, protocol.CloseProtocol, 0)
		return
	}
	s.phase = phaseConnecting
	if !l.verify(s, f, purposeConnect, body.Token, body.Ticket) {
		l.stats.accepts[acceptOverloaded].add(1)
		l.end(s, protocol.CloseOverloaded, l.comet.turn())
		return
	}
	l.waits.begin(time.Since(l.comet.clock.began))
}

// refresh takes a new token for a live session.
func (l *eventLoop) refresh(s *session, f *envelopev1.Frame) {
	var body envelopev1.Refresh
	if err := protocol.DecodeBody(s.isJSON(), f.Body, &body); err != nil {
		l.refuse(s, f, err)
		return
	}
	if s.is(flagRefreshing) {
		l.refuse(s, f, protocol.Errorf(protocol.CodeBusy, "a refresh of this session is under way"))
		return
	}
	if !l.verify(s, f, purposeRefresh, body.Token, nil) {
		l.refuse(s, f, protocol.Errorf(protocol.CodeBusy, "too many tokens wait to be verified"))
		return
	}
	s.flags |= flagRefreshing
}

// verify queues the token; false means that too many wait.
func (l *eventLoop) verify(s *session, f *envelopev1.Frame, why purpose, token string, ticket []byte) bool {
	return l.comet.tokens.push(&admission{
		id: s.id(), purpose: why, codec: s.state.Codec, requestID: f.RequestId, began: time.Now(), token: token, sealed: ticket,
	})
}

// admitted brings an admission back to its session, on the loop.
func (l *eventLoop) admitted(a *admission) {
	if a.purpose == purposeConnect {
		l.waits.end()
	}
	s := l.sessions.get(a.id)
	if s == nil || s.phase == phaseClosing || s.phase == phaseOpening {
		l.retract(a) // the session left while it was being registered
		return
	}
	switch a.purpose {
	case purposeConnect:
		l.connected(s, a)
	case purposeRefresh:
		l.refreshed(s, a)
	case purposeRegister:
		l.registeredAgain(s, a)
	}
	l.write(s)
	l.reply = l.reply[:0]
}

func (l *eventLoop) connected(s *session, a *admission) {
	if a.fault != nil {
		l.rejected(s, a)
		return
	}
	c := l.comet
	s.name(l.intern(a.identity.App), a.identity.User, a.identity.Device)
	old := a.registration.Replaced
	if !c.users.add(a.identity.App, a.identity.User, a.registered && old != nil && old.Node == c.node) {
		l.stats.accepts[acceptTooMany].add(1)
		l.retract(a)
		l.end(s, protocol.CloseTooManySession, 0)
		return
	}
	if c.users.limit > 0 {
		s.flags |= flagCounted
	}
	l.setExpiry(s, a.identity.Expires)
	l.setAge(s)
	if !l.settle(s, a) {
		return
	}
	// Presence knows the session now: a change of its rooms finds it, and what was before is in the answer.
	if a.ticket != nil {
		l.resume(s, a)
		return
	}
	if len(a.sealed) > 0 {
		l.stats.ticketsRefused.add(1)
	}
	l.startAttach(s, a, false)
}

// settle takes over what the registrar found. It reports whether the session goes on. A session whose registration was not
// possible goes on without: chat does not wait for presence, which is made up for later.
func (l *eventLoop) settle(s *session, a *admission) bool {
	if !a.registered {
		if a.inDoubt {
			s.flags |= flagInDoubt
		}
		l.comet.registrar.missed.Store(true)
		return true
	}
	s.flags &^= flagInDoubt
	entry := a.registration.Entry
	if a.registration.Stale {
		// One that was never registered may be the only one that lives: a node that was slow may just have let in what its device has
		// given up since. It comes again, and is the later one then.
		code := protocol.CloseReplaced
		if s.generation == 0 {
			code = protocol.CloseUnavailable
		}
		l.end(s, code, 0)
		return false
	}
	s.generation = entry.Generation
	if e, ok := l.closes[s.id()]; ok && e.generation == s.generation {
		l.end(s, e.code, 0)
		return false
	}
	if old := a.registration.Replaced; old != nil {
		l.comet.kick(old, protocol.CloseReplaced)
	}
	if entry.Epoch != l.comet.lease.current() { // registered under a lease that has ended meanwhile
		l.want(sweepRegister)
		return true
	}
	s.flags |= flagRegistered
	return true
}

// retract takes back a registration whose session is not let in, or has left. A session of the same device that lost its entry to it has
// to come again: a device that gave up a connection to a node that was slow, and is connected elsewhere by now, would else get no pushes.
func (l *eventLoop) retract(a *admission) {
	if !a.registered && !a.inDoubt || a.registration.Stale {
		return
	}
	l.comet.registrar.unregister(a.registration)
	if old := a.registration.Replaced; old != nil {
		l.comet.kick(old, protocol.CloseUnavailable)
	}
}

// rejected tells a device why its token does not open a session: an error for its developer, then the close.
func (l *eventLoop) rejected(s *session, a *admission) {
	l.refuse(s, &envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: a.requestID}, a.fault)
	if a.fault.Code.Retryable() || a.fault.Code == protocol.CodeInternal {
		l.stats.accepts[acceptUnavailable].add(1)
		l.end(s, protocol.CloseUnavailable, max(a.fault.RetryAfter, refusedRetry))
		return
	}
	l.stats.accepts[acceptUnauthorized].add(1)
	l.end(s, protocol.CloseUnauthorized, 0)
}

func (l *eventLoop) refreshed(s *session, a *admission) {
	s.flags &^= flagRefreshing
	f := &envelopev1.Frame{Command: envelopev1.Command_COMMAND_REFRESH, RequestId: a.requestID}
	switch {
	case a.fault != nil:
		l.refuse(s, f, a.fault)
	case a.identity.App != *s.app || a.identity.User != s.user() || a.identity.Device != s.device():
		l.refuse(s, f, protocol.Errorf(protocol.CodeForbidden, "the token is for another app, user or device"))
	default:
		l.setExpiry(s, a.identity.Expires)
		l.watch(s)
		l.answerBody(s, envelopev1.Command_COMMAND_REFRESH, a.requestID, l.hello(s, a.identity.TokenID))
	}
}

// registeredAgain has the session attached again and compare its heads: nothing reached it while presence did not know it.
func (l *eventLoop) registeredAgain(s *session, a *admission) {
	if l.settle(s, a) && a.registered {
		l.startAttach(s, nil, true)
	}
}

// resync asks the device to compare its heads after a delay of its own.
func (l *eventLoop) resync(s *session) {
	delay := rand.Int64N(int64(l.comet.cfg.ResyncSpreadMs) + 1)
	l.push(s, envelopev1.Command_COMMAND_RESYNC, &envelopev1.Resync{DelayMs: uint32(delay)})
	l.stats.resyncs.add(1)
}

func (l *eventLoop) setExpiry(s *session, at time.Time) {
	s.expires = 0
	if !at.IsZero() {
		s.expires = uint32(min(max(at.Unix(), 1), 1<<32-1))
	}
}

// setAge gives the session its end, somewhere in the last fifth of the greatest age: what connected together shall not end together.
func (l *eventLoop) setAge(s *session) {
	if age := int64(l.comet.cfg.MaxConnectionAgeMs); age > 0 {
		age -= rand.Int64N(age/5 + 1)
		s.retires = l.wheel.now + uint32(age/tickLength.Milliseconds()) + 1
	}
}

// registration is the session's presence entry.
func (c *Comet) registration(s *session) presence.Registration {
	return presence.Registration{
		User: s.presenceUser(),
		Entry: presence.Entry{
			Device: s.device(), Node: c.node, Epoch: c.lease.current(), Conn: s.id(), Codec: s.state.Codec, Generation: s.generation,
		},
	}
}

func (l *eventLoop) hello(s *session, tokenID string) *envelopev1.Hello {
	c, now := l.comet, time.Now()
	ticket, life := l.ticket(s, tokenID, now)
	var expires int64
	if s.expires != 0 {
		expires = time.Unix(int64(s.expires), 0).UnixMicro()
	}
	return &envelopev1.Hello{
		App: *s.app, User: s.user(), Device: s.device(),
		HeartbeatMs: uint32(c.cfg.HeartbeatMs),
		Limits: &envelopev1.Limits{
			FrameBytes: uint32(c.cfg.FrameBytes), BodyBytes: uint32(c.cfg.BodyBytes),
			FramesPerSecond: uint32(c.cfg.FramesPerSecond), FramesBurst: uint32(c.cfg.FramesBurst),
			SessionsPerUser: uint32(c.cfg.SessionsPerUser),
		},
		TimeUs: now.UnixMicro(), TokenExpiresUs: expires, Node: c.node, Ticket: ticket, TicketMs: uint32(life.Milliseconds()),
	}
}

// kick closes the session that had an entry of which another session took the place, wherever it is.
func (c *Comet) kick(old *presence.Entry, code protocol.CloseCode) {
	b := &link.Batch{Deliveries: []link.Delivery{{Conn: old.Conn, Close: code, Generation: old.Generation}}}
	if old.Node == c.node {
		c.Deliver(b)
		return
	}
	c.sendKick(old.Node, b)
}
