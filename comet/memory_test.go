package comet

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// forgetful takes every registration and keeps none, so that only the comet's own memory is seen.
type forgetful struct {
	presence.Registry
	generation uint64
}

// Register implements presence.Registry.
func (f *forgetful) Register(_ context.Context, regs []presence.Registration) error {
	for i := range regs {
		f.generation++
		regs[i].Entry.Generation = f.generation
	}
	return nil
}

// Unregister implements presence.Registry.
func (*forgetful) Unregister(context.Context, []presence.Registration) error { return nil }

// Acquire implements presence.Leases.
func (*forgetful) Acquire(context.Context, string) (uint64, error) { return 1, nil }

// Renew implements presence.Leases.
func (*forgetful) Renew(context.Context, string, uint64) error { return nil }

// Release implements presence.Leases.
func (*forgetful) Release(context.Context, string, uint64) error { return nil }

// Incarnation implements presence.Leases.
func (*forgetful) Incarnation(context.Context) (string, error) { return "", nil }

type trusting struct{}

// Verify takes "user" for a token.
func (trusting) Verify(token string) (Identity, *protocol.Error) {
	return Identity{App: "main", User: strings.Clone(token), Device: "phone-0001"}, nil
}

// heapPerSession is the budget of an idle authenticated session: ours and gnet's. gnet alone takes about 590 bytes.
const heapPerSession = 900

func TestIdleSessionsFitTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of sockets")
	}
	const sessions = 4000
	cfg := Default()
	cfg.TCPAddress, cfg.WebSocketAddress = "127.0.0.1:0", ""
	router := new(nullRouter)
	c, err := New(cfg, Deps{
		Node: "comet-1", Router: router, Presence: new(forgetful), Auth: trusting{},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(), Kick: func(string, *link.Batch) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	router.node = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Started()
	addr := c.Addr("tcp").(*net.TCPAddr)

	first := connectRaw(t, addr, 0) // what the node needs once
	fds := []int{first}
	before := observetest.Heap()
	start := time.Now()
	for i := range sessions {
		fds = append(fds, connectRaw(t, addr, i+1))
	}
	took := time.Since(start)
	after := observetest.Heap()
	per := float64(after-before) / sessions
	t.Logf("%.0f bytes of heap per session; %.0f µs of wall time per connect, both ends", per, float64(took.Microseconds())/sessions)
	if per > heapPerSession {
		t.Errorf("a session takes %.0f bytes of heap, the budget is %d", per, heapPerSession)
	}
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// connectRaw opens a session from a bare descriptor, which costs this process no heap.
func connectRaw(t *testing.T, addr *net.TCPAddr, i int) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	to := &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}}
	if err := syscall.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	body, err := (&envelopev1.Connect{Token: fmt.Sprintf("user-%08d", i)}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	frame, err := (&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 1, Body: body}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Write(fd, append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 512)
	if n, err := syscall.Read(fd, answer); err != nil || n < 10 {
		t.Fatalf("no hello: %d %v", n, err)
	}
	return fd
}
