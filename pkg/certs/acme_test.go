package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/certs"
	"github.com/halley-im/halley/pkg/certs/acmetest"
	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/observe/observetest"
)

const domain = "chat.example.test"

// world is an authority and a configuration that asks it.
type world struct {
	*acmetest.Authority
	t     *testing.T
	cfg   certs.Config
	lines *observetest.Lines
	clock *certs.Clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Authority: acmetest.Start(t, 90*24*time.Hour), t: t, cfg: certs.Default(), lines: new(observetest.Lines), clock: new(certs.Clock)}
	w.cfg.CheckMs = 100
	w.cfg.ACME.Domains, w.cfg.ACME.Directory, w.cfg.ACME.CAFile = []string{domain}, w.URL, w.CAFile
	w.cfg.ACME.Email = "ops@example.test"
	w.cfg.ACME.CacheDir = filepath.Join(t.TempDir(), "certificates")
	return w
}

func (w *world) open() *certs.Source {
	w.t.Helper()
	s, err := certs.Open(w.cfg, w.lines.Logger())
	if err != nil {
		w.t.Fatal(err)
	}
	s.Use(w.clock)
	return s
}

// folder is where the certificates of the authority lie.
func (w *world) folder() string {
	at, err := url.Parse(w.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	return filepath.Join(w.cfg.ACME.CacheDir, strings.ReplaceAll(at.Host, ":", "_"))
}

// keep puts a certificate of another authority into the cache, as if it had been issued there.
func (w *world) keep(until time.Time) {
	w.t.Helper()
	if err := os.MkdirAll(w.folder(), 0o700); err != nil {
		w.t.Fatal(err)
	}
	pair := certstest.NewAuthority(w.t).Issue(w.t, until, domain)
	if err := os.WriteFile(filepath.Join(w.folder(), domain), append(pair.Key, pair.Cert...), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// listen serves handshakes on an address, to which port 443 leads from now on.
func (w *world) listen(s *certs.Source) (address string) {
	w.t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", s.TLS())
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			})
		}
	})
	w.t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	w.Lead(443, listener.Addr().String())
	return listener.Addr().String()
}

