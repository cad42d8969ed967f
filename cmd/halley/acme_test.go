package main

import (
	"crypto/tls"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/certs/acmetest"
)

// A serve whose names lead to its wss_address gets its certificates from an authority by itself, the API's too, and renews them while
// devices talk.
func TestServeWithCertificatesOfAnAuthority(t *testing.T) {
	t.Parallel()
	const domain = "chat.example.test"
	authority := acmetest.Start(t, 15*time.Second)
	dir := t.TempDir()
	cache := filepath.Join(dir, "certificates")
	var sets []string
	for _, section := range []string{"comet", "api"} {
		for _, pair := range []string{
			"domains=" + domain, "directory=" + authority.URL, "ca_file=" + authority.CAFile, "cache_dir=" + cache,
		} {
			sets = append(sets, "--set", section+".tls.acme."+pair)
		}
		sets = append(sets, "--set", section+".tls.check_ms=100")
	}
	s := serve(t, dir, append(sets, "--set", "comet.wss_address=127.0.0.1:0")...)
	e := s.endpoints()
	at, err := url.Parse(e.WSS)
	if err != nil {
		t.Fatal(err)
	}
	authority.Lead(443, at.Host)
	keys, err := auth.LoadKeys(filepath.Join(dir, defaultDataDir, tokenKeysName))
	if err != nil {
		t.Fatal(err)
	}
	w := &tlsWorld{t: t, s: s, key: keys[0]}
	trust := &tls.Config{RootCAs: authority.Roots(), ServerName: domain}
	serial := func(address string) string {
		conn, err := tls.Dial("tcp", address, trust)
		if err != nil {
			return ""
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	within(t, s, "wss is trusted", func() bool { return serial(at.Host) != "" })
	alice, _ := w.device(e.WSS, "alice", trust)
	_, toBob := w.device(e.WSS, "bob", trust)
	w.say(alice, "with a certificate of an authority", toBob)
	web := strings.TrimPrefix(e.API, "https://")
	within(t, s, "the API is trusted", func() bool { return serial(web) != "" })

	if conn, err := tls.Dial("tcp", at.Host, &tls.Config{InsecureSkipVerify: true, ServerName: "other.example.test"}); err == nil {
		t.Errorf("shown the certificate of %v", conn.ConnectionState().PeerCertificates[0].DNSNames)
		_ = conn.Close()
	}

	// While an order is under way its answer can be had by anyone, and nothing else over that connection.
	answers, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(answers) != 1 {
		t.Fatalf("%v %v", answers, err)
	}
	answer, err := os.ReadFile(filepath.Join(answers[0], domain))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(answers[0], domain+"+tls-alpn-01"), answer, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{at.Host, web} {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: domain, NextProtos: []string{"acme-tls/1"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != "acme-tls/1" {
			t.Errorf("agreed on %q", got)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, "GET /docs HTTP/1.1\r\nHost: "+domain+"\r\n\r\n")
		if got, err := io.ReadAll(conn); len(got) > 0 || os.IsTimeout(err) {
			t.Errorf("%s goes on after the answer: %q, %v", address, got, err)
		}
		_ = conn.Close()
	}

	connects := func() string {
		_, text := s.get(e.Admin + "/metrics")
		_, rest, _ := strings.Cut(text, "\nhalley_comet_connect_seconds_count ")
		n, _, _ := strings.Cut(rest, "\n")
		return n
	}
	before := connects()
	first := serial(at.Host)
	within(t, s, "another certificate is shown", func() bool { now := serial(at.Host); return now != "" && now != first })
	within(t, s, "the API shows the same", func() bool { return serial(web) == serial(at.Host) })
	w.say(alice, "as before", toBob)
	_, text := s.get(e.Admin + "/metrics")
	if strings.Contains(text, `halley_tls_certificate_orders_total{result="issued",section="comet"} 0`) {
		t.Error("no order is counted")
	}
	if now := connects(); before == "" || now != before {
		t.Errorf("the sessions did not stay: %q connects before the renewal, %q after it", before, now)
	}
	if took, err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended after %v: %v\n%s", took, err, s.errs)
	}
}

func within(t *testing.T, s *served, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(90 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 90 s: %s\n%s", what, s.errs)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
