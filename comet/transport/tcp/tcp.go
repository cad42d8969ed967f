// Package tcp frames the client protocol on a plain byte stream: four bytes of length, big-endian, then one Protobuf Frame. It
// never reads or writes a socket.
package tcp

import (
	"encoding/binary"
	"time"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Name of the transport, as in metrics and configuration, and its name over TLS.
const (
	Name       = "tcp"
	SecureName = "tls"
)

const headerLen = 4

// Protocol is the framing; it implements transport.Protocol.
type Protocol struct {
	frameBytes int
}

var _ transport.Protocol = (*Protocol)(nil)

// New makes the framing with frames of at most frameBytes.
func New(frameBytes int) *Protocol { return &Protocol{frameBytes: frameBytes} }

// Next implements transport.Protocol. A frame is returned only when it is there as a whole: it lies in the engine's buffer
// until then, which is bounded by the length that the header may announce.
func (p *Protocol) Next(s *transport.State, in []byte, _ *[]byte) transport.Result {
	if !s.Open {
		s.Open, s.Codec = true, link.CodecProto
	}
	if len(in) < headerLen {
		return transport.Result{Need: headerLen}
	}
	n := binary.BigEndian.Uint32(in)
	if uint64(n) > uint64(p.frameBytes) {
		return transport.Result{Fail: protocol.CloseTooLarge}
	}
	end := headerLen + int(n)
	if len(in) < end {
		return transport.Result{Need: end}
	}
	return transport.Result{Event: transport.EventFrame, Taken: end, Frame: in[headerLen:end:end]}
}

// AppendFrame implements transport.Protocol.
func (p *Protocol) AppendFrame(dst []byte, _ *transport.State, frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(frame))), frame...)
}

// AppendClose implements transport.Protocol: TCP's goodbye is its FIN.
func (p *Protocol) AppendClose(dst []byte, s *transport.State, _ protocol.CloseCode) []byte {
	s.Closed = true
	return dst
}

// AppendRefusal implements transport.Protocol: a Close frame.
func (p *Protocol) AppendRefusal(dst []byte, code protocol.CloseCode, retryAfter time.Duration) []byte {
	body, err := protocol.CloseFrame(code, retryAfter).MarshalVT()
	if err != nil {
		return dst
	}
	f := envelopev1.Frame{Command: envelopev1.Command_COMMAND_CLOSE, Body: body}
	frame, err := f.MarshalVT()
	if err != nil {
		return dst
	}
	return p.AppendFrame(dst, nil, frame)
}