// dial makes a handshake and returns the certificate that it was shown.
func dial(address string, cfg *tls.Config) (*x509.Certificate, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", address, cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// sees is the certificate that anybody is shown who asks for the domain.
func (w *world) sees(address string) *x509.Certificate {
	w.t.Helper()
	c, err := dial(address, &tls.Config{ServerName: domain, InsecureSkipVerify: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) trusted(address string) error {
	_, err := dial(address, &tls.Config{ServerName: domain, RootCAs: w.Roots()})
	return err
}

func TestAnAuthorityIssuesWhatTheListenerShows(t *testing.T) {
	w := newWorld(t)
	s := w.open()
	address := w.listen(s)
	if _, err := dial(address, &tls.Config{ServerName: domain, InsecureSkipVerify: true}); err == nil {
		t.Error("there is a certificate before any was issued")
	}
	if !s.Expires().IsZero() {
		t.Error(s.Expires())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, "a certificate of the authority is shown", func() bool { return w.trusted(address) == nil })

	before := w.Orders()
	for name, cfg := range map[string]*tls.Config{
		"another name":        {ServerName: "other.example.test"},
		"a name above it":     {ServerName: "example.test"},
		"no name":             {},
		"the answer":          {ServerName: domain, NextProtos: []string{"acme-tls/1"}},
		"another name's":      {ServerName: "other.example.test", NextProtos: []string{"acme-tls/1"}},
		"a path for a domain": {ServerName: "../lock", NextProtos: []string{"acme-tls/1"}},
	} {
		cfg.InsecureSkipVerify = true
		if c, err := dial(address, cfg); err == nil {
			t.Errorf("%s: shown the certificate of %v", name, c.DNSNames)
		}
	}
	// Who may speak something else as well is no authority that asks.
	conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: strings.ToUpper(domain), RootCAs: w.Roots(), NextProtos: []string{"acme-tls/1", "h2"}})
	if err != nil {
		t.Error(err)
	} else {
		if got := conn.ConnectionState().NegotiatedProtocol; got != "" {
			t.Errorf("agreed on %q", got)
		}
		_ = conn.Close()
	}
	s.Look()
	if got := w.Orders(); got != before {
		t.Errorf("%d orders for who asked by other names", got-before)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.keptPrivate()

	// Another start needs no order.
	again := w.open()
	again.Turn(t.Context())
	if got := w.Orders(); got != before {
		t.Error("a start with a certificate orders another")
	}
	if err := w.trusted(w.listen(again)); err != nil {
		t.Error(err)
	}
}

// keptPrivate looks at the modes of what lies in the cache, and that no answer to the authority is left there.
func (w *world) keptPrivate() {
	w.t.Helper()
	var names []string
	err := filepath.WalkDir(w.cfg.ACME.CacheDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700 | fs.ModeDir
		} else {
			names = append(names, d.Name())
		}
		if info.Mode() != want {
			w.t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if want := []string{"account+key", domain, "lock"}; !slices.Equal(names, want) {
		w.t.Errorf("the cache holds %v, want %v", names, want)
	}
}

func TestACertificateIsRenewedBeforeItsEnd(t *testing.T) {
	w := newWorld(t)
	w.keep(time.Now().Add(24 * time.Hour))
	s := w.open()
	address := w.listen(s)
	old := w.sees(address)
	s.Turn(t.Context())
	if err := w.trusted(address); err != nil {
		t.Fatal(err)
	}
	renewed := w.sees(address)
	if renewed.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Error("the same is shown")
	}
	// It has two thirds of its life now.
	w.clock.Later(50 * 24 * time.Hour)
	before := w.Orders()
	s.Turn(t.Context())
	if w.Orders() != before {
		t.Error("ordered again in the middle of its life")
	}
}

// What an authority does not answer is told once for each try, with pauses that grow, and what there is goes on being shown.
func TestWithoutTheAuthorityTheCertificateStays(t *testing.T) {
	for name, left := range map[string]time.Duration{"before its end": time.Hour, "after its end": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.keep(time.Now().Add(left))
			w.Down(true)
			s := w.open()
			address := w.listen(s)
			old := w.sees(address)
			const told = "a certificate was not renewed; the one before it is shown on"
			for range 5 {
				s.Turn(t.Context())
			}
			w.clock.Later(61 * time.Second) // A second try.
			s.Turn(t.Context())
			w.clock.Later(61 * time.Second) // Too early for a third.
			s.Turn(t.Context())
			if _, failed := s.Orders(); failed != 2 {
				t.Errorf("%d tries in two minutes", failed)
			}
			if got := w.lines.Count(told); got != 2 {
				t.Errorf("told %d times of two tries", got)
			}
			if !w.lines.Have("level=ERROR", told, domain, w.URL, "next_try=") {
				t.Error("no line says which domain and authority, and when it is tried again")
			}
			if w.sees(address).SerialNumber.Cmp(old.SerialNumber) != 0 {
				t.Error("another is shown")
			}
			w.Down(false)
			w.clock.Later(time.Hour)
			s.Turn(t.Context())
			if err := w.trusted(address); err != nil {
				t.Errorf("not renewed when the authority is back: %v", err)
			}
		})
	}
}

// Where the domain does not lead here, the reason is the authority's own words.
func TestADomainThatLeadsElsewhereGetsNone(t *testing.T) {
	w := newWorld(t)
	w.Lead(443, "127.0.0.1:1")
	s := w.open()
	s.Turn(t.Context())
	if issued, failed := s.Orders(); issued != 0 || failed != 1 {
		t.Errorf("%d issued, %d failed", issued, failed)
	}
	if !w.lines.Have("level=ERROR", "no certificate was issued", domain, "prove that the domain leads here", "urn:ietf:params:acme:error") {
		t.Error("no line says why")
	}
}

func TestNodesWithOneCacheOrderOnce(t *testing.T) {
	w := newWorld(t)
	first, second := w.open(), w.open()
	ordering := w.listen(first)
	answering := w.listen(second) // The authority asks the one that may not have ordered.
	var both sync.WaitGroup
	for _, s := range []*certs.Source{first, second} {
		both.Go(func() { s.Turn(t.Context()) })
	}
	both.Wait()
	var issued, failed int64
	for _, s := range []*certs.Source{first, second} {
		i, f := s.Orders()
		issued, failed = issued+i, failed+f
	}
	if issued != 1 || failed != 0 {
		t.Errorf("%d issued, %d failed", issued, failed)
	}
	if err := w.trusted(ordering); err != nil {
		t.Error(err)
	}
	if w.sees(ordering).SerialNumber.Cmp(w.sees(answering).SerialNumber) != 0 {
		t.Error("they show different ones")
	}
	// One that renews has the other show it too.
	w.keep(time.Now().Add(time.Hour))
	first.Look()
	first.Turn(t.Context())
	second.Look()
	if err := w.trusted(answering); err != nil {
		t.Error(err)
	}
}

