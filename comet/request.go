package comet

import (
	"time"
	"unsafe"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// maxEarly is how many frames a device may send between Connect and Hello; each is refused with retry.
const maxEarly = 16

// received decodes one frame and acts on it. data lies in the engine's buffer, and so does everything in the frame: what
// outlives this call is copied.
func (l *eventLoop) received(s *session, data []byte) {
	f := &l.frame
	var fault *protocol.Error
	if s.isJSON() {
		fault = protocol.DecodeJSONFrame(data, f)
	} else {
		f.Reset()
		if err := f.UnmarshalVTUnsafe(data); err != nil {
			l.end(s, protocol.CloseProtocol, 0)
			return
		}
	}
	switch {
	case s.phase == phaseOpening && fault == nil && f.Command == envelopev1.Command_COMMAND_CONNECT:
		l.connect(s, f)
	case s.phase == phaseOpening:
		if fault != nil {
			l.refuse(s, f, fault)
		}
		l.end(s, protocol.CloseProtocol, 0)
	case s.phase == phaseConnecting:
		l.tooEarly(s, f)
	case !l.allow(s):
		l.refuse(s, f, rateLimited)
		l.flood(s)
	case fault != nil:
		l.refuse(s, f, fault)
	default:
		l.command(s, f)
	}
}

var rateLimited = &protocol.Error{
	Code: protocol.CodeRateLimited, Message: "more frames per second than the hello allows", RetryAfter: time.Second,
}

// tooEarly refuses what a device sends before it has its Hello: whose it is is not known yet.
func (l *eventLoop) tooEarly(s *session, f *envelopev1.Frame) {
	if s.early++; s.early > maxEarly {
		l.end(s, protocol.CloseProtocol, 0)
		return
	}
	l.refuse(s, f, protocol.Errorf(protocol.CodeRetry, "wait for the hello before the first request"))
}

// command acts on a frame of a live session.
func (l *eventLoop) command(s *session, f *envelopev1.Frame) {
	switch f.Command {
	case envelopev1.Command_COMMAND_PING:
		l.answer(s, &envelopev1.Frame{Command: envelopev1.Command_COMMAND_PONG, RequestId: f.RequestId})
	case envelopev1.Command_COMMAND_PONG:
	case envelopev1.Command_COMMAND_REFRESH:
		l.refresh(s, f)
	case envelopev1.Command_COMMAND_CLOSE:
		l.endPeer(s)
	case envelopev1.Command_COMMAND_CONNECT:
		l.refuse(s, f, protocol.Errorf(protocol.CodeConflict, "this session is connected already; refresh takes a new token"))
	default:
		if f.Command < protocol.FirstRequest || f.Command >= protocol.FirstPush {
			l.refuse(s, f, protocol.Errorf(protocol.CodeUnknownCommand, "command %d is not one that devices send", f.Command))
			return
		}
		if err := l.request(s, f); err != nil {
			l.refuse(s, f, err)
		}
	}
}

// request stamps a frame with who sent it and passes it to the owner of its conversation, unopened.
func (l *eventLoop) request(s *session, f *envelopev1.Frame) *protocol.Error {
	c := l.comet
	conversation, err := l.target(s, f)
	if err != nil {
		return err
	}
	switch {
	case f.ClientId != "" && !protocol.ValidClientID(f.ClientId):
		return protocol.Invalid("client_id", "must be 1 to %d bytes of printable ASCII without spaces", protocol.MaxClientIDLen)
	case f.After != "" && !protocol.ValidClientID(f.After):
		return protocol.Invalid("after", "must be a client id")
	case len(f.Body) > c.cfg.BodyBytes:
		return protocol.Errorf(protocol.CodeTooLarge, "body: %d bytes, the limit is %d", len(f.Body), c.cfg.BodyBytes)
	}
	if f.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		if err := c.creations.allow(*s.app, s.user(), time.Now()); err != nil {
			l.stats.creations.add(1)
			return err
		}
	}
	r := link.Request{
		Node: c.node, Conn: s.id(),
		App: *s.app, User: s.user(), Device: s.device(),
		Codec:   s.state.Codec,
		Command: f.Command, RequestID: f.RequestId,
		Conversation: conversation, ClientID: f.ClientId, After: f.After, Since: f.Since,
		Body: f.Body,
	}
	detach(&r, f)
	if s.is(flagResumed) && conversation == s.userLog() {
		l.confirm(s)
	}
	return c.route(&r)
}

// route passes a request to the owner of its conversation, and says which owner this node knows of.
func (c *Comet) route(r *link.Request) *protocol.Error {
	p := protocol.Partition(r.App, r.Conversation, c.partitions)
	r.Epoch = c.epochs.Highest(p)
	return c.router.Route(p, *r)
}

