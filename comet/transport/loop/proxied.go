package loop

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/proxy"
)

// proxied is a connection that a balancer passes on: it begins with a header that says whose it is.
type proxied struct {
	gnet.Conn

	engine *Engine
	origin origin
	ctx    any
	why    transport.Ending
}

var _ transport.Conn = (*proxied)(nil)

// RemoteAddr implements transport.Conn.
func (p *proxied) RemoteAddr() net.Addr { return p.origin.addr }

// Context implements transport.Conn.
func (p *proxied) Context() any { return p.ctx }

// SetContext implements transport.Conn.
func (p *proxied) SetContext(ctx any) { p.ctx = ctx }

// traffic says that bytes arrived on the socket.
func (p *proxied) traffic() {
	if p.origin.awaited() && !p.locate() {
		return
	}
	if p.InboundBuffered() > 0 {
		p.engine.handler.Traffic(p)
	}
}

// locate reads the header. It reports whether the connection goes on now.
func (p *proxied) locate() bool {
	ok, err := p.origin.read(p.Conn, &p.engine.headers)
	if err != nil {
		p.why = transport.EndingHeader
		_ = p.EventLoop().Close(p.Conn) // the descriptor is gone either way
		return false
	}
	if !ok {
		return false
	}
	if refusal, ok := p.engine.handler.Located(p); !ok {
		_, _ = p.Write(refusal)
		_ = p.EventLoop().Close(p.Conn)
		return false
	}
	return true
}

// origin is where a connection comes from, as far as it is known: nil until the header was read.
type origin struct{ addr net.Addr }

func (o *origin) awaited() bool { return o.addr == nil }

// read takes the header, if it is there as a whole. Until then it lies in the engine's buffer, and proxy.MaxHeader bounds it.
func (o *origin) read(c gnet.Conn, counts *headerCounts) (ok bool, err error) {
	in, err := c.Peek(-1)
	if err != nil {
		return false, err
	}
	from, n, err := proxy.Parse(in)
	if err != nil {
		counts.add(err)
		return false, err
	}
	if n == 0 {
		return false, nil
	}
	_, _ = c.Discard(n) // it cannot discard too much
	if o.set(c, from); from.IsValid() {
		counts[HeaderOK].Add(1)
	} else {
		counts[HeaderLocal].Add(1)
	}
	return true, nil
}

// set takes the address of the header, and where it names none that of the balancer, which speaks for itself.
func (o *origin) set(c gnet.Conn, from netip.AddrPort) {
	o.addr = c.RemoteAddr()
	if from.IsValid() {
		o.addr = net.TCPAddrFromAddrPort(from)
	}
}

// Header is what became of the header of a connection.
type Header uint8

// The headers.
const (
	HeaderOK        Header = iota
	HeaderLocal            // the balancer speaks for itself
	HeaderMissing          // the first bytes were none
	HeaderMalformed        //
	HeaderTooLong          //
	HeaderKinds            // how many kinds there are
)

var headerNames = [HeaderKinds]string{"ok", "local", "missing", "malformed", "too_long"}

// String is the name in metrics.
func (h Header) String() string { return headerNames[h] }

type headerCounts [HeaderKinds]atomic.Int64

func (c *headerCounts) add(err error) {
	kind := HeaderMalformed
	switch {
	case errors.Is(err, proxy.ErrMissing):
		kind = HeaderMissing
	case errors.Is(err, proxy.ErrTooLong):
		kind = HeaderTooLong
	}
	c[kind].Add(1)
}

// Headers is how many headers of a kind there were.
func (e *Engine) Headers(kind Header) int64 { return e.headers[kind].Load() }

// passedOn reports that c comes from a balancer that says whose connection it is.
func (e *Engine) passedOn(c gnet.Conn) bool {
	if len(e.cfg.Proxies) == 0 {
		return false
	}
	from, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && e.cfg.Proxies.Contains(from.AddrPort().Addr())
}
