package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/client"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

// tlsWorld is a serve with a certificate.
type tlsWorld struct {
	t         *testing.T
	s         *served
	authority *certstest.Authority
	certs     string
	key       auth.Key
}

func (w *tlsWorld) issue(name string) {
	w.authority.Issue(w.t, time.Now().Add(time.Hour), name).Write(w.t, w.certs)
}

func (w *tlsWorld) trust(name string) *tls.Config {
	return &tls.Config{RootCAs: w.authority.Pool(), ServerName: name}
}

// device runs a client and returns the texts that it sees once it is connected: what came before is not new to it.
func (w *tlsWorld) device(at, user string, trust *tls.Config) (*client.Client, <-chan string) {
	w.t.Helper()
	texts := make(chan string, 100)
	connected := make(chan struct{})
	connect := sync.OnceFunc(func() { close(connected) })
	c, err := client.New(client.Options{
		URL: at, TLS: trust,
		Handler: func(e client.Event) {
			switch e := e.(type) {
			case client.State:
				if e.Connected {
					connect()
				}
			case client.Record:
				if e.GetMessage() != nil {
					texts <- e.GetMessage().GetText().GetText()
				}
			}
		},
		Token: func(context.Context) (string, error) {
			now := time.Now()
			return auth.Issue(w.key, auth.Claims{Audience: "halley", App: "main", User: user, Device: "phone", IssuedAt: now, Expires: now.Add(time.Hour)})
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	w.t.Cleanup(sync.OnceFunc(func() { cancel(); <-done }))
	select {
	case <-connected:
	case <-time.After(20 * time.Second):
		w.t.Fatalf("%s does not connect\n%s", user, w.s.errs)
	}
	return c, texts
}

func (w *tlsWorld) say(c *client.Client, text string, to <-chan string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Send(ctx, "d:alice:bob", &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: text}}}); err != nil {
		w.t.Fatal(err)
	}
	select {
	case got := <-to:
		if got != text {
			w.t.Fatalf("%q arrives as %q", text, got)
		}
	case <-ctx.Done():
		w.t.Fatalf("%q did not arrive\n%s", text, w.s.errs)
	}
}

