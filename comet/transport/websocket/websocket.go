// Package websocket frames the client protocol by RFC 6455: one message carries one frame, binary on halley.v1.proto, text on
// halley.v1.json. It never reads or writes a socket: the bytes come from an event loop's buffer, whole or in parts.
package websocket

import (
	"encoding/binary"
	"strconv"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// Name of the transport, as in metrics and configuration, and its name over TLS.
const (
	Name       = "websocket"
	SecureName = "wss"
)

// MaxHandshake is how long the opening request may be, in bytes.
const MaxHandshake = 8 << 10

// Config of the transport.
type Config struct {
	// FrameBytes is the largest message, fragments together.
	FrameBytes int
	// Origins that a browser may come from besides the server's own host and loopback: "https://chat.example.com", or "*" for
	// all. A request without an Origin header is no browser's and always allowed.
	Origins []string
	// Paths of the opening request.
	Paths []string
	// Subprotocols and their codecs. The empty name stands for a device that offers none.
	Subprotocols map[string]link.Codec
}

// Default is the client protocol's configuration.
func Default(frameBytes int) Config {
	return Config{
		FrameBytes: frameBytes,
		Paths:      []string{"/v1/connect", "/"},
		Subprotocols: map[string]link.Codec{
			protocol.SubprotocolProto: link.CodecProto,
			protocol.SubprotocolJSON:  link.CodecJSON,
		},
	}
}

// CodecAny takes text and binary messages alike and answers in kind; a server that only echoes has no codec. The second
// value is the same after a text message.
const (
	CodecAny     link.Codec = 255
	codecAnyText link.Codec = 254
)

// Protocol is the framing; it implements transport.Protocol.
type Protocol struct {
	cfg      Config
	partials sync.Pool // of *transport.Partial
}

var _ transport.Protocol = (*Protocol)(nil)

// New makes the framing.
func New(cfg Config) *Protocol {
	p := &Protocol{cfg: cfg}
	p.partials.New = func() any { return new(transport.Partial) }
	return p
}

// AppendFrame implements transport.Protocol.
func (p *Protocol) AppendFrame(dst []byte, s *transport.State, frame []byte) []byte {
	op := ws.OpBinary
	if s.Codec == link.CodecJSON || s.Codec == codecAnyText {
		op = ws.OpText
	}
	return append(AppendHeader(dst, op, len(frame)), frame...)
}

// AppendHeader appends the header of an unfragmented, unmasked frame with n bytes of payload.
func AppendHeader(dst []byte, op ws.OpCode, n int) []byte {
	const fin = 0x80
	dst = append(dst, fin|byte(op))
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
}

// AppendClose implements transport.Protocol: a close frame with the code and its reason, once.
func (p *Protocol) AppendClose(dst []byte, s *transport.State, code protocol.CloseCode) []byte {
	p.release(s)
	if s.Closed || !s.Open {
		s.Closed = true
		return dst
	}
	s.Closed = true
	return appendClose(dst, code, protocol.Closings[code].Reason)
}

func appendClose(dst []byte, code protocol.CloseCode, reason string) []byte {
	dst = AppendHeader(dst, ws.OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// AppendRefusal implements transport.Protocol: the answer that HTTP has for it.
func (p *Protocol) AppendRefusal(dst []byte, code protocol.CloseCode, retryAfter time.Duration) []byte {
	seconds := int((retryAfter + time.Second - 1) / time.Second)
	status := "503 Service Unavailable"
	if code == protocol.CloseRateLimited {
		status = "429 Too Many Requests"
	}
	dst = append(append(append(dst, "HTTP/1.1 "...), status...), "\r\nConnection: close\r\nRetry-After: "...)
	dst = strconv.AppendInt(dst, int64(seconds), 10)
	reason := protocol.Closings[code].Reason
	dst = append(dst, "\r\nContent-Type: text/plain\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(reason)+1), 10)
	dst = append(dst, "\r\n\r\n"...)
	dst = append(dst, reason...)
	return append(dst, '\n')
}

// partial returns the message in progress, begun if there is none.
func (p *Protocol) partial(s *transport.State) *transport.Partial {
	if s.Partial == nil {
		s.Partial = p.partials.Get().(*transport.Partial)
	}
	return s.Partial
}

// maxPooled keeps one huge message from staying in memory for good.
const maxPooled = 64 << 10

func (p *Protocol) release(s *transport.State) {
	if s.Partial == nil {
		return
	}
	data := s.Partial.Data[:0]
	if cap(data) > maxPooled {
		data = nil
	}
	*s.Partial = transport.Partial{Data: data}
	p.partials.Put(s.Partial)
	s.Partial = nil
}