// target is the conversation that the frame is about, if it may be the caller's. Membership is the owner's to judge; here
// falls what the name alone says.
func (l *eventLoop) target(s *session, f *envelopev1.Frame) (string, *protocol.Error) {
	if f.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		if !protocol.ValidClientID(f.ClientId) {
			return "", protocol.Invalid("client_id", "is required: the group's id derives from it")
		}
		return protocol.Group(*s.app, s.user(), f.ClientId), nil
	}
	if f.Conversation == "" {
		return s.userLog(), nil
	}
	switch protocol.KindOf(f.Conversation) {
	case protocol.KindInvalid:
		return "", protocol.Invalid("conversation", "not an id such as d:alice:bob (users sorted), g:<id> or u:<user>")
	case protocol.KindDirect:
		if a, b := protocol.Peers(f.Conversation); a != s.user() && b != s.user() {
			return "", notTheirs
		}
	case protocol.KindUser:
		if f.Conversation != s.userLog() {
			return "", notTheirs
		}
	case protocol.KindGroup:
	}
	return f.Conversation, nil
}

var notTheirs = protocol.Errorf(protocol.CodeNotFound, "no such conversation")

// detach copies what lies in the engine's buffer, all in one allocation: the body first, then the strings. Nobody writes to a
// body after Route (link.Request), so strings may share its memory.
func detach(r *link.Request, f *envelopev1.Frame) {
	shared := r.Conversation == f.Conversation // else it is the session's, or newly made
	n := len(r.Body) + len(r.ClientID) + len(r.After)
	if shared {
		n += len(r.Conversation)
	}
	if n == 0 {
		r.Body = nil
		return
	}
	buf := make([]byte, 0, n)
	buf = append(buf, r.Body...)
	r.Body = buf[:len(buf):len(buf)]
	if shared {
		buf, r.Conversation = keep(buf, r.Conversation)
	}
	buf, r.ClientID = keep(buf, r.ClientID)
	_, r.After = keep(buf, r.After)
}

// keep appends s to buf, which has room for it, and returns the copy.
func keep(buf []byte, s string) ([]byte, string) {
	if s == "" {
		return buf, ""
	}
	start := len(buf)
	buf = append(buf, s...)
	return buf, unsafe.String(&buf[start], len(s))
}

// refuse answers a request with an error.
func (l *eventLoop) refuse(s *session, f *envelopev1.Frame, err *protocol.Error) {
	l.stats.refused.add(1)
	l.answer(s, &envelopev1.Frame{Command: answerable(f.Command), RequestId: f.RequestId, Error: err.Wire()})
}

// answerable is the command that a refusal carries: the one refused, if the codec has a word for it.
func answerable(c envelopev1.Command) envelopev1.Command {
	if protocol.CommandWord(c) == "" {
		return envelopev1.Command_COMMAND_UNSPECIFIED
	}
	return c
}

// answer adds a frame to what the current callback writes to s.
func (l *eventLoop) answer(s *session, f *envelopev1.Frame) {
	if s.isJSON() {
		data, err := protocol.EncodeJSONFrame(f)
		if err != nil {
			l.comet.log.Error("encode a frame", "command", f.Command, "error", err)
			return
		}
		l.scratch = append(l.scratch[:0], data...)
	} else {
		n := f.SizeVT()
		if cap(l.scratch) < n {
			l.scratch = make([]byte, n)
		}
		l.scratch = l.scratch[:n]
		if _, err := f.MarshalToSizedBufferVT(l.scratch); err != nil {
			l.comet.log.Error("encode a frame", "command", f.Command, "error", err)
			return
		}
	}
	l.reply = l.protocol(s).AppendFrame(l.reply, &s.state, l.scratch)
	l.stats.framesSent.add(1)
}

// appendClose adds the Close frame.
func (l *eventLoop) appendClose(s *session, code protocol.CloseCode, retryAfter time.Duration) {
	l.push(s, envelopev1.Command_COMMAND_CLOSE, protocol.CloseFrame(code, retryAfter))
}

// push adds a frame of comet's own that answers nothing.
func (l *eventLoop) push(s *session, command envelopev1.Command, body protocol.Message) {
	l.answerBody(s, command, 0, body)
}

func (l *eventLoop) answerBody(s *session, command envelopev1.Command, requestID uint64, body protocol.Message) {
	data, err := protocol.EncodeBody(s.isJSON(), body)
	if err != nil {
		l.comet.log.Error("encode a body", "command", command, "error", err)
		return
	}
	l.answer(s, &envelopev1.Frame{Command: command, RequestId: requestID, Body: data})
}
