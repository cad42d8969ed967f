package comet_test

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

func behind(w comettest.Wire, device string) comettest.Wire {
	return comettest.PassedOn(w, netip.MustParseAddrPort(device))
}

func headers(t *testing.T, n *comettest.Node, result string) float64 {
	t.Helper()
	return n.Metric(t, "halley_comet_proxy_headers_total", "result="+result)
}

// The address that the balancer tells is the one that is counted, on every transport, and it is let go of with the connection.
func TestTheAddressOfTheHeaderIsCounted(t *testing.T) {
	for name, w := range comettest.AllWires() {
		t.Run(name, func(t *testing.T) {
			cfg := comettest.Config()
			cfg.ConnectionsPerAddress = 1
			n := comettest.Start(t, cfg)
			alice := n.Connect(t, behind(w, "192.0.2.7:1"), "main/alice/phone")
			n.Connect(t, behind(w, "192.0.2.8:1"), "main/bob/phone").Ping()
			n.Connect(t, behind(w, "[2001:db8::7]:1"), "main/carol/phone").Ping()

			refused, err := n.TryDial(t, behind(w, "192.0.2.7:2"))
			if err == nil && w.Transport == "tcp" {
				if closing := refused.Closed(); closing.Code != uint32(protocol.CloseRateLimited) {
					t.Errorf("closed with %v", closing)
				}
			} else if err == nil || w.Transport == "websocket" && !strings.Contains(err.Error(), "429") {
				t.Errorf("a second connection of an address: %v", err)
			}
			if got := n.Metric(t, "halley_comet_accepts_total", "result=address"); got != 1 {
				t.Errorf("refused for their address: %v", got)
			}
			if got := n.Metric(t, "halley_comet_accepts_total", "result=accepted"); got != 3 {
				t.Errorf("accepted: %v", got)
			}
			alice.Ping()
			_ = alice.Close()
			comettest.Eventually(t, "alice's connection is gone", func() bool { return n.Metric(t, "halley_comet_connections") == 2 })
			n.Connect(t, behind(w, "192.0.2.7:3"), "main/alice/phone").Ping()
		})
	}
}

func TestTheRateIsJudgedOfThoseWhoArePassedOn(t *testing.T) {
	cfg := comettest.Config()
	cfg.AcceptRate, cfg.AcceptBurst = 1, 1
	n := comettest.Start(t, cfg)
	n.Connect(t, behind(comettest.TCP(), "192.0.2.7:1"), "main/alice/phone").Ping()
	var all []*comettest.Client
	for range 20 {
		all = append(all, n.Dial(t, behind(comettest.TCP(), "192.0.2.8:1")))
	}
	comettest.Eventually(t, "most are refused", func() bool {
		return n.Metric(t, "halley_comet_accepts_total", "result=accept_rate") >= 10
	})
	if closing := all[19].Closed(); closing.Code != uint32(protocol.CloseOverloaded) {
		t.Errorf("closed with %v", closing)
	}
	for _, c := range all {
		_ = c.Close()
	}
	comettest.Eventually(t, "they are gone", func() bool { return n.Metric(t, "halley_comet_connections") == 1 })
	if err := n.Ready(); err != nil {
		t.Error(err)
	}
}

