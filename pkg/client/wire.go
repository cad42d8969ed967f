package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// maxFrame bounds what a server may send: 200 records of history at the largest body.
const maxFrame = 16 << 20

// wire carries frames. One goroutine reads and one writes at a time; close ends both.
type wire interface {
	// read returns the next frame; the slice is the caller's.
	read() ([]byte, error)
	// write queues a frame, flush sends what is queued.
	write(frame []byte) error
	flush() error
	// pings are the transport's own, which pong must answer; nil where it has none.
	pings() <-chan []byte
	pong(payload []byte) error
	close()
}

func dial(ctx context.Context, u *url.URL, secured *tls.Config) (wire, error) {
	if u.Scheme == "tcp" || u.Scheme == "tls" {
		dial := (&net.Dialer{}).DialContext
		if u.Scheme == "tls" {
			dial = (&tls.Dialer{Config: secured}).DialContext
		}
		conn, err := dial(ctx, "tcp", u.Host)
		if err != nil {
			return nil, err
		}
		return &tcpWire{conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn)}, nil
	}
	var busy *CloseError
	dialer := ws.Dialer{
		Protocols: []string{protocol.SubprotocolProto}, TLSConfig: secured,
		OnStatusError: func(status int, _ []byte, answer io.Reader) { busy = refusal(status, answer) },
	}
	conn, in, hs, err := dialer.Dial(ctx, u.String())
	if busy != nil {
		return nil, busy
	}
	if err != nil {
		return nil, err
	}
	if hs.Protocol != protocol.SubprotocolProto {
		_ = conn.Close()
		return nil, fmt.Errorf("the server does not speak %s", protocol.SubprotocolProto)
	}
	if in == nil {
		in = bufio.NewReader(conn)
	}
	return &wsWire{conn: conn, in: in, out: bufio.NewWriter(conn), pinged: make(chan []byte, 1)}, nil
}

// refusal is what an answer says that lets nobody in yet, with the time to stay away; nil: it says something else.
func refusal(status int, answer io.Reader) *CloseError {
	var wait string
	head := io.LimitReader(answer, 16<<10)
	if res, err := http.ReadResponse(bufio.NewReader(head), nil); err == nil { //nolint:bodyclose // closing would read the body; the connection ends here.
		wait = res.Header.Get("Retry-After")
	}
	code, after, ok := protocol.RefusedHandshake(status, wait)
	if !ok {
		return nil
	}
	return &CloseError{
		Code: code, Reason: protocol.Closings[code].Reason, Reconnect: envelopev1.Reconnect_RECONNECT_YES,
		RetryAfter: after,
	}
}

// tcpWire is a 4-byte big-endian length before each frame.
type tcpWire struct {
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
}

func (w *tcpWire) read() ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(w.in, header[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(w.in, frame)
	return frame, err
}

func (w *tcpWire) write(frame []byte) error {
	if _, err := w.out.Write(binary.BigEndian.AppendUint32(nil, uint32(len(frame)))); err != nil {
		return err
	}
	_, err := w.out.Write(frame)
	return err
}

func (w *tcpWire) flush() error         { return w.out.Flush() }
func (w *tcpWire) pings() <-chan []byte { return nil }
func (w *tcpWire) pong([]byte) error    { return nil }
func (w *tcpWire) close()               { _ = w.conn.Close() }

// wsWire is one binary WebSocket message for each frame.
type wsWire struct {
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
	// The newest ping is enough to answer (RFC 6455, section 5.5.3), so one place is.
	pinged chan []byte
}

func (w *wsWire) read() ([]byte, error) {
	var message []byte
	for {
		h, err := ws.ReadHeader(w.in)
		if err != nil {
			return nil, err
		}
		if h.Masked || h.Length > maxFrame || h.Length+int64(len(message)) > maxFrame {
			return nil, fmt.Errorf("a WebSocket frame of %d bytes, masked %v", h.Length, h.Masked)
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(w.in, payload); err != nil {
			return nil, err
		}
		switch h.OpCode {
		case ws.OpPing: // Of a proxy: Halley's servers prove life with frames of their own.
			select {
			case w.pinged <- payload:
			default:
			}
		case ws.OpPong:
		case ws.OpClose:
			return nil, closeOf(payload)
		case ws.OpBinary, ws.OpContinuation:
			message = append(message, payload...)
			if h.Fin {
				return message, nil
			}
		default:
			return nil, errors.New("a text frame on the Protobuf subprotocol")
		}
	}
}

// closeOf is a WebSocket close without a Close frame before it, as from a proxy.
func closeOf(payload []byte) error {
	code, reason := ws.ParseCloseFrameData(payload)
	e := &CloseError{Code: protocol.CloseCode(code), Reason: reason, Reconnect: envelopev1.Reconnect_RECONNECT_YES}
	if known, ok := protocol.Closings[e.Code]; ok {
		e.Reason, e.Reconnect = known.Reason, known.Reconnect
	}
	return e
}

func (w *wsWire) write(frame []byte) error {
	return ws.WriteFrame(w.out, ws.MaskFrame(ws.NewBinaryFrame(frame)))
}

func (w *wsWire) pong(payload []byte) error {
	return ws.WriteFrame(w.out, ws.MaskFrame(ws.NewPongFrame(payload)))
}

func (w *wsWire) flush() error         { return w.out.Flush() }
func (w *wsWire) pings() <-chan []byte { return w.pinged }
func (w *wsWire) close()               { _ = w.conn.Close() }
