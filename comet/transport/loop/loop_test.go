package loop_test

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/loop"
)

// echo sends back what comes, and refuses whoever comes to the second listener.
type echo struct {
	loops  [8]atomic.Int64
	closed atomic.Int64
}

// Open implements transport.Handler.
func (e *echo) Open(loopIndex, listener int, c transport.Conn) ([]byte, bool) {
	if listener == 1 {
		return []byte("no"), false
	}
	e.loops[loopIndex].Add(1)
	c.SetContext(e)
	return nil, true
}

// Located implements transport.Handler.
func (*echo) Located(transport.Conn) ([]byte, bool) { return nil, true }

// Traffic implements transport.Handler.
func (e *echo) Traffic(c transport.Conn) {
	in, err := c.Peek(-1)
	if err == nil {
		_, _ = c.Write(in)
		_, _ = c.Discard(len(in))
	}
}

// Closed implements transport.Handler.
func (e *echo) Closed(transport.Conn, transport.Ending) { e.closed.Add(1) }

func start(t *testing.T, cfg loop.Config, h transport.Handler) *loop.Engine {
	t.Helper()
	e := loop.New(cfg, h, slog.New(slog.NewTextHandler(io.Discard, nil)))
	done := make(chan error, 1)
	go func() { done <- e.Run() }()
	select {
	case <-e.Started():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

func config(loops int, addresses ...string) loop.Config {
	cfg := loop.Config{Loops: loops, ReadBytes: 64 << 10}
	for _, a := range addresses {
		cfg.Listeners = append(cfg.Listeners, loop.Listener{Address: a})
	}
	return cfg
}

func roundTrip(t *testing.T, addr net.Addr, say string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = c.Write([]byte(say)) // it may be refused before
	answer := make([]byte, 16)
	n, err := c.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer[:n])
}

func TestSeveralListenersAndLoopsOnOneEngine(t *testing.T) {
	h := new(echo)
	e := start(t, config(3, "127.0.0.1:0", "127.0.0.1:0"), h)
	const clients = 60
	for range clients {
		if got := roundTrip(t, e.Addr(0), "hello"); got != "hello" {
			t.Fatalf("echoed %q", got)
		}
	}
	comettest.Eventually(t, "every close is seen", func() bool { return h.closed.Load() == clients })
	for i := range 3 {
		if h.loops[i].Load() == 0 {
			t.Errorf("loop %d got none of %d connections", i, clients)
		}
	}
	conn, err := net.Dial("tcp", e.Addr(1).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "no" {
		t.Errorf("the second listener said %q %v", got, err)
	}
}

// flood sends numbers, far more than a socket takes, to whoever says anything.
type flood struct {
	echo
	engine atomic.Pointer[loop.Engine]
	gone   atomic.Bool // a Send failed
}

const (
	floodNumbers = 1 << 20
	floodPiece   = 3000
)

// Traffic implements transport.Handler.
func (f *flood) Traffic(c transport.Conn) {
	var all []byte
	for i := range uint32(floodNumbers) {
		all = binary.BigEndian.AppendUint32(all, i)
	}
	_, _ = c.Discard(c.InboundBuffered())
	for piece := range slices.Chunk(all, floodPiece) {
		if n, err := f.engine.Load().Send(c, piece); err != nil || n != len(piece) {
			f.gone.Store(true)
			return
		}
	}
}

func TestWhatASocketDoesNotTakeFollowsInOrder(t *testing.T) {
	f := new(flood)
	e := start(t, config(1, "127.0.0.1:0"), f)
	f.engine.Store(e)
	conn, err := net.Dial("tcp", e.Addr(0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = conn.Write([]byte("go"))
	all := make([]byte, 4*floodNumbers)
	if _, err := io.ReadFull(conn, all); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(floodNumbers) {
		if got := binary.BigEndian.Uint32(all[4*i:]); got != i {
			t.Fatalf("number %d is %d", i, got)
		}
	}
	if f.gone.Load() {
		t.Error("a Send to a slow reader failed")
	}
	// One that goes in the midst of it ends like any other.
	other, err := net.Dial("tcp", e.Addr(0).String())
	if err != nil {
		t.Fatal(err)
	}
	_ = other.(*net.TCPConn).SetLinger(0)
	_, _ = other.Write([]byte("go"))
	_, _ = other.Read(make([]byte, 100))
	_ = other.Close()
	comettest.Eventually(t, "the close is seen", func() bool { return f.closed.Load() == 1 })
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	first := start(t, config(1, "127.0.0.1:0"), new(echo))
	second := loop.New(config(1, first.Addr(0).String()), new(echo), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err := second.Run(); err == nil {
		t.Fatal("two engines share a port; each would get half of the connections")
	}
	for _, bad := range []string{"nowhere", "127.0.0.1:99999"} {
		if err := loop.New(config(1, bad), new(echo), slog.Default()).Run(); err == nil {
			t.Errorf("listens on %q", bad)
		}
	}
}

type runner struct{ ran chan struct{} }

// Run implements loop.Runner.
func (r runner) Run(context.Context) error {
	r.ran <- struct{}{}
	return nil
}

func TestWakeRunsOnTheLoopUntilStop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent()) // gnet's package starts two of its own
	e := loop.New(config(1, "127.0.0.1:0"), new(echo), slog.New(slog.NewTextHandler(io.Discard, nil)))
	done := make(chan error, 1)
	go func() { done <- e.Run() }()
	<-e.Started()
	r := runner{make(chan struct{}, 1)}
	if e.Wake(0, r) {
		t.Error("a loop that had no connection was woken")
	}
	roundTrip(t, e.Addr(0), "x")
	if !e.Wake(0, r) {
		t.Fatal("not woken")
	}
	<-r.ran
	started := time.Now()
	e.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 300*time.Millisecond {
		t.Errorf("stopping took %v", took)
	}
	if e.Wake(0, r) {
		t.Error("woken after the end")
	}
}