func TestHeadersThatCannotBeUnderstoodCloseTheConnection(t *testing.T) {
	cfg := comettest.Config()
	cfg.HelloTimeoutMs, cfg.LingerMs = 1000, 100
	n := comettest.Start(t, cfg)
	for _, transport := range []string{"tcp", "websocket", "tls", "wss"} {
		for _, c := range []struct{ say, result string }{
			{"PROXY TCP4 nowhere 1.2.3.4 1 2\r\n", "malformed"},
			{"GET /v1/connect HTTP/1.1\r\n\r\n", "missing"},
			{"\x16\x03\x01\x02\x00", "missing"},
			{"PROXY TCP4 " + strings.Repeat("1", 200), "too_long"},
		} {
			before := headers(t, n, c.result)
			conn := dialFrom(t, n, transport, comettest.Balancer)
			if _, err := conn.Write([]byte(c.say)); err != nil {
				t.Fatal(err)
			}
			if data, _ := io.ReadAll(conn); len(data) > 0 {
				t.Errorf("%s: %q is answered with %q", transport, c.say, data)
			}
			if got := headers(t, n, c.result) - before; got != 1 {
				t.Errorf("%s: %q counted %v times as %s", transport, c.say, got, c.result)
			}
		}
	}
	if got := n.Metric(t, "halley_comet_disconnects_total", "code=proxy_header"); got != 16 {
		t.Errorf("closed for their header: %v", got)
	}
	dialFrom(t, n, "wss", comettest.Balancer) // it says nothing
	comettest.Eventually(t, "the silent one is closed", func() bool {
		return n.Metric(t, "halley_comet_disconnects_total", "code=hello_timeout") == 1 && n.Metric(t, "halley_comet_connections") == 0
	})
}

func dialFrom(t *testing.T, n *comettest.Node, transport, address string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).Dial("tcp", n.Addr(transport).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// Whoever is no balancer cannot say where it comes from: its header is not read as one, and its own address counts.
func TestAForgedHeaderIsNone(t *testing.T) {
	cfg := comettest.Config()
	cfg.ConnectionsPerAddress = 1
	n := comettest.Start(t, cfg)
	forged := behind(comettest.TCP(), "192.0.2.7:1")
	forged.From = "127.0.0.1"
	if closing := n.Dial(t, forged).Closed(); closing.Code != uint32(protocol.CloseTooLarge) { // PROX read as a length
		t.Errorf("closed with %v", closing)
	}
	for _, w := range []comettest.Wire{comettest.WebSocket(link.CodecJSON), comettest.Secure(comettest.TCP())} {
		comettest.Eventually(t, "nobody is connected", func() bool { return n.Metric(t, "halley_comet_connections") == 0 })
		w = behind(w, "192.0.2.7:1")
		w.From = "127.0.0.1"
		if _, err := n.TryDial(t, w); err == nil {
			t.Errorf("a forged header opens %s", w.Transport)
		}
	}
	comettest.Eventually(t, "nobody is connected", func() bool { return n.Metric(t, "halley_comet_connections") == 0 })
	n.Connect(t, comettest.TCP(), "main/alice/phone").Ping()
	if closing := n.Dial(t, comettest.TCP()).Closed(); closing.Code != uint32(protocol.CloseRateLimited) {
		t.Errorf("closed with %v", closing)
	}
	if got := n.Metric(t, "halley_comet_proxy_headers_total"); got != 0 {
		t.Errorf("%v headers were read", got)
	}
}

// A header may come in any pieces, together with what follows it, and may name nobody: then it is the balancer itself.
func TestHeadersInPiecesAndOfTheBalancerItself(t *testing.T) {
	cfg := comettest.Config()
	cfg.ConnectionsPerAddress = 1
	n := comettest.Start(t, cfg)
	w := behind(comettest.TCP(), "192.0.2.7:1")
	w.Open = func(conn net.Conn, _ *bufio.Reader) error { return nil }
	header := w.Begin
	w.Begin = nil
	c := n.Dial(t, w)
	for i := range header[:len(header)-1] {
		if _, err := c.Write(header[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	c.Prefix(header[len(header)-1:])
	if c.Hello("main/alice/phone") == nil {
		t.Fatal("no hello")
	}
	c.Ping()

	check := w
	check.Begin = []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00") // version 2, local
	itself := n.Connect(t, check, "main/bob/phone")
	itself.Ping()
	if closing := n.Dial(t, check).Closed(); closing.Code != uint32(protocol.CloseRateLimited) {
		t.Errorf("the balancer's second connection: %v", closing)
	}
	if got := headers(t, n, "local"); got != 2 {
		t.Errorf("local: %v", got)
	}
}
