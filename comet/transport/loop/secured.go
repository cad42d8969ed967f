package loop

import (
	"context"
	"errors"
	"net"

	"github.com/panjf2000/gnet/v2"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/looptls"
)

// secured is a connection over TLS: the handler reads and writes plain text.
type secured struct {
	looptls.Conn

	// Static.
	gc     gnet.Conn
	engine *Engine
	loop   int

	// Owned by the loop.
	origin  origin
	ctx     any
	why     transport.Ending
	answers uint32 // bytes that TLS wrote by itself since nothing waited
	kept    []byte // plain text that the handler left; nil at rest
	view    []byte // what the handler may take: kept, or the loop's buffer
}

var (
	_ transport.Conn = (*secured)(nil)
	_ looptls.Waker  = (*secured)(nil)
)

// Peek implements transport.Conn.
func (s *secured) Peek(n int) ([]byte, error) {
	if n < 0 || n > len(s.view) {
		n = len(s.view)
	}
	return s.view[:n], nil
}

// Discard implements transport.Conn.
func (s *secured) Discard(n int) (int, error) {
	n = min(n, len(s.view))
	s.view = s.view[n:]
	return n, nil
}

// InboundBuffered implements transport.Conn.
func (s *secured) InboundBuffered() int { return len(s.view) }

// OutboundBuffered implements transport.Conn.
func (s *secured) OutboundBuffered() int { return s.gc.OutboundBuffered() }

// RemoteAddr implements transport.Conn.
func (s *secured) RemoteAddr() net.Addr { return s.origin.addr }

// Context implements transport.Conn.
func (s *secured) Context() any { return s.ctx }

// SetContext implements transport.Conn.
func (s *secured) SetContext(ctx any) { s.ctx = ctx }

// WakeTLS implements looptls.Waker.
func (s *secured) WakeTLS() { s.engine.Wake(s.loop, s) }

// Run implements Runner: a handshake has something for the loop.
func (s *secured) Run(context.Context) error {
	opened, err := s.Conn.Run()
	switch {
	case err != nil:
		s.end(transport.EndingHandshake)
	case opened && s.State().NegotiatedProtocol != "":
		// The transports agree on none: an authority has asked whether the domain is ours (RFC 8737), and seen the answer. Whoever goes
		// on from here would need no certificate of a client's.
		s.end(transport.EndingGone)
	case opened:
		s.decrypt() // what came behind the handshake
	}
	return nil
}

// traffic says that bytes arrived on the socket.
func (s *secured) traffic() {
	if s.origin.awaited() && !s.locate() {
		return
	}
	switch {
	case s.Gone():
		_, _ = s.gc.Discard(-1)
	case !s.Open():
		if err := s.Receive(); err != nil {
			s.end(transport.EndingHandshake)
		}
	default:
		s.decrypt()
	}
}

// locate reads the header, which comes before TLS. It reports whether the connection goes on now.
func (s *secured) locate() bool {
	ok, err := s.origin.read(s.gc, &s.engine.headers)
	if err != nil {
		s.end(transport.EndingHeader)
		return false
	}
	if !ok {
		return false
	}
	if _, ok := s.engine.handler.Located(s); !ok {
		s.end(transport.EndingGone)
		return false
	}
	return true
}

// decrypt hands on what the records hold that are there as a whole. It is gathered, so that the handler answers many small ones at
// once, as it does without TLS.
func (s *secured) decrypt() {
	buf := s.engine.plain(s.loop)
	for {
		waiting := s.gc.OutboundBuffered()
		n := 0
		var err error
		for n < len(buf) && err == nil {
			var got int
			got, err = s.Read(buf[n:])
			n += got
		}
		if s.Gone() { // An answer of TLS itself could not be written.
			return
		}
		if s.unread(waiting) {
			s.end(transport.EndingGone)
			return
		}
		if n > 0 && !s.handOn(buf[:n]) {
			return
		}
		if errors.Is(err, looptls.ErrAgain) {
			return
		}
		if err != nil { // The other end is done, or sends what nobody with the keys would.
			s.end(transport.EndingGone)
			return
		}
	}
}

// maxAnswers is what TLS itself may have to say, unread: answers to changes of keys, some tens of bytes each.
const maxAnswers = 16 << 10

// unread reports that the other end has TLS answer without end and reads nothing of it. The handler bounds what it writes itself.
func (s *secured) unread(before int) bool {
	waiting := s.gc.OutboundBuffered()
	if waiting == 0 {
		s.answers = 0
	}
	s.answers += uint32(max(waiting-before, 0))
	return s.answers > maxAnswers
}

// handOn gives the handler plain text. It reports whether the connection is still there.
func (s *secured) handOn(plain []byte) bool {
	if s.view = plain; s.kept != nil {
		s.kept = append(s.kept, plain...)
		s.view = s.kept
	}
	s.engine.handler.Traffic(s)
	if s.Gone() {
		s.view, s.kept = nil, nil
		return false
	}
	switch left := s.view; {
	case len(left) == 0:
		s.kept = nil
	case s.kept != nil:
		s.kept = left
	default:
		s.kept = append([]byte(nil), left...)
	}
	s.view = nil
	return true
}

// end closes the socket.
func (s *secured) end(why transport.Ending) {
	s.why = why
	_ = s.gc.EventLoop().Close(s.gc) // the descriptor is gone either way
}
