// Package transport is the contract between sessions and the ways their frames travel: an engine moves bytes, a protocol
// finds frames in them. It knows neither users nor commands. Implementations: tcp and websocket on the engine in loop;
// transporttest is the suite both pass.
package transport

import (
	"net"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// Conn is one connection. Its methods may be called on the connection's own loop only.
type Conn interface {
	// Peek returns the next n bytes received, all of them for n = -1, without consuming them. They may be written to (a mask is
	// taken off in place) and are valid until Discard.
	Peek(n int) ([]byte, error)
	// Discard consumes n bytes; n must be above 0.
	Discard(n int) (int, error)
	InboundBuffered() int
	// Write sends p or keeps a copy of what the socket does not take. A failed write closes the connection, which calls
	// Handler.Closed before Write returns.
	Write(p []byte) (int, error)
	// OutboundBuffered is how many bytes wait for the socket.
	OutboundBuffered() int
	// RemoteAddr is the device's end; it is known until Handler.Closed returns. Nil: a balancer has yet to say whose connection it
	// is, and Handler.Located follows when it has.
	RemoteAddr() net.Addr
	Context() any
	SetContext(ctx any)
}

// Handler is what an engine calls. All calls for one connection come on its loop, one after another; loops run in parallel.
type Handler interface {
	// Open announces a connection on a loop, accepted by a listener, both counted from 0. Where ok is false, refusal is
	// written and the connection closed, and nothing more is heard of it.
	Open(loop, listener int, c Conn) (refusal []byte, ok bool)
	// Located says that RemoteAddr, which was nil, is known now. Where ok is false, refusal is written and the connection closed, which
	// Closed tells. It comes before any Traffic.
	Located(c Conn) (refusal []byte, ok bool)
	// Traffic says that bytes arrived.
	Traffic(c Conn)
	// Closed is the last call for c, and says what ended it.
	Closed(c Conn, why Ending)
}

// Ending is what ended a connection, as far as the engine can tell.
type Ending uint8

// The endings.
const (
	// EndingGone: the device or the handler closed it, or it broke.
	EndingGone Ending = iota
	// EndingHandshake: there was no TLS, or not one that both could agree on.
	EndingHandshake
	// EndingHeader: a balancer did not say, or not so that it could be understood, whose connection it is.
	EndingHeader
)

// Event is what Protocol.Next found.
type Event uint8

// The events.
const (
	// EventNone: nothing complete; more bytes must come.
	EventNone Event = iota
	// EventFrame: one frame of the client protocol.
	EventFrame
	// EventControl: the transport's own business, which proves life: a handshake, a ping, a pong.
	EventControl
	// EventClose: the device said goodbye, and the answer to it is in the reply.
	EventClose
	// EventRefused: the opening was refused, and the refusal is in the reply.
	EventRefused
)

// Result of Protocol.Next.
type Result struct {
	Event Event
	// Taken is how many bytes of the input are done with.
	Taken int
	// Need is how many bytes must be there, counted after Taken, before another call can find anything; with EventNone only.
	Need int
	// Frame is one frame, valid until the next call with this state; with EventFrame only.
	Frame []byte
	// Fail is why the connection must be closed, 0 if it need not.
	Fail protocol.CloseCode
}

// State is what a protocol keeps of one connection. The zero value is a new connection.
type State struct {
	// Partial is a message that arrived in part; nil at rest, so that an idle connection costs no buffer.
	Partial *Partial
	// Codec is 0 until the opening settles it.
	Codec link.Codec
	// Open reports that the opening is done.
	Open bool
	// Closed reports that the transport's own goodbye was sent.
	Closed bool
}

// Partial is a message that arrived in part. Its fields belong to the protocol.
type Partial struct {
	Data   []byte
	Remain uint64
	Mask   [4]byte
	Offset int
	UTF8   uint8
	Opcode uint8
	Fin    bool
	Within bool // inside a frame whose header was read
}

// Protocol finds and makes frames. One value serves all connections of its listener, from several loops at once; what one
// connection needs is in its State.
type Protocol interface {
	// Next takes what it can from the front of in, which it may change, and appends what must be sent back at once to reply.
	Next(s *State, in []byte, reply *[]byte) Result
	// AppendFrame appends one frame as it goes on the wire.
	AppendFrame(dst []byte, s *State, frame []byte) []byte
	// AppendClose appends the transport's own goodbye, if it has one and did not say it yet.
	AppendClose(dst []byte, s *State, code protocol.CloseCode) []byte
	// AppendRefusal appends what a connection is told that is not let in at all, before it said anything.
	AppendRefusal(dst []byte, code protocol.CloseCode, retryAfter time.Duration) []byte
}
