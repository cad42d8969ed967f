package comet_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// handshakes is how many ended so.
func handshakes(t *testing.T, n *comettest.Node, result string) float64 {
	t.Helper()
	return n.Metric(t, "halley_comet_tls_handshakes_total", "result="+result)
}

func TestWhoIsNotLetInCostsNoHandshake(t *testing.T) {
	for _, c := range []struct {
		name, result string
		limit        func(cfg *comet.Config)
	}{
		{"beyond the connections", "overloaded", func(cfg *comet.Config) { cfg.MaxConnections = 1 }},
		{"beyond those of an address", "address", func(cfg *comet.Config) { cfg.ConnectionsPerAddress = 1 }},
		{"beyond the rate", "accept_rate", func(cfg *comet.Config) { cfg.AcceptRate, cfg.AcceptBurst = 1, 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := comettest.Config()
			c.limit(&cfg)
			n := comettest.Start(t, cfg)
			wire := comettest.Secure(comettest.TCP())
			in := n.Connect(t, wire, "main/alice/phone")
			for range 5 {
				if _, err := n.TryDial(t, wire); err == nil {
					t.Fatal("let in")
				}
			}
			in.Ping()
			if got := n.Metric(t, "halley_comet_accepts_total", "result="+c.result); got < 4 {
				t.Errorf("%v refused as %s", got, c.result)
			}
			if all := n.Metric(t, "halley_comet_tls_handshakes_total"); all > 2 {
				t.Errorf("%v handshakes for one who was let in", all)
			}
		})
	}
}

