// Package transporttest is the suite that every transport passes: what a device may do to a connection, and what must hold
// then. It runs a whole comet, because what matters is what becomes of the session. It never runs outside tests.
package transporttest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Run runs the suite against a transport.
func Run(t *testing.T, w comettest.Wire) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, comettest.Wire)
	}{
		{"a byte at a time", byteAtATime},
		{"many frames in one write", coalesced},
		{"random pieces", pieces},
		{"the largest frame passes, a larger one closes", oversize},
		{"a slow reader is closed and a fast one is not slowed", slowReader},
		{"a half-open connection is reaped", halfOpen},
		{"a connection that says nothing is closed", saysNothing},
		{"a reset leaves nothing behind", reset},
		{"garbage closes the connection, and only that", garbage},
		{"the close arrives although the device's bytes lie unread", closeArrives},
		{"nothing leaks", leak},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, w) })
	}
}

func body(w comettest.Wire, n int) []byte {
	pad := make([]byte, n)
	for i := range pad {
		pad[i] = 'a' + byte(i%26)
	}
	if w.Codec == link.CodecJSON {
		return fmt.Appendf(nil, `{"text":"%s"}`, pad[:max(n-11, 0)])
	}
	return pad
}

func request(w comettest.Wire, id uint64, n int) *envelopev1.Frame {
	return &envelopev1.Frame{Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: id, Conversation: "g:x", Body: body(w, n)}
}

func byteAtATime(t *testing.T, w comettest.Wire) {
	n := comettest.Start(t, comettest.Config())
	open := w.Open
	w.Open = func(conn net.Conn, _ *bufio.Reader) error { return nil }
	c := n.Dial(t, w)
	slow := oneByOne{c.Conn}
	if err := c.Reopen(slow, open); err != nil {
		t.Fatal(err)
	}
	c.Conn = slow
	if c.Hello("main/alice/phone") == nil {
		t.Fatal("no hello")
	}
	c.Send(request(w, 5, 300))
	if f := c.Recv(); f.RequestId != 5 || len(f.Body) < 290 {
		t.Fatalf("answer: %v", f)
	}
}

// oneByOne writes every byte on its own.
type oneByOne struct{ net.Conn }

// Write implements net.Conn.
func (o oneByOne) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := o.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func coalesced(t *testing.T, w comettest.Wire) {
	n := comettest.Start(t, comettest.Config())
	c := n.Connect(t, w, "main/alice/phone")
	var all []byte
	for id := range uint64(100) {
		all = append(all, c.Bytes(request(w, id+1, 100))...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	for id := range uint64(100) {
		if f := c.Recv(); f.RequestId != id+1 || f.Error != nil {
			t.Fatalf("answer %d is %v", id+1, f)
		}
	}
}

func pieces(t *testing.T, w comettest.Wire) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	cfg := comettest.Config()
	cfg.FramesPerSecond = 0
	n := comettest.Start(t, cfg)
	c := n.Connect(t, w, "main/alice/phone")
	var all []byte
	const count = 60
	for id := range uint64(count) {
		all = append(all, c.Bytes(request(w, id+1, r.IntN(9000)))...)
	}
	go func() {
		for len(all) > 0 {
			k := min(len(all), 1+r.IntN(4000))
			if _, err := c.Write(all[:k]); err != nil {
				return // the reader reports it
			}
			all = all[k:]
		}
	}()
	for id := range uint64(count) {
		if f := c.Recv(); f.RequestId != id+1 || f.Error != nil {
			t.Fatalf("answer %d is %v", id+1, f)
		}
	}
}

func oversize(t *testing.T, w comettest.Wire) {
	cfg := comettest.Config()
	n := comettest.Start(t, cfg)
	c := n.Connect(t, w, "main/alice/phone")
	c.Send(request(w, 2, cfg.BodyBytes))
	if f := c.Recv(); f.Error != nil || len(f.Body) != cfg.BodyBytes {
		t.Fatalf("largest body: %v", f.Error)
	}
	c.Send(request(w, 3, cfg.BodyBytes+1))
	if f := c.Recv(); f.Error == nil || f.Error.Code != string(protocol.CodeTooLarge) {
		t.Fatalf("body beyond the limit: %v", f.Error)
	}
	if _, err := c.Write(c.Header(cfg.FrameBytes + 1)); err != nil {
		t.Fatal(err)
	}
	if closing := c.Closed(); closing.Code != uint32(protocol.CloseTooLarge) {
		t.Fatalf("closed with %v", closing)
	}
	gone(t, n)
}

func slowReader(t *testing.T, w comettest.Wire) {
	cfg := comettest.Config()
	cfg.FramesPerSecond = 0
	cfg.LingerMs = 100
	cfg.PendingBytes = 1 << 30
	n := comettest.Start(t, cfg)
	slow, fast := n.Connect(t, w, "main/slow/phone"), n.Connect(t, w, "main/fast/phone")
	_ = slow.Socket().SetReadBuffer(4096)
	entry, _ := n.Presence.Entry("main", "slow", "phone")
	frame := push(w, 30_000)
	comettest.Eventually(t, "the slow session is closed", func() bool {
		b := &link.Batch{Deliveries: []link.Delivery{{Conn: entry.Conn, Frame: frame}}}
		n.Deliver(b)
		fast.Ping()
		return n.Metric(t, "halley_comet_disconnects_total", "code=slow_reader") == 1
	})
	if got := n.Metric(t, "halley_comet_slow_sessions_total"); got != 1 {
		t.Errorf("slow sessions: %v", got)
	}
	comettest.Eventually(t, "the log names the cause", func() bool { return n.Lines.Have("level=WARN", "slow readers", "sessions=1") })
	comettest.Eventually(t, "the slow connection is gone", func() bool {
		return n.Metric(t, "halley_comet_connections") == 1
	})
	fast.Ping()
	comettest.Eventually(t, "nothing waits any more", func() bool {
		return n.Metric(t, "halley_comet_outbox_bytes") == 0
	})
}

func push(w comettest.Wire, n int) []byte {
	f := &envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Body: body(w, n)}
	data, err := protocol.EncodeFrame(w.Codec == link.CodecJSON, f)
	if err != nil {
		panic(err)
	}
	return data
}

