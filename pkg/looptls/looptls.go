// Package looptls drives crypto/tls from an event loop: one goroutine for a connection while its handshake is under way, and none
// afterwards. It never owns a socket and never waits on a loop.
//
// A tls.Conn reads from a net.Conn, which waits; a loop must not. So the net.Conn that it is given answers a temporary error when no
// bytes are there: crypto/tls then keeps what it has of a record and returns, and goes on from there when it is called again. A
// handshake takes no such answer for long, so it runs in a goroutine, which waits in the loop's stead.
package looptls

import (
	"container/list"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Socket is what is under TLS. Its methods are called on the connection's loop.
type Socket interface {
	// Read takes bytes that have arrived; it is called where there are some.
	Read(p []byte) (int, error)
	// InboundBuffered is how many there are.
	InboundBuffered() int
	// Write sends p, or keeps a copy of what the socket does not take.
	Write(p []byte) (int, error)
}

// Waker has Conn.Run called on the connection's loop, soon. It is called from any goroutine.
type Waker interface{ WakeTLS() }

// ErrAgain says that nothing can be read before more bytes arrive.
var ErrAgain error = again{}

// again is a temporary net.Error: crypto/tls remembers any other for good.
type again struct{}

func (again) Error() string   { return "looptls: no bytes yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// What ends a handshake besides the errors of crypto/tls.
var (
	// ErrNotTLS: what came first is no record of a handshake.
	ErrNotTLS = errors.New("looptls: the first bytes are not TLS")
	// ErrTimeout: the other end took longer than it may.
	ErrTimeout = errors.New("looptls: the handshake took too long")
	// ErrTooMuch: more bytes came than a handshake has.
	ErrTooMuch = errors.New("looptls: too many bytes before the end of the handshake")
	errGone    = errors.New("looptls: the connection is gone")
)

// The bytes that are held of a connection that is not known yet.
const (
	// maxHello is for the first record, while no handshake is under way.
	maxHello = 16<<10 + recordHeader
	// maxBefore is for what comes during a handshake: certificates, and what a hasty client sends behind its last words.
	maxBefore = 256 << 10
	// maxRecord is how much plain text fits into one record.
	maxRecord    = 16 << 10
	recordHeader = 5
	// typeHandshake and majorVersion begin every TLS connection.
	typeHandshake = 22
	majorVersion  = 3
)

// stage of a connection.
type stage uint8

const (
	stageHello     stage = iota // the first record has not arrived
	stageHandshake              // a goroutine has it, or will have
	stageOpen
	stageFailed
)

// Conn is one TLS connection on a loop. All methods are the loop's. An idle open one holds no buffer of ours.
type Conn struct {
	// Static.
	desk   *Desk
	socket Socket
	waker  Waker
	cfg    *tls.Config
	client bool

	// Owned by the loop.
	tls    *tls.Conn // from the handshake on: before it, a stranger costs nothing of it
	stage  stage
	gone   bool
	gather bool   // what crypto/tls writes is put together in out
	early  []byte // before the handshake: its first bytes; after it: what it left
	out    []byte
	hs     *handshake // while one is under way, when the goroutine reads this field too

	// Guarded by the desk.
	place *list.Element // in the queue
}

// Accept makes c the server's end of a connection of which no byte was read.
func (c *Conn) Accept(d *Desk, cfg *tls.Config, s Socket, w Waker) {
	*c = Conn{desk: d, cfg: cfg, socket: s, waker: w}
}

// Connect makes c the client's end, and begins.
func (c *Conn) Connect(d *Desk, cfg *tls.Config, s Socket, w Waker) {
	*c = Conn{desk: d, cfg: cfg, socket: s, waker: w, client: true}
	c.begin()
}

// Open reports that the handshake is done: from here on Read and Write work.
func (c *Conn) Open() bool { return c.stage == stageOpen }

// Gone reports that Abandon was called.
func (c *Conn) Gone() bool { return c.gone }

// State tells what was agreed on; of an open connection.
func (c *Conn) State() tls.ConnectionState { return c.tls.ConnectionState() }

// Receive takes bytes that arrived while the connection is not open. An error is its end: the socket is to be closed.
func (c *Conn) Receive() error {
	var err error
	switch c.stage {
	case stageHello:
		err = c.hello()
	case stageHandshake:
		err = c.hs.arrived(c.socket)
	case stageOpen, stageFailed:
	}
	if err != nil {
		if c.hs == nil {
			c.desk.count(nil, err)
		}
		c.abandon(err)
	}
	return err
}

// hello waits for the whole first record, at the price of its bytes alone: whoever sends it slowly, or sends something else, takes
// no turn from others.
func (c *Conn) hello() (err error) {
	if c.early, err = take(c.socket, c.early, maxHello); err != nil {
		return err
	}
	in := c.early
	if len(in) > 0 && in[0] != typeHandshake || len(in) > 1 && in[1] != majorVersion {
		return ErrNotTLS
	}
	if len(in) < recordHeader {
		return nil
	}
	n := int(in[3])<<8 | int(in[4])
	if n == 0 || n > maxRecord {
		return ErrNotTLS
	}
	if len(in) >= recordHeader+n {
		c.begin()
	}
	return nil
}

// take moves what has arrived behind buf.
func take(s Socket, buf []byte, most int) ([]byte, error) {
	n := s.InboundBuffered()
	if n == 0 {
		return buf, nil
	}
	had := len(buf)
	if had+n > most {
		return buf, ErrTooMuch
	}
	buf = append(buf, make([]byte, n)...)
	got, err := s.Read(buf[had:])
	return buf[:had+got], err
}

// begin has a goroutine do the handshake, now or when its turn comes.
func (c *Conn) begin() {
	if c.client {
		c.tls = tls.Client((*wire)(c), c.cfg)
	} else {
		c.tls = tls.Server((*wire)(c), c.cfg)
	}
	c.stage = stageHandshake
	c.hs = &handshake{bell: make(chan struct{}, 1), in: c.early}
	c.early = nil
	c.desk.enter(c)
}

// Run is the loop's part of a handshake. It returns true when the connection is open from now on, or the error that ended it: the
// socket is to be closed.
func (c *Conn) Run() (opened bool, err error) {
	h := c.hs
	if c.gone || h == nil {
		return false, nil
	}
	h.mu.Lock()
	out, done, err := h.out, h.done, h.err
	h.out = nil
	if done {
		c.hs, c.early = nil, h.in
		if len(c.early) == 0 {
			c.early = nil
		}
	}
	h.mu.Unlock()
	if done {
		c.stage = stageOpen
		if err != nil {
			c.stage = stageFailed
		}
	}
	if len(out) > 0 {
		_, _ = c.socket.Write(out) // A failed write closes the socket, and that abandons c.
	}
	if !done || c.gone {
		return false, nil
	}
	return err == nil, err
}

// Abandon is to be called when the socket is closed. It may be called again.
func (c *Conn) Abandon() { c.abandon(errGone) }

func (c *Conn) abandon(why error) {
	if c.gone {
		return
	}
	c.gone, c.early = true, nil
	if h := c.hs; h != nil {
		c.desk.forget(c, why)
		h.mu.Lock()
		h.gone = why
		h.mu.Unlock()
		h.ring()
	}
}

// Read reads plain text: ErrAgain where more bytes must arrive first, io.EOF when the other end has said that it is done.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.tls.Read(p)
	if errors.Is(err, ErrAgain) {
		shed(c.tls)
	}
	return n, err
}

// Write sends p: one record and one write to the socket where it fits into a record, one write all the same where it does not.
func (c *Conn) Write(p []byte) (int, error) {
	if c.stage != stageOpen || c.gone {
		return len(p), nil // There is nobody yet, or no longer, who could be told.
	}
	if len(p) <= maxRecord {
		return c.tls.Write(p)
	}
	c.gather = true
	n, err := c.tls.Write(p)
	c.gather = false
	out := c.out
	c.out = nil
	if err != nil {
		return n, err
	}
	if _, err := c.socket.Write(out); err != nil {
		return 0, err
	}
	return n, nil
}

// CloseWrite says that nothing follows.
func (c *Conn) CloseWrite() {
	if c.stage == stageOpen && !c.gone {
		_ = c.tls.CloseWrite() // It fails where the connection has ended, which needs no goodbye.
	}
}

// wire is the connection as crypto/tls sees it: read and written by the goroutine of a handshake, and by the loop afterwards.
type wire Conn

var _ net.Conn = (*wire)(nil)

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if h := w.hs; h != nil {
		return h.read(p, w.desk)
	}
	if len(w.early) > 0 {
		n := copy(p, w.early)
		if w.early = w.early[n:]; len(w.early) == 0 {
			w.early = nil
		}
		return n, nil
	}
	if w.gone || w.socket.InboundBuffered() == 0 {
		return 0, ErrAgain
	}
	return w.socket.Read(p)
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if h := w.hs; h != nil {
		return h.write(p, w.waker)
	}
	if w.gone {
		return 0, errGone
	}
	if w.gather {
		w.out = append(w.out, p...)
		return len(p), nil
	}
	return w.socket.Write(p)
}

// Close implements net.Conn; the socket is not ours to close.
func (*wire) Close() error { return nil }

// LocalAddr implements net.Conn.
func (*wire) LocalAddr() net.Addr { return nil }

// RemoteAddr implements net.Conn.
func (*wire) RemoteAddr() net.Addr { return nil }

// SetDeadline implements net.Conn: deadlines are the desk's.
func (*wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (*wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (*wire) SetWriteDeadline(time.Time) error { return nil }
