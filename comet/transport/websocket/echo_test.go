package websocket_test

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"testing"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/loop"
	"github.com/halley-im/halley/comet/transport/websocket"
	"github.com/halley-im/halley/pkg/link"
)

// -autobahn 127.0.0.1:9001 turns TestAutobahn into an echo server for an outside judge, until it is interrupted: make autobahn.
var autobahn = flag.String("autobahn", "", "serve echoes at this address")

func TestAutobahn(t *testing.T) {
	if *autobahn == "" {
		t.Skip("an echo server for make autobahn")
	}
	h := &echo{proto: websocket.New(websocket.Config{
		FrameBytes: 16 << 20, Paths: []string{"/"}, Subprotocols: map[string]link.Codec{"": websocket.CodecAny},
	})}
	e := loop.New(loop.Config{Loops: 1, ReadBytes: 64 << 10, Listeners: []loop.Listener{{Address: *autobahn}}}, h, slog.Default())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	go func() {
		<-ctx.Done()
		e.Stop()
	}()
	if err := e.Run(); err != nil {
		t.Fatal(err)
	}
}

// echo sends every message back.
type echo struct {
	proto *websocket.Protocol
	out   []byte
}

type echoConn struct {
	state transport.State
	need  int
	ended bool
}

// Open implements transport.Handler.
func (*echo) Open(_, _ int, c transport.Conn) ([]byte, bool) {
	c.SetContext(new(echoConn))
	return nil, true
}

// Closed implements transport.Handler.
func (*echo) Closed(transport.Conn, transport.Ending) {}

// Located implements transport.Handler.
func (*echo) Located(transport.Conn) ([]byte, bool) { return nil, true }

// Traffic implements transport.Handler.
func (e *echo) Traffic(c transport.Conn) {
	s := c.Context().(*echoConn)
	if c.InboundBuffered() < s.need || c.InboundBuffered() == 0 {
		return
	}
	in, err := c.Peek(-1)
	if err != nil {
		return
	}
	taken := e.frames(s, in)
	if len(e.out) > 0 {
		_, _ = c.Write(e.out)
		e.out = e.out[:0]
	}
	if taken > 0 && c.Context() != nil {
		_, _ = c.Discard(taken)
	}
	if s.ended && c.Context() != nil {
		loop.CloseWrite(c)
	}
}

func (e *echo) frames(s *echoConn, in []byte) (taken int) {
	s.need = 0
	for !s.ended {
		r := e.proto.Next(&s.state, in[taken:], &e.out)
		taken += r.Taken
		switch {
		case r.Fail != 0:
			e.out = e.proto.AppendClose(e.out, &s.state, r.Fail)
			s.ended = true
		case r.Event == transport.EventFrame:
			e.out = e.proto.AppendFrame(e.out, &s.state, r.Frame)
		case r.Event == transport.EventClose, r.Event == transport.EventRefused:
			s.ended = true
		case r.Event == transport.EventNone && r.Need > 0:
			s.need = r.Need
			return taken
		}
	}
	return len(in)
}