func halfOpen(t *testing.T, w comettest.Wire) {
	cfg := comettest.Config()
	cfg.HeartbeatMs, cfg.LingerMs = 400, 200
	n := comettest.Start(t, cfg)
	mute, lively := n.Connect(t, w, "main/mute/phone"), n.Connect(t, w, "main/lively/phone")
	comettest.Eventually(t, "the mute session is closed", func() bool {
		lively.Ping()
		return n.Metric(t, "halley_comet_disconnects_total", "code=heartbeat_timeout") == 1
	})
	lively.Ping()
	// The device that does not answer the FIN either is let go of after the linger time.
	comettest.Eventually(t, "its connection is gone", func() bool {
		lively.Ping()
		return n.Metric(t, "halley_comet_connections") == 1
	})
	if closing := mute.Closed(); closing.Code != uint32(protocol.CloseHeartbeat) {
		t.Errorf("closed with %v", closing)
	}
}

func saysNothing(t *testing.T, w comettest.Wire) {
	cfg := comettest.Config()
	cfg.HelloTimeoutMs = 300
	n := comettest.Start(t, cfg)
	opened := n.Dial(t, w)
	if closing := opened.Closed(); closing.Code != uint32(protocol.CloseHelloTimeout) {
		t.Errorf("closed with %v", closing)
	}
	w.Open = func(net.Conn, *bufio.Reader) error { return nil }
	n.Dial(t, w)
	comettest.Eventually(t, "the connection without an opening is closed too", func() bool {
		return n.Metric(t, "halley_comet_disconnects_total", "code=hello_timeout") == 2
	})
}

func reset(t *testing.T, w comettest.Wire) {
	n := comettest.Start(t, comettest.Config())
	for i := range 20 {
		c := n.Connect(t, w, fmt.Sprintf("main/user%d/phone", i))
		if i%2 == 0 { // in the middle of a frame
			data := c.Bytes(request(w, 9, 500))
			if _, err := c.Write(data[:len(data)/2]); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.Socket().SetLinger(0)
		_ = c.Close()
	}
	gone(t, n)
	if got := n.Metric(t, "halley_comet_disconnects_total", "code=gone"); got != 20 {
		t.Errorf("gone: %v", got)
	}
}

func garbage(t *testing.T, w comettest.Wire) {
	n := comettest.Start(t, comettest.Config())
	bystander := n.Connect(t, w, "main/alice/phone")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		junk := make([]byte, 1+r.IntN(3000))
		for i := range junk {
			junk[i] = byte(r.Uint32())
		}
		for _, opening := range []bool{false, true} {
			wire := w
			if !opening {
				wire.Open = func(net.Conn, *bufio.Reader) error { return nil }
			}
			c := n.Dial(t, wire)
			_, _ = c.Write(junk) // the server may close while it is written
			_ = c.Close()
		}
		c := n.Dial(t, w)
		_, _ = c.Write(c.Encode(junk))
		for {
			if _, err := c.ReadFrame(); err != nil {
				break
			}
		}
		_ = c.Close()
	}
	bystander.Ping()
	_ = bystander.Close()
	gone(t, n)
}

func closeArrives(t *testing.T, w comettest.Wire) {
	n := comettest.Start(t, comettest.Config())
	c := n.Dial(t, w)
	c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 1, Body: c.Body(&envelopev1.Connect{Token: "bad"})})
	for id := range uint64(40) { // more than is taken before Hello
		_, _ = c.Write(c.Bytes(request(w, id+2, 5000))) // the server may have gone
	}
	if closing := c.Closed(); closing.Code != uint32(protocol.CloseUnauthorized) && closing.Code != uint32(protocol.CloseProtocol) {
		t.Errorf("closed with %v", closing)
	}
}

func leak(t *testing.T, w comettest.Wire) {
	n := comettest.Start(t, comettest.Config())
	if err := n.Connect(t, w, "main/warm/phone").Close(); err != nil {
		t.Error(err)
	}
	gone(t, n)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	for round := range 5 {
		clients := make([]*comettest.Client, 40)
		for i := range clients {
			clients[i] = n.Connect(t, w, fmt.Sprintf("main/user%d/r%d", i, round))
		}
		for i, c := range clients {
			if i%2 == 0 {
				c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CLOSE})
			}
			_ = c.Close()
		}
	}
	gone(t, n)
	comettest.Eventually(t, "goroutines and descriptors are as before", func() bool {
		return runtime.NumGoroutine() <= goroutines && descriptors(t) <= files
	})
}

// gone waits until no session is left, here and in presence.
func gone(t *testing.T, n *comettest.Node) {
	t.Helper()
	comettest.Eventually(t, "no session is left", func() bool {
		return n.Metric(t, "halley_comet_connections") == 0 && n.Presence.Len() == 0
	})
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	return len(entries)
}