func TestAHandshakeThatDoesNotComeIsEnded(t *testing.T) {
	cfg := comettest.Config()
	cfg.HelloTimeoutMs, cfg.HandshakeTimeoutMs, cfg.LingerMs = 1500, 300, 100
	n := comettest.Start(t, cfg)
	lively := n.Connect(t, comettest.Secure(comettest.TCP()), "main/alice/phone")
	dial := func() *net.TCPConn {
		conn, err := net.DialTCP("tcp", nil, n.Addr("tls").(*net.TCPAddr))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	plain := dial()
	if _, err := plain.Write([]byte("GET /v1/connect HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if data, _ := io.ReadAll(plain); len(data) > 0 {
		t.Errorf("plain HTTP is answered with %q", data)
	}
	if got := handshakes(t, n, "not_tls"); got != 1 {
		t.Errorf("not TLS: %v", got)
	}
	drip := dial() // a hello that never becomes whole
	if _, err := drip.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil {
		t.Fatal(err)
	}
	silent := dial()
	mute := dial() // a hello, and nothing after the server's answer
	if _, err := mute.Write(firstRecord(t)); err != nil {
		t.Fatal(err)
	}
	comettest.Eventually(t, "the handshake that goes on too long is ended", func() bool {
		lively.Ping()
		return handshakes(t, n, "timeout") == 1
	})
	comettest.Eventually(t, "two were closed for their handshake", func() bool {
		return n.Metric(t, "halley_comet_disconnects_total", "code=tls_handshake") == 2
	})
	comettest.Eventually(t, "so are those that do not begin", func() bool {
		lively.Ping()
		return n.Metric(t, "halley_comet_disconnects_total", "code=hello_timeout") == 2
	})
	for _, conn := range []net.Conn{drip, silent} {
		if data, err := io.ReadAll(conn); len(data) > 0 || err != nil {
			t.Errorf("told %q, %v", data, err)
		}
	}
	comettest.Eventually(t, "one connection is left", func() bool { return n.Metric(t, "halley_comet_connections") == 1 })
}

// firstRecord is a client's hello.
func firstRecord(t *testing.T) []byte {
	t.Helper()
	here, there := net.Pipe()
	go func() { _ = tls.Client(there, &tls.Config{ServerName: "localhost"}).Handshake() }()
	defer here.Close()
	buf := make([]byte, 16<<10)
	n, err := here.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestHandshakesWaitForTheirTurnAndAllAreLetIn(t *testing.T) {
	cfg := comettest.Config()
	cfg.Handshakes = 2
	n := comettest.Start(t, cfg)
	const devices = 40
	failed := make(chan error, devices)
	for range devices {
		go func() {
			conn, err := tls.Dial("tcp", n.Addr("tls").String(), comettest.Secure(comettest.TCP()).TLS(t))
			if err == nil {
				err = conn.Close()
			}
			failed <- err
		}()
	}
	for range devices {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	comettest.Eventually(t, "none is under way", func() bool {
		return n.Metric(t, "halley_comet_tls_handshakes_under_way") == 0 && n.Metric(t, "halley_comet_connections") == 0
	})
}

// recordCounter counts the records with data that a device reads.
type recordCounter struct {
	net.Conn
	buf     []byte
	records atomic.Int64
}

// Read implements net.Conn.
func (r *recordCounter) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.buf = append(r.buf, p[:n]...)
	for len(r.buf) >= 5 {
		length := 5 + int(r.buf[3])<<8 + int(r.buf[4])
		if len(r.buf) < length {
			break
		}
		if r.buf[0] == 23 {
			r.records.Add(1)
		}
		r.buf = r.buf[length:]
	}
	return n, err
}

func TestFramesThatLeaveTogetherAreOneRecord(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	wire := comettest.Secure(comettest.TCP())
	raw, err := net.Dial("tcp", n.Addr("tls").String())
	if err != nil {
		t.Fatal(err)
	}
	counter := &recordCounter{Conn: raw}
	conn := tls.Client(counter, wire.TLS(t))
	defer conn.Close()
	c := comettest.Adopt(t, wire, conn)
	if c.Hello("main/alice/phone") == nil {
		t.Fatal("no hello")
	}
	c.Ping()
	before := counter.records.Load()
	entry, _ := n.Presence.Entry("main", "alice", "phone")
	var b link.Batch
	const frames = 20
	for i := range frames {
		frame, err := protocol.EncodeFrame(false, &envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Body: bytes.Repeat([]byte{byte(i)}, 300)})
		if err != nil {
			t.Fatal(err)
		}
		b.Deliveries = append(b.Deliveries, link.Delivery{Conn: entry.Conn, Frame: frame})
	}
	n.Deliver(&b)
	for i := range frames {
		if f := c.Recv(); len(f.Body) != 300 || f.Body[0] != byte(i) {
			t.Fatalf("frame %d is %v", i, f)
		}
	}
	if got := counter.records.Load() - before; got != 1 {
		t.Errorf("%d frames of one burst came in %d records", frames, got)
	}
}

func TestANewCertificateIsShownAndSessionsStay(t *testing.T) {
	authority := certstest.NewAuthority(t)
	dir := t.TempDir()
	cfg := comettest.Config()
	cfg.TLS.CertFile, cfg.TLS.KeyFile = authority.Issue(t, time.Now().Add(time.Hour), "before.test").Write(t, dir)
	n := comettest.Start(t, cfg)
	as := func(name string) comettest.Wire {
		w := comettest.Secure(comettest.WebSocket(link.CodecProto))
		w.TLS = func(testing.TB) *tls.Config { return &tls.Config{RootCAs: authority.Pool(), ServerName: name} }
		return w
	}
	old := n.Connect(t, as("before.test"), "main/alice/phone")
	authority.Issue(t, time.Now().Add(time.Hour), "after.test").Write(t, dir)
	n.Certs.Reload()
	if _, err := n.TryDial(t, as("before.test")); err == nil {
		t.Error("the old certificate is shown")
	}
	n.Connect(t, as("after.test"), "main/bob/phone").Ping()
	old.Ping()
}

func TestOnlyDevicesWithACertificateGetIn(t *testing.T) {
	authority, stranger := certstest.NewAuthority(t), certstest.NewAuthority(t)
	dir := t.TempDir()
	cfg := comettest.Config()
	cfg.TLS.CertFile, cfg.TLS.KeyFile = authority.Issue(t, time.Now().Add(time.Hour), "localhost").Write(t, dir)
	cfg.TLS.ClientCAFile = authority.Write(t, dir)
	n := comettest.Start(t, cfg)
	with := func(pairs ...certstest.Pair) comettest.Wire {
		w := comettest.Secure(comettest.TCP())
		w.TLS = func(testing.TB) *tls.Config {
			c := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
			for _, p := range pairs {
				pair, err := tls.X509KeyPair(p.Cert, p.Key)
				if err != nil {
					t.Fatal(err)
				}
				c.Certificates = append(c.Certificates, pair)
			}
			return c
		}
		return w
	}
	n.Connect(t, with(authority.Issue(t, time.Now().Add(time.Hour), "device")), "main/alice/phone").Ping()
	for name, w := range map[string]comettest.Wire{
		"no certificate": with(), "a stranger's": with(stranger.Issue(t, time.Now().Add(time.Hour), "device")),
		"one that has ended": with(authority.Issue(t, time.Now().Add(-time.Minute), "device")),
	} {
		c, err := n.TryDial(t, w)
		if err == nil { // In TLS 1.3 the client learns of it with its first read.
			_, err = c.ReadFrame()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	comettest.Eventually(t, "one connection is left", func() bool { return n.Metric(t, "halley_comet_connections") == 1 })
	if got := handshakes(t, n, "failed"); got != 3 {
		t.Errorf("failed: %v", got)
	}
}