func TestTheQuestionIsAnsweredOverHTTP(t *testing.T) {
	w := newWorld(t)
	w.cfg.ACME.HTTPAddress = "127.0.0.1:0"
	s := w.open()
	address := w.listen(s)
	at, stop, err := s.ListenHTTP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	w.Lead(443, "127.0.0.1:1")
	w.Lead(80, at.String())
	// Tokens of an order that is under way, and what must not be had by the same way.
	for name, data := range map[string]string{"abc+http-01": "abc.def", "secret": "no"} {
		if err := os.WriteFile(filepath.Join(w.folder(), name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		method, host, path string
		code               int
	}{
		{"GET", domain, "abc", 200},
		{"GET", domain + ":80", "abc", 200},
		{"POST", domain, "abc", 405},
		{"GET", "other.example.test", "abc", 404},
		{"GET", domain, "def", 404},
		{"GET", domain, "secret", 404},
		{"GET", domain, "..%2flock", 404},
		{"GET", domain, "..%2f..%2fabc", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+at.String()+"/.well-known/acme-challenge/"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != c.code || c.code == 200 && string(body) != "abc.def" {
			t.Errorf("%+v: %s %q", c, res.Status, body)
		}
	}
	s.Turn(t.Context())
	if err := w.trusted(address); err != nil {
		t.Error(err)
	}
}

func TestWhatTheCacheHasOfNoUseIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.keep(time.Now().Add(1000 * time.Hour))
	if err := os.WriteFile(filepath.Join(w.folder(), domain), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	address := w.listen(s)
	s.Turn(t.Context())
	if err := w.trusted(address); err != nil {
		t.Error(err)
	}
	if !w.lines.Have("level=ERROR", "a certificate of the cache is not used", domain) {
		t.Error("no line says so")
	}
	// And while it runs, it is not taken.
	if err := os.WriteFile(filepath.Join(w.folder(), domain), []byte("nothing again"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Look()
	if err := w.trusted(address); err != nil || s.Failures() != 1 {
		t.Errorf("%v, %d refused", err, s.Failures())
	}
}

func TestAnOpenFolderIsRefused(t *testing.T) {
	w := newWorld(t)
	if err := os.Mkdir(w.cfg.ACME.CacheDir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := certs.Open(w.cfg, slog.Default())
	if err == nil || !strings.Contains(err.Error(), "chmod 700 "+w.cfg.ACME.CacheDir) {
		t.Error(err)
	}
}

func TestWhoAsksAnAuthorityMustSayWhatFor(t *testing.T) {
	good := certs.Default()
	good.ACME.Domains, good.ACME.CacheDir = []string{"chat.example.com", "xn--bcher-kva.example"}, "x"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for word, spoil := range map[string]func(c *certs.Config){
		"acme.domains: must be set":                    func(c *certs.Config) { c.ACME.Domains = nil },
		"acme.domains: \"*.example.com\"":              func(c *certs.Config) { c.ACME.Domains = []string{"*.example.com"} },
		"acme.domains: \"192.0.2.1\"":                  func(c *certs.Config) { c.ACME.Domains = []string{"192.0.2.1"} },
		"acme.domains: \"localhost\"":                  func(c *certs.Config) { c.ACME.Domains = []string{"localhost"} },
		"acme.domains: \"a/b.example.com\"":            func(c *certs.Config) { c.ACME.Domains = []string{"a/b.example.com"} },
		"named twice":                                  func(c *certs.Config) { c.ACME.Domains = []string{"a.example.com", "a.example.com"} },
		"cert_file is set too":                         func(c *certs.Config) { c.CertFile, c.KeyFile = "x", "y" },
		"acme.directory: want a URL that begins with ": func(c *certs.Config) { c.ACME.Directory = "http://ca.example.com" },
		"acme.email":                                   func(c *certs.Config) { c.ACME.Email = "nobody" },
		"acme.cache_dir: must be set":                  func(c *certs.Config) { c.ACME.CacheDir = "" },
		"acme.http_address":                            func(c *certs.Config) { c.ACME.HTTPAddress = "80" },
	} {
		cfg := good
		spoil(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %s", err, word)
		}
	}
}
