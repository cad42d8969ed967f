package comet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// These measure what a frame costs above the engine: no socket, no other goroutine.

// fakeConn is a connection whose bytes are in memory.
type fakeConn struct {
	in      []byte
	written int
	context any
}

func (c *fakeConn) Peek(int) ([]byte, error)    { return c.in, nil }
func (c *fakeConn) Discard(n int) (int, error)  { c.in = c.in[n:]; return n, nil }
func (c *fakeConn) InboundBuffered() int        { return len(c.in) }
func (c *fakeConn) Write(p []byte) (int, error) { c.written += len(p); return len(p), nil }
func (c *fakeConn) OutboundBuffered() int       { return 0 }
func (c *fakeConn) RemoteAddr() net.Addr        { return nil }
func (c *fakeConn) Context() any                { return c.context }
func (c *fakeConn) SetContext(ctx any)          { c.context = ctx }

type nullRouter struct {
	routed int
	node   *Comet // answers attaches, if set
}

func (*nullRouter) Partitions() int { return 16 }
func (r *nullRouter) Route(_ int, q link.Request) *protocol.Error {
	if q.Command != protocol.CommandAttach {
		r.routed++
		return nil
	}
	frame, err := (&envelopev1.Frame{Command: q.Command, RequestId: q.RequestID}).MarshalVT()
	if err != nil {
		panic(err)
	}
	if r.node == nil {
		return nil
	}
	r.node.Deliver(&link.Batch{Deliveries: []link.Delivery{{Conn: q.Conn, Frame: frame}}})
	return nil
}

type nullPresence struct{ presence.Registry }

type nullAuth struct{}

func (nullAuth) Verify(string) (Identity, *protocol.Error) { return Identity{}, nil }

// idle makes a comet that does not run, with live sessions on its first loop.
func idle(tb testing.TB, sessions int, transportName string) (*Comet, *nullRouter, []*fakeConn) {
	tb.Helper()
	cfg := Default()
	cfg.FramesPerSecond, cfg.Loops = 0, 1
	router := new(nullRouter)
	c, err := New(cfg, Deps{
		Node: "comet-1", Router: router, Presence: nullPresence{}, Auth: nullAuth{},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(), Kick: func(string, *link.Batch) {},
	})
	if err != nil {
		tb.Fatal(err)
	}
	conns := make([]*fakeConn, sessions)
	for i := range conns {
		conns[i] = new(fakeConn)
		listener := 0
		for c.transports[listener].Name != transportName {
			listener++
		}
		if _, ok := c.Open(0, listener, conns[i]); !ok {
			tb.Fatal("not let in")
		}
		s := conns[i].context.(*session)
		s.state.Open, s.state.Codec, s.phase = true, link.CodecProto, phaseLive
		s.name(c.loops[0].intern("main"), fmt.Sprintf("user%d", i), "phone")
	}
	return c, router, conns
}

// message is what a device sends: 100 bytes of body, an id, a 1:1 conversation.
func message(tb testing.TB, transportName string) []byte {
	f := &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: 12345, Conversation: "d:user0:user1",
		ClientId: "0192f3a4-7b1c-7def-8a3b-1c2d3e4f5a6b", Since: 99, Body: make([]byte, 100),
	}
	data, err := f.MarshalVT()
	if err != nil {
		tb.Fatal(err)
	}
	if transportName == "tcp" {
		return append([]byte{0, 0, byte(len(data) >> 8), byte(len(data))}, data...)
	}
	mask := [4]byte{1, 2, 3, 4}
	wire := append([]byte{0x82, 0x80 | 126, byte(len(data) >> 8), byte(len(data))}, mask[:]...)
	for i, b := range data {
		wire = append(wire, b^mask[i%4])
	}
	return wire
}

func receiver(tb testing.TB, transportName string) func() {
	c, router, conns := idle(tb, 1, transportName)
	wire := message(tb, transportName)
	in := make([]byte, len(wire))
	return func() {
		copy(in, wire) // the mask is taken off in place
		before := router.routed
		conns[0].in = in
		c.Traffic(conns[0])
		if router.routed != before+1 {
			tb.Fatal("not routed")
		}
	}
}

func BenchmarkReceive(b *testing.B) {
	for _, name := range []string{"tcp", "websocket"} {
		b.Run(name, func(b *testing.B) {
			receive := receiver(b, name)
			b.ReportAllocs()
			for b.Loop() {
				receive()
			}
		})
	}
}

// deliverer delivers bursts: perSession different frames for each session, or one frame for all.
func deliverer(tb testing.TB, sessions, perSession int, shared bool) func() {
	c, _, conns := idle(tb, sessions, "websocket")
	l := c.loops[0]
	l.woken = true // nobody runs the loop but this
	frame := make([]byte, 180)
	var b link.Batch
	for range perSession {
		for _, conn := range conns {
			if !shared {
				frame = make([]byte, 180)
			}
			b.Deliveries = append(b.Deliveries, link.Delivery{Conn: conn.context.(*session).id(), Frame: frame})
		}
	}
	return func() {
		before := l.stats.framesSent.n.Load()
		c.Deliver(&b)
		if err := l.Run(context.Background()); err != nil {
			tb.Fatal(err)
		}
		l.woken = true
		if sent := l.stats.framesSent.n.Load() - before; sent != int64(len(b.Deliveries)) {
			tb.Fatalf("%d of %d frames sent", sent, len(b.Deliveries))
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	for _, c := range []struct {
		name                 string
		sessions, perSession int
		shared               bool
	}{{"one frame each to 100", 100, 1, false}, {"8 frames each to 100", 100, 8, false}, {"one frame to 1000", 1000, 1, true}} {
		b.Run(c.name, func(b *testing.B) {
			deliver := deliverer(b, c.sessions, c.perSession, c.shared)
			b.ReportAllocs()
			for b.Loop() {
				deliver()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*c.sessions*c.perSession), "ns/frame")
		})
	}
}

// TestAllocations is the gate: one allocation per request, which is its copy, and none per delivery.
func TestAllocations(t *testing.T) {
	for _, name := range []string{"tcp", "websocket"} {
		if got := testing.AllocsPerRun(1000, receiver(t, name)); got > 1 {
			t.Errorf("receive over %s: %v allocations, want 1", name, got)
		}
	}
	deliver := deliverer(t, 100, 8, false)
	if got := testing.AllocsPerRun(100, deliver); got > 0 {
		t.Errorf("deliver: %v allocations per burst of 800, want 0", got)
	}
}

var _ transport.Conn = (*fakeConn)(nil)