// shows is the name of the certificate at an address.
func (w *tlsWorld) shows(address string) string {
	w.t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func (w *tlsWorld) hangUp(until func() bool) {
	w.t.Helper()
	if err := w.s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for !until() {
		select {
		case <-deadline:
			w.t.Fatalf("nothing came of a SIGHUP within 10 s\n%s", w.s.errs)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// serveTLS starts a serve whose every listener but the plain ones of comet goes over TLS.
func serveTLS(t *testing.T) *tlsWorld {
	t.Helper()
	dir := t.TempDir()
	w := &tlsWorld{t: t, authority: certstest.NewAuthority(t), certs: filepath.Join(dir, "certs")}
	if err := os.Mkdir(w.certs, 0o700); err != nil {
		t.Fatal(err)
	}
	w.issue("first.test")
	var sets []string
	for _, pair := range []string{
		"comet.wss_address=127.0.0.1:0", "comet.tls_address=127.0.0.1:0",
		"comet.tls.cert_file=" + w.file("cert.pem"), "comet.tls.key_file=" + w.file("key.pem"), "comet.tls.check_ms=3600000",
		"api.tls.cert_file=" + w.file("cert.pem"), "api.tls.key_file=" + w.file("key.pem"), "api.tls.check_ms=3600000",
	} {
		sets = append(sets, "--set", pair)
	}
	w.s = serve(t, dir, sets...)
	keys, err := auth.LoadKeys(filepath.Join(dir, defaultDataDir, tokenKeysName))
	if err != nil {
		t.Fatal(err)
	}
	w.key = keys[0]
	return w
}

func (w *tlsWorld) file(name string) string { return filepath.Join(w.certs, name) }

func TestServeOverTLS(t *testing.T) {
	t.Parallel()
	w := serveTLS(t)
	e := w.s.endpoints()
	if !strings.HasPrefix(e.WSS, "wss://127.0.0.1:") || e.TLS == "" || !strings.HasPrefix(e.API, "https://") {
		t.Fatalf("%+v", e)
	}
	for _, told := range []string{e.WSS, "tls://" + e.TLS, e.API + "/v1"} {
		if !strings.Contains(w.s.banner, told) {
			t.Errorf("the banner does not tell of %s:\n%s", told, w.s.banner)
		}
	}

	alice, _ := w.device(e.WSS, "alice", w.trust("first.test"))
	_, toBob := w.device("tls://"+e.TLS, "bob", w.trust("first.test"))
	w.say(alice, "over TLS", toBob)

	// Over the HTTP API, and not without TLS.
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: w.trust("first.test"), ForceAttemptHTTP2: true}}
	res, err := web.Get(e.API + "/docs")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
		t.Errorf("%s over %s", res.Status, res.Proto)
	}
	at, err := url.Parse(e.API)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.Get("http://" + at.Host + "/docs"); err == nil {
		if res.StatusCode == http.StatusOK {
			t.Error("the API answers without TLS")
		}
		_ = res.Body.Close()
	}
	stranger, err := tls.Dial("tcp", e.TLS, &tls.Config{RootCAs: certstest.NewAuthority(t).Pool(), ServerName: "first.test"})
	if err == nil {
		_ = stranger.Close()
		t.Error("a client of another authority was content")
	}

	// Another certificate is shown after a SIGHUP, by both, and who is connected stays.
	w.issue("second.test")
	for _, address := range []string{e.TLS, at.Host} {
		if got := w.shows(address); got != "first.test" {
			t.Errorf("%s is shown before anybody asked", got)
		}
	}
	w.hangUp(func() bool { return w.shows(e.TLS) == "second.test" && w.shows(at.Host) == "second.test" })
	w.say(alice, "as before", toBob)

	// One that cannot be used is not, and the log and a metric say so.
	if err := os.WriteFile(w.file("key.pem"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.hangUp(func() bool {
		_, text := w.s.get(e.Admin + "/metrics")
		return strings.Contains(text, `halley_tls_certificate_refused_total{section="comet"} 1`) &&
			strings.Contains(text, `halley_tls_certificate_refused_total{section="api"} 1`)
	})
	if log := w.s.errs.String(); !strings.Contains(log, w.file("key.pem")) || !strings.Contains(log, "failed to find any PEM data") {
		t.Errorf("the log does not say which file and why:\n%s", log)
	}
	if got := w.shows(e.TLS); got != "second.test" {
		t.Errorf("%s is shown", got)
	}
	w.say(alice, "still there", toBob)
	if took, err := w.s.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended after %v: %v\n%s", took, err, w.s.errs)
	}
}

// A certificate that cannot be used keeps a node from starting, and the error says which.
func TestServeWithoutItsCertificateDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, sets := range map[string][]string{
		"comet.tls.cert_file": {"comet.wss_address=127.0.0.1:0"},
		"/nowhere/cert.pem":   {"comet.wss_address=127.0.0.1:0", "comet.tls.cert_file=/nowhere/cert.pem", "comet.tls.key_file=/nowhere/key.pem"},
		"/nowhere/api.pem":    {"api.tls.cert_file=/nowhere/api.pem", "api.tls.key_file=/nowhere/key.pem"},
	} {
		args := append([]string{"serve"}, anyPort...)
		for _, s := range sets {
			args = append(args, "--set", s)
		}
		out, err := halley(t, t.TempDir(), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), name) {
			t.Errorf("%v: %v\n%s", sets, err, out)
		}
	}
}

// The generator goes over TLS to a serve of its folder and to any other, and believes any certificate only if it is told to.
func TestBenchOverTLS(t *testing.T) {
	t.Parallel()
	w := serveTLS(t)
	ca := w.authority.Write(t, w.certs)
	run := func(args ...string) (string, error) {
		args = append([]string{"bench", "p2p", "-n", "20", "--warmup", "100ms", "--duration", "500ms"}, args...)
		out, err := halley(t, w.s.dir, args...).CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{
		{"--transport", "wss", "--ca-file", ca},
		{"--transport", "tls", "--insecure"},
		{"--target", "tls://" + w.s.endpoints().TLS, "--ca-file", ca},
	} {
		out, err := run(args...)
		if err != nil || !strings.Contains(out, "every message accounted for: 0 lost") {
			t.Errorf("%v: %v\n%s\n%s", args, err, out, w.s.errs)
		}
	}
	out, err := run("--transport", "wss", "--ca-file", w.file("key.pem"))
	if err == nil || !strings.Contains(out, "no certificate in it") {
		t.Errorf("%v\n%s", err, out)
	}
}
