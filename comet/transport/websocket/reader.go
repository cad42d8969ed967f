package websocket

import (
	"encoding/binary"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// Next implements transport.Protocol.
//
// A message in one frame that is there as a whole is unmasked where it lies and returned from there. Any other is taken out of
// the buffer as it comes, unmasked and, if it is text, checked at once: an invalid byte ends the connection when it
// arrives, not when the message would have been complete.
func (p *Protocol) Next(s *transport.State, in []byte, reply *[]byte) transport.Result {
	if !s.Open {
		return p.open(s, in, reply)
	}
	if s.Partial != nil {
		if s.Partial.Within {
			return p.payload(s, in)
		}
		if s.Partial.Fin { // Returned by the last call, and now used.
			p.release(s)
		}
	}
	h, size, need, fail := header(in)
	if fail == 0 && need == 0 {
		fail = p.check(s, h)
	}
	if fail != 0 {
		return transport.Result{Fail: fail}
	}
	if need > 0 {
		return transport.Result{Need: need}
	}
	whole := size + int(h.Length) // h.Length is at most FrameBytes.
	if h.OpCode.IsControl() {
		if len(in) < whole {
			return transport.Result{Need: whole}
		}
		ws.Cipher(in[size:whole], h.Mask, 0)
		return p.control(s, h.OpCode, in[size:whole], whole, reply)
	}
	if h.Fin && s.Partial == nil && len(in) >= whole {
		frame := in[size:whole:whole]
		ws.Cipher(frame, h.Mask, 0)
		if h.OpCode == ws.OpText && validate(utf8Start, frame) != utf8Start {
			return transport.Result{Fail: protocol.CloseBadUTF8}
		}
		p.note(s, h.OpCode)
		return transport.Result{Event: transport.EventFrame, Taken: whole, Frame: frame}
	}
	m := p.partial(s)
	if h.OpCode != ws.OpContinuation {
		m.Opcode = byte(h.OpCode)
	}
	m.Within, m.Fin, m.Remain, m.Mask, m.Offset = true, h.Fin, uint64(h.Length), h.Mask, 0
	r := p.payload(s, in[size:])
	r.Taken += size
	return r
}

// check refuses a frame by its header. Lengths are bounded before anything is kept of the frame.
func (p *Protocol) check(s *transport.State, h ws.Header) protocol.CloseCode {
	state := ws.StateServerSide
	if s.Partial != nil {
		state = state.Set(ws.StateFragmented)
	}
	if ws.CheckHeader(h, state) != nil {
		return protocol.CloseProtocol
	}
	if h.OpCode.IsControl() {
		return 0
	}
	have := 0
	if s.Partial != nil {
		have = len(s.Partial.Data)
	}
	if h.Length > int64(p.cfg.FrameBytes-have) {
		return protocol.CloseTooLarge
	}
	switch {
	case h.OpCode == ws.OpText && s.Codec == link.CodecProto, h.OpCode == ws.OpBinary && s.Codec == link.CodecJSON:
		return protocol.CloseUnsupported
	}
	return 0
}

// payload takes what is there of the current frame's payload.
func (p *Protocol) payload(s *transport.State, in []byte) transport.Result {
	m := s.Partial
	n := min(uint64(len(in)), m.Remain)
	part := in[:n]
	ws.Cipher(part, m.Mask, m.Offset)
	if ws.OpCode(m.Opcode) == ws.OpText {
		if m.UTF8 = validate(m.UTF8, part); m.UTF8 == utf8Invalid {
			return transport.Result{Fail: protocol.CloseBadUTF8}
		}
	}
	m.Data = append(m.Data, part...)
	m.Offset = (m.Offset + int(n)) & 3
	m.Remain -= n
	if m.Remain > 0 {
		return transport.Result{Taken: int(n), Need: 1}
	}
	m.Within = false
	if !m.Fin {
		// The next frame's header may be here already: call again.
		return transport.Result{Taken: int(n)}
	}
	if m.UTF8 != utf8Start {
		return transport.Result{Fail: protocol.CloseBadUTF8}
	}
	p.note(s, ws.OpCode(m.Opcode))
	return transport.Result{Event: transport.EventFrame, Taken: int(n), Frame: m.Data}
}

// note remembers the kind of the message for a server without a codec, which answers in kind.
func (p *Protocol) note(s *transport.State, op ws.OpCode) {
	switch {
	case s.Codec == link.CodecProto || s.Codec == link.CodecJSON:
	case op == ws.OpText:
		s.Codec = codecAnyText
	default:
		s.Codec = CodecAny
	}
}

// control answers a control frame.
func (p *Protocol) control(s *transport.State, op ws.OpCode, data []byte, taken int, reply *[]byte) transport.Result {
	switch op {
	case ws.OpPing:
		*reply = append(AppendHeader(*reply, ws.OpPong, len(data)), data...)
	case ws.OpClose:
		return p.goodbye(s, data, taken, reply)
	}
	return transport.Result{Event: transport.EventControl, Taken: taken}
}

// goodbye echoes the device's close code, as RFC 6455, 5.5.1 asks, unless it may not be sent.
func (p *Protocol) goodbye(s *transport.State, data []byte, taken int, reply *[]byte) transport.Result {
	code := protocol.CloseNormal
	switch {
	case len(data) == 1:
		return transport.Result{Fail: protocol.CloseProtocol}
	case len(data) >= 2:
		status, reason := ws.ParseCloseFrameData(data)
		if ws.CheckCloseFrameData(status, "") != nil {
			return transport.Result{Fail: protocol.CloseProtocol}
		}
		if validate(utf8Start, []byte(reason)) != utf8Start {
			return transport.Result{Fail: protocol.CloseBadUTF8}
		}
		code = protocol.CloseCode(status)
	}
	p.release(s)
	if !s.Closed {
		s.Closed = true
		*reply = appendClose(*reply, code, "")
	}
	return transport.Result{Event: transport.EventClose, Taken: taken}
}

// header parses a frame's header: its size, or how many bytes it needs. (ws.ReadHeader reads from a stream and blocks.)
func header(in []byte) (h ws.Header, size, need int, fail protocol.CloseCode) {
	if len(in) < 2 {
		return h, 0, 2, 0
	}
	h.Fin = in[0]&0x80 != 0
	h.Rsv = in[0] & 0x70 >> 4
	h.OpCode = ws.OpCode(in[0] & 0x0F)
	h.Masked = in[1]&0x80 != 0
	if !h.Masked {
		return h, 0, 0, protocol.CloseProtocol
	}
	length := uint64(in[1] & 0x7F)
	size = 2
	switch length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if len(in) < size+4 {
		return h, 0, size + 4, 0
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(in[2:]))
	case 127:
		length = binary.BigEndian.Uint64(in[2:])
		if length>>63 != 0 { // RFC 6455, 5.2: the most significant bit must be 0.
			return h, 0, 0, protocol.CloseProtocol
		}
	}
	h.Length = int64(length)
	copy(h.Mask[:], in[size:])
	return h, size + 4, 0, 0
}
