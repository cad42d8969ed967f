package generator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/panjf2000/gnet/v2"

	"github.com/halley-im/halley/pkg/looptls"
)

// maxPayload bounds what a server may make the generator hold for one frame.
const maxPayload = 4 << 20

// Endpoint is what a line's payloads are for. All calls come from the line's loop.
type Endpoint interface {
	// Opened says that payloads may be sent.
	Opened()
	// Payload hands over one payload; p is valid during the call only.
	Payload(p []byte)
	// Closed says that the line is gone, or could not be made; err is why, nil where the peer just closed it.
	Closed(err error)
}

// Line is one client connection, made again as often as Redial is called. Its methods belong to its worker's loop.
type Line struct {
	// static
	worker *Worker
	end    Endpoint
	index  int

	// owned by the loop
	gc       gnet.Conn
	tls      *looptls.Conn
	kept     []byte   // Plain text of a frame that is not whole yet.
	upgrade  *upgrade // While the WebSocket handshake runs.
	reason   error    // Why we closed it ourselves.
	out      []byte   // Borrowed from the worker between the first Send of a callback and its end.
	mark     int      // Where the frame being written begins in out.
	lastSent int64
	lastRead int64
	shift    int // Targets passed over.
	closing  bool
}

// Init prepares the line; index chooses its first target and its source address.
func (l *Line) Init(w *Worker, index int, end Endpoint) {
	l.worker, l.index, l.end = w, index, end
}

// Worker is where the line lives.
func (l *Line) Worker() *Worker { return l.worker }

// Redial connects again; to be called once after each Closed at most.
func (l *Line) Redial() { l.worker.fleet.queue <- l }

// Elsewhere has the next Redial try the target after this one, as a client behind a balancer would get.
func (l *Line) Elsewhere() { l.shift++ }

// Close ends the connection; Closed follows.
func (l *Line) Close(reason error) {
	if l.gc == nil || l.closing {
		return
	}
	l.closing, l.reason = true, reason
	_ = l.gc.Close()
}

// Send queues one payload until the end of the callback.
func (l *Line) Send(payload []byte) {
	if b := l.reserve(len(payload)); b != nil {
		copy(b, payload)
		l.seal(b)
	}
}

func (l *Line) target() string { return l.worker.fleet.cfg.Targets[l.aim()] }

func (l *Line) aim() int { return (l.index + l.shift) % len(l.worker.fleet.cfg.Targets) }

// reserve makes room for a payload of n bytes in the output; the caller fills it and calls seal.
func (l *Line) reserve(n int) []byte {
	if l.gc == nil || l.closing {
		return nil
	}
	l.borrow()
	switch cfg := &l.worker.fleet.cfg; {
	case cfg.Transport == TCP:
		l.out = binary.BigEndian.AppendUint32(l.out, uint32(n))
	case cfg.Transport == Bytes:
	case cfg.Text:
		l.out = appendClientHeader(l.out, opText, n, l.worker.rand.Uint32())
	default:
		l.out = appendClientHeader(l.out, opBinary, n, l.worker.rand.Uint32())
	}
	l.mark = len(l.out)
	l.out = extend(l.out, n)
	return l.out[l.mark:]
}

// seal masks the payload where the transport wants it.
func (l *Line) seal(payload []byte) {
	if l.worker.fleet.cfg.Transport == WebSocket {
		mask(payload, [4]byte(l.out[l.mark-4:l.mark]))
	}
}

// borrow gives the line an output buffer and puts it on the list of those to be flushed.
func (l *Line) borrow() {
	if l.out != nil {
		return
	}
	w := l.worker
	if n := len(w.spare); n > 0 {
		l.out, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		l.out = make([]byte, 0, 1024)
	}
	w.dirty = append(w.dirty, l)
}

func (l *Line) connected(c gnet.Conn) {
	l.gc, l.closing, l.reason = c, false, nil
	l.lastRead, l.lastSent = l.worker.now, l.worker.now
	if secured := l.worker.fleet.secured; secured != nil {
		l.beginTLS(secured[l.aim()])
		return
	}
	l.begin()
}

// begin opens the transport.
func (l *Line) begin() {
	if l.worker.fleet.cfg.Transport != WebSocket {
		l.end.Opened()
		return
	}
	l.upgrade = newUpgrade(l.worker.rand)
	l.borrow()
	l.out = l.upgrade.request(l.out, l.target(), l.worker.fleet.cfg)
}

func (l *Line) closed(err error) {
	if l.reason != nil {
		err = l.reason
	}
	l.endTLS()
	l.gc, l.upgrade, l.out, l.closing, l.reason = nil, nil, nil, false, nil
	l.end.Closed(err)
}

// consume takes every whole frame from buf and returns how many bytes they were.
func (l *Line) consume(buf []byte) (int, error) {
	l.lastRead = l.worker.now
	total := len(buf)
	if l.upgrade != nil {
		n, err := l.upgrade.response(buf)
		if err != nil || n == 0 {
			return 0, err
		}
		l.upgrade = nil
		buf = buf[n:]
		l.end.Opened()
	}
	for len(buf) > 0 && !l.closing && l.gc != nil {
		n, err := l.next(buf)
		if err != nil {
			return total - len(buf), err
		}
		if n == 0 {
			break
		}
		buf = buf[n:]
	}
	return total - len(buf), nil
}

// next handles the first frame of buf and returns its length; 0 where it is not whole yet.
func (l *Line) next(buf []byte) (int, error) {
	switch l.worker.fleet.cfg.Transport {
	case WebSocket:
		return l.nextWebSocket(buf)
	case Bytes:
		l.end.Payload(buf)
		return len(buf), nil
	}
	if len(buf) < 4 {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint32(buf))
	if n > maxPayload {
		return 0, fmt.Errorf("frame of %d bytes", n)
	}
	if len(buf) < 4+n {
		return 0, nil
	}
	l.end.Payload(buf[4 : 4+n])
	return 4 + n, nil
}

func (l *Line) nextWebSocket(buf []byte) (int, error) {
	h, n, err := parseServerHeader(buf)
	if err != nil || n == 0 || len(buf) < n+h.length {
		return 0, err
	}
	payload := buf[n : n+h.length]
	switch h.opcode {
	case opBinary, opText:
		l.end.Payload(payload)
	case opPing:
		l.control(opPong, payload)
	case opPong:
	case opClose:
		code := uint16(1005)
		if len(payload) >= 2 {
			code = binary.BigEndian.Uint16(payload)
		}
		l.control(opClose, payload[:min(2, len(payload))])
		l.worker.flush()
		l.Close(&CloseError{Code: code})
	default:
		return 0, errors.New("unknown WebSocket opcode")
	}
	return n + h.length, nil
}

// control sends a WebSocket control frame.
func (l *Line) control(op byte, payload []byte) {
	if b := l.reserve(len(payload)); b != nil {
		// appendClientHeader wrote a header for up to 125 bytes: two bytes and the mask.
		l.out[l.mark-6] = 0x80 | op
		copy(b, payload)
		l.seal(b)
	}
}

// CloseError is a WebSocket close by the server.
type CloseError struct {
	Code uint16
	// RetryAfter is how long the server asked to stay away.
	RetryAfter time.Duration
}

func (e *CloseError) Error() string { return fmt.Sprintf("closed by the server: %d", e.Code) }

func extend(b []byte, n int) []byte {
	if need := len(b) + n; need > cap(b) {
		grown := make([]byte, len(b), max(need, 2*cap(b)))
		copy(grown, b)
		b = grown
	}
	return b[:len(b)+n]
}
