package loop

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/panjf2000/gnet/v2"

	"github.com/halley-im/halley/comet/transport"
)

// events turns gnet's callbacks into the handler's.
type events struct {
	gnet.BuiltinEventEngine
	*Engine

	release func()
}

// OnBoot implements gnet.EventHandler; the first loop's listeners are bound by then.
func (e *events) OnBoot(engine gnet.Engine) gnet.Action {
	e.release()
	e.engine = engine
	e.booted.Store(true)
	close(e.started)
	return gnet.None
}

// OnOpen implements gnet.EventHandler.
func (e *events) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	loop, listener := e.number(c.EventLoop()), e.listener(c)
	if e.cfg.Listeners[listener].TLS != nil {
		return nil, e.openSecured(c, loop, listener)
	}
	if e.passedOn(c) {
		p := &proxied{Conn: c, engine: e.Engine}
		refusal, ok := e.handler.Open(loop, listener, p)
		if !ok {
			return refusal, gnet.Close
		}
		c.SetContext(p)
		return nil, gnet.None
	}
	refusal, ok := e.handler.Open(loop, listener, c)
	if !ok {
		return refusal, gnet.Close
	}
	return nil, gnet.None
}

// openSecured lets a connection over TLS in. One that is refused is told nothing: before the handshake there are no words for it.
func (e *events) openSecured(c gnet.Conn, loop, listener int) gnet.Action {
	s := &secured{gc: c, engine: e.Engine, loop: loop}
	if !e.passedOn(c) {
		s.origin.set(c, netip.AddrPort{})
	}
	s.Accept(e.desk, e.cfg.Listeners[listener].TLS, c, s)
	if _, ok := e.handler.Open(loop, listener, s); !ok {
		return gnet.Close
	}
	c.SetContext(s)
	return gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (e *events) OnTraffic(c gnet.Conn) gnet.Action {
	switch s := c.Context().(type) {
	case *secured:
		s.traffic()
	case *proxied:
		s.traffic()
	default:
		e.handler.Traffic(c)
	}
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (e *events) OnClose(c gnet.Conn, _ error) gnet.Action {
	switch s := c.Context().(type) {
	case nil: // it was refused
	case *secured:
		s.Abandon()
		e.handler.Closed(s, s.why)
	case *proxied:
		e.handler.Closed(s, s.why)
	default:
		e.handler.Closed(c, transport.EndingGone)
	}
	return gnet.None
}

// logger gives gnet's words to slog. What gnet calls an error of a loop is one of the engine, which Run returns; the rest are
// accidents of single sockets.
type logger struct{ log *slog.Logger }

func text(format string, args []any) string {
	return "gnet: " + strings.TrimSpace(fmt.Sprintf(format, args...))
}

// Debugf implements logging.Logger.
func (l logger) Debugf(format string, args ...any) { l.log.Debug(text(format, args)) }

// Infof implements logging.Logger.
func (l logger) Infof(format string, args ...any) { l.log.Debug(text(format, args)) }

// Warnf implements logging.Logger.
func (l logger) Warnf(format string, args ...any) { l.log.Warn(text(format, args)) }

// Errorf implements logging.Logger.
func (l logger) Errorf(format string, args ...any) { l.log.Error(text(format, args)) }

// Fatalf implements logging.Logger; ending the process is not gnet's to decide.
func (l logger) Fatalf(format string, args ...any) { l.log.Error(text(format, args)) }
