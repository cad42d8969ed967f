package comet

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/certs"
	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// heapPerSecured is the budget of an idle authenticated session over TLS: 4.9 KB are used, the most that it may ever be is 12.
const heapPerSecured = 6 << 10

// Whatever a device has sent before, at rest its session holds no buffer of it.
func TestIdleSessionsOverTLSFitTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of sockets")
	}
	const sessions = 1000
	authority := certstest.NewAuthority(t)
	cfg := Default()
	cfg.TCPAddress, cfg.WebSocketAddress, cfg.TLSAddress = "", "", "127.0.0.1:0"
	cfg.TLS.CertFile, cfg.TLS.KeyFile = authority.Issue(t, time.Now().Add(time.Hour), "localhost").Write(t, t.TempDir())
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	source, err := certs.Open(cfg.TLS, log)
	if err != nil {
		t.Fatal(err)
	}
	router := new(nullRouter)
	c, err := New(cfg, Deps{
		Node: "comet-1", Router: router, Presence: new(forgetful), Auth: trusting{}, TLS: source.TLS(),
		Log: log, Metrics: prometheus.NewRegistry(), Kick: func(string, *link.Batch) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	router.node = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Started()
	addr := c.Addr("tls").(*net.TCPAddr)
	device := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}

	for _, large := range []int{0, 15 << 10} {
		connectTLS(t, addr, device, 0, large)
		before := observetest.Heap()
		for i := range sessions {
			connectTLS(t, addr, device, i+1, large)
		}
		per := float64(observetest.Heap()-before) / sessions
		t.Logf("frames of %d bytes: %.0f bytes of heap per idle session over TLS", large, per)
		if per > heapPerSecured {
			t.Errorf("a session takes %.0f bytes of heap, the budget is %d", per, heapPerSecured)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// connectTLS opens a session and forgets the device's end, of which only the descriptor stays.
func connectTLS(t *testing.T, addr *net.TCPAddr, cfg *tls.Config, i, large int) {
	t.Helper()
	raw, err := net.DialTCP("tcp", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	f, err := raw.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	conn := tls.Client(raw, cfg)
	body, err := (&envelopev1.Connect{Token: fmt.Sprintf("user-%08d", i), Client: string(make([]byte, large))}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	frame, err := (&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 1, Body: body}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 512)
	if n, err := conn.Read(answer); err != nil || n < 10 {
		t.Fatalf("no hello: %d %v", n, err)
	}
	_ = raw.Close() // not its descriptor, which f has; without the goodbye of TLS

}
