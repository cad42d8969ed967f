package comet

import (
	"time"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/loop"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

var _ transport.Handler = (*Comet)(nil)

// refusedRetry is how long a device stays away from a node that is full or leaving, at least.
const refusedRetry = 2 * time.Second

// Open implements transport.Handler: admission, before anything of the connection was read.
func (c *Comet) Open(loopIndex, listener int, conn transport.Conn) (refusal []byte, ok bool) {
	l := c.loops[loopIndex]
	l.comeAlive()
	l.catchUp()
	l.dueAt(l.wheel.now + 1) // How far the loop is behind is told by its ticks.
	from := addressOf(conn.RemoteAddr())
	v := c.admit(l, from)
	l.stats.accepts[v.result].add(1)
	if v.code != 0 {
		return c.refuse(l, listener, conn, v)
	}
	s := l.add(conn, listener)
	if s == nil { // one loop has all the sessions that a loop can
		c.release(from)
		return c.transports[listener].Protocol.AppendRefusal(nil, protocol.CloseOverloaded, refusedRetry), false
	}
	s.tokens = c.burst
	l.stats.connections[listener].Add(1)
	l.wheel.set(s.slot, s.seen+c.helloTicks)
	return nil, true
}

// Located implements transport.Handler: what Open could not judge.
func (c *Comet) Located(conn transport.Conn) (refusal []byte, ok bool) {
	s := conn.Context().(*session)
	if s.is(flagRefused) {
		return nil, true // It is told so as soon as it speaks.
	}
	l := c.loops[s.loop]
	l.catchUp()
	v := c.admitFrom(addressOf(conn.RemoteAddr()))
	l.stats.accepts[v.result].add(1)
	if v.code == 0 {
		return nil, true
	}
	// From here on it is as one that Open refused.
	l.stats.connections[s.listener].Add(-1)
	s.flags |= flagRefused
	if !c.mayWait(v) || c.transports[s.listener].Secure {
		return c.transports[s.listener].Protocol.AppendRefusal(nil, v.code, v.after), false
	}
	if s.phase == phaseOpening {
		l.wait(s, v)
		l.tellClock()
	}
	return nil, true
}

// comeAlive has the loop ticked and woken from its first connection on.
func (l *eventLoop) comeAlive() {
	if l.alive { // written on this loop only, read elsewhere under mu
		return
	}
	l.wheel.now = l.comet.clock.now.Load() // nothing is on the wheel yet
	l.wheel.next(restTicks)
	l.checker.at, l.checker.again = l.wheel.now, never
	l.mu.Lock()
	l.alive = true
	l.mu.Unlock()
}

// add makes a session of a connection.
func (l *eventLoop) add(conn transport.Conn, listener int) *session {
	s := l.sessions.add()
	if s == nil {
		return nil
	}
	s.conn, s.listener = conn, uint8(listener)
	s.seen, s.refilled = l.wheel.now, l.wheel.now
	conn.SetContext(s)
	// Without input, this opens what needs no opening of its own: TCP has a codec, and a goodbye, from the start.
	l.protocol(s).Next(&s.state, nil, &l.reply)
	return s
}

// maxRefusals bounds the connections that wait to be refused politely; their descriptors are among the spare ones.
const maxRefusals = spareDescriptors / 2

// mayWait counts a connection that waits to be refused, and reports whether there is room for it. One that is told its turn may also take the place
// of a connection, up to an eighth of them: it would come again at once if it were not told.
func (c *Comet) mayWait(v verdict) bool {
	n := c.refusals.Add(1)
	return n <= maxRefusals || v.result == acceptBehind && n <= maxRefusals+int64(c.limit)/8 && c.connections.Load()+n-maxRefusals <= int64(c.limit)
}

// inPlaces is how many places of connections those take who wait to be refused.
func (c *Comet) inPlaces() int64 { return max(c.refusals.Load()-maxRefusals, 0) }

// refuse turns a connection away. One that closes while the device's first bytes are on their way would be reset, and the
// refusal lost: so the device may speak first, as it does in every transport. In a storm there is no room for that.
func (c *Comet) refuse(l *eventLoop, listener int, conn transport.Conn, v verdict) (refusal []byte, ok bool) {
	if c.transports[listener].Secure { // It could be told after a handshake only, which is the dearest part of a connect.
		return nil, false
	}
	if c.mayWait(v) {
		if s := l.add(conn, listener); s != nil {
			s.flags = flagRefused
			l.wait(s, v)
			return nil, true
		}
	}
	c.refusals.Add(-1)
	return c.transports[listener].Protocol.AppendRefusal(nil, v.code, v.after), false
}

// wait has a refused connection speak first.
func (l *eventLoop) wait(s *session, v verdict) {
	s.phase, s.early, s.expires = phaseRefused, uint16(v.code), uint32(v.after.Milliseconds())
	l.wheel.set(s.slot, l.wheel.now+l.comet.lingerTicks)
}

// turnAway tells a refused connection so.
func (l *eventLoop) turnAway(s *session) {
	l.reply = l.protocol(s).AppendRefusal(l.reply, protocol.CloseCode(s.early), ms(int(s.expires)))
	l.finish(s)
}

// endings are what the engine's are called here.
var endings = [...]disconnect{
	transport.EndingGone: disconnectGone, transport.EndingHandshake: disconnectTLS, transport.EndingHeader: disconnectHeader,
}

// Closed implements transport.Handler.
func (c *Comet) Closed(conn transport.Conn, why transport.Ending) {
	s := conn.Context().(*session)
	l := c.loops[s.loop]
	if s.is(flagRefused) {
		c.refusals.Add(-1)
	} else {
		if s.phase != phaseClosing {
			l.stats.disconnects[endings[why]].add(1)
			l.leave(s)
		}
		l.stats.connections[s.listener].Add(-1)
		c.release(addressOf(conn.RemoteAddr()))
	}
	l.wheel.cancel(s.slot)
	delete(l.closes, s.id())
	l.sessions.remove(s)
	l.tellClock()
}

// Traffic implements transport.Handler.
func (c *Comet) Traffic(conn transport.Conn) {
	s, ok := conn.Context().(*session)
	if !ok {
		return
	}
	l := c.loops[s.loop]
	if buffered := conn.InboundBuffered(); buffered == 0 || buffered < int(s.need) {
		return
	}
	in, err := conn.Peek(-1)
	if err != nil {
		return
	}
	l.catchUp()
	if taken := l.receive(s, in); taken > 0 {
		l.stats.bytesReceived.add(taken)
		_, _ = conn.Discard(taken) // it cannot discard too much
	}
	l.tellClock()
}

// receive takes frames from in until none is left or the session ends, and writes the answers in one go.
func (l *eventLoop) receive(s *session, in []byte) (taken int) {
	if s.phase == phaseRefused {
		l.turnAway(s)
	}
	proto := l.protocol(s)
	s.need = 0
	for s.phase != phaseClosing && s.phase != phaseFree {
		r := proto.Next(&s.state, in[taken:], &l.reply)
		taken += r.Taken
		switch {
		case r.Fail != 0:
			l.end(s, r.Fail, 0)
		case r.Event == transport.EventNone:
			if s.phase != phaseLive && arriving(s, r) > maxOpening {
				l.end(s, protocol.CloseTooLarge, 0)
				continue
			}
			if r.Need == 0 {
				continue
			}
			s.need = uint32(r.Need)
			l.write(s)
			return taken
		default:
			l.event(s, r)
		}
	}
	l.reply = l.reply[:0]
	return len(in) // a session that ends reads no more
}

// maxOpening is the largest frame of a device that is not known yet, so that strangers do not fill the memory with halves.
const maxOpening = 16 << 10

// arriving is how many bytes the frame takes that has arrived in part.
func arriving(s *session, r transport.Result) int {
	if m := s.state.Partial; m != nil {
		return len(m.Data) + int(m.Remain)
	}
	return r.Need
}

// event handles what the transport found.
func (l *eventLoop) event(s *session, r transport.Result) {
	switch r.Event {
	case transport.EventClose:
		l.endPeer(s)
		return
	case transport.EventRefused:
		l.stats.accepts[acceptBadHandshake].add(1)
		l.endSilently(s, disconnectHandshake)
		return
	}
	if s.phase == phaseLive {
		s.seen = l.wheel.now
	}
	if r.Event == transport.EventControl {
		if s.phase == phaseLive && !l.allow(s) {
			l.flood(s)
		}
	} else {
		l.stats.framesReceived.add(1)
		l.received(s, r.Frame)
	}
	if len(l.reply) > maxReply {
		l.write(s)
	}
}

// maxReply bounds what a burst of tiny requests gathers in answers before they are written.
const maxReply = 64 << 10

// end closes a session from our side: a Close frame, the transport's own goodbye, then FIN. What the current callback gathered
// for the session leaves with it.
func (l *eventLoop) end(s *session, code protocol.CloseCode, retryAfter time.Duration) {
	if s.phase == phaseFree || s.phase == phaseClosing {
		return
	}
	if s.state.Open {
		l.appendClose(s, code, retryAfter)
	}
	l.reply = l.protocol(s).AppendClose(l.reply, &s.state, code)
	l.stats.disconnects[disconnectOf(code)].add(1)
	l.finish(s)
}

// endSlow closes a session whose outbox is full. The Close frame queues behind what the device does not read; it arrives if
// the device reads on within the linger time.
func (l *eventLoop) endSlow(s *session) {
	l.stats.slow.add(1)
	l.end(s, protocol.CloseSlow, 0)
}

// endPeer closes a session whose device said goodbye.
func (l *eventLoop) endPeer(s *session) {
	l.reply = l.protocol(s).AppendClose(l.reply, &s.state, protocol.CloseNormal)
	l.stats.disconnects[disconnectOf(protocol.CloseNormal)].add(1)
	l.finish(s)
}

// endSilently closes a connection that never became a session; its reply says why.
func (l *eventLoop) endSilently(s *session, why disconnect) {
	l.stats.disconnects[why].add(1)
	l.finish(s)
}

// finish writes what is gathered and lets the connection linger.
func (l *eventLoop) finish(s *session) {
	l.leave(s)
	s.phase = phaseClosing
	s.need = 0
	if !l.write(s) {
		return
	}
	s.seen = l.wheel.now + l.comet.lingerTicks
	l.linger(s)
}

// linger sends FIN when everything is written, and closes for good when the device answered it, which the engine does, or
// had the time to.
func (l *eventLoop) linger(s *session) {
	if !s.is(flagFin) && s.conn.OutboundBuffered() == 0 {
		s.flags |= flagFin
		loop.CloseWrite(s.conn)
	}
	switch {
	case l.wheel.now >= s.seen:
		loop.Close(s.conn)
	case s.is(flagFin):
		l.wheel.set(s.slot, s.seen)
	default:
		l.wheel.set(s.slot, l.wheel.now+1)
	}
}

// deadline is called when a session's time on the wheel has come. The wheel is not moved for every frame: what fires too early
// is set again.
func (l *eventLoop) deadline(slot uint32) {
	s, c := l.sessions.at(slot), l.comet
	switch s.phase {
	case phaseFree:
	case phaseOpening:
		l.end(s, protocol.CloseHelloTimeout, 0)
	case phaseRefused:
		l.turnAway(s)
	case phaseConnecting:
		l.end(s, protocol.CloseUnavailable, refusedRetry)
	case phaseClosing:
		l.linger(s)
	case phaseLive:
		dead := s.seen + c.silenceTicks
		expiry := l.expiryTick(s)
		switch {
		case l.wheel.now >= dead:
			l.end(s, protocol.CloseHeartbeat, 0)
		case l.wheel.now >= expiry:
			l.end(s, protocol.CloseTokenExpired, 0)
		case s.retires != 0 && l.wheel.now >= s.retires:
			l.move(s)
		default:
			l.watch(s)
		}
	}
}

// expiryTick is when the token ends. It follows the wall clock, as the token does.
func (l *eventLoop) expiryTick(s *session) uint32 {
	if s.expires == 0 {
		return ^uint32(0)
	}
	left := time.Until(time.Unix(int64(s.expires), 0))
	if left <= 0 {
		return l.wheel.now
	}
	return l.wheel.now + uint32(min(int64(left/tickLength)+1, 1<<31))
}

// watch puts a session that became live, or got another token, on the wheel. What is due for all of them comes together, once in a while, or
// there would be something at each tick.
func (l *eventLoop) watch(s *session) {
	due := min(s.seen+l.comet.silenceTicks, l.expiryTick(s))
	if s.retires != 0 {
		due = min(due, s.retires)
	}
	together := max(min(restTicks, l.comet.silenceTicks/64), 1)
	l.wheel.set(s.slot, (due+together-1)/together*together)
}

// leave takes a session out of what others know: presence and the user's count.
func (l *eventLoop) leave(s *session) {
	l.leaveRooms(s)
	if s.is(flagCounted) {
		l.comet.users.remove(*s.app, s.user())
		s.flags &^= flagCounted
	}
	if s.is(flagRegistered | flagInDoubt) {
		s.flags &^= flagRegistered | flagInDoubt
		l.comet.registrar.unregister(l.comet.registration(s))
	}
}

// allow takes one frame from the session's budget: a token bucket on the coarse clock, in tenths of a frame.
func (l *eventLoop) allow(s *session) bool {
	c := l.comet
	if c.rate == 0 {
		return true
	}
	if passed := l.wheel.now - s.refilled; passed > 0 {
		s.refilled = l.wheel.now
		s.tokens = int32(min(int64(c.burst), int64(s.tokens)+int64(passed)*int64(c.rate)))
	}
	if s.tokens < frameCost {
		s.tokens -= refusalCost
		return false
	}
	s.tokens -= frameCost
	return true
}

// A refused frame costs a tenth of an allowed one, so that a session far beyond ten times its rate sinks into debt, and one
// that is merely too fast does not.
const (
	frameCost   = 10
	refusalCost = 1
)

// flood closes a session that is far beyond its rate.
func (l *eventLoop) flood(s *session) {
	if s.tokens < -l.comet.burst {
		l.end(s, protocol.CloseRateLimited, refusedRetry)
	}
}

// isJSON reports the session's codec.
func (s *session) isJSON() bool { return s.state.Codec == link.CodecJSON }
