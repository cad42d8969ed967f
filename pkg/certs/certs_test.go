package certs_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/certs"
	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/observe/observetest"
)

// shown is the name in the certificate that a client sees.
func shown(t *testing.T, s *certs.Source) string {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		_ = tls.Server(there, s.TLS()).Handshake()
		_, _ = io.Copy(io.Discard, there)
	}()
	conn := tls.Client(here, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
}

type fixture struct {
	*certstest.Authority
	dir   string
	cfg   certs.Config
	lines *observetest.Lines
}

func newFixture(t *testing.T) fixture {
	f := fixture{Authority: certstest.NewAuthority(t), dir: t.TempDir(), cfg: certs.Default(), lines: new(observetest.Lines)}
	f.cfg.CheckMs = 100
	f.write(t, "first.test", time.Hour)
	f.cfg.CertFile, f.cfg.KeyFile = filepath.Join(f.dir, "cert.pem"), filepath.Join(f.dir, "key.pem")
	return f
}

func (f fixture) write(t *testing.T, name string, life time.Duration) {
	t.Helper()
	f.Issue(t, time.Now().Add(life), name).Write(t, f.dir)
}

func (f fixture) open(t *testing.T) *certs.Source {
	t.Helper()
	s, err := certs.Open(f.cfg, slog.New(slog.NewTextHandler(f.lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestChangedFilesAreReadByThemselves(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if got := shown(t, s); got != "first.test" {
		t.Fatal(got)
	}
	f.write(t, "second.test", time.Hour)
	eventually(t, "the second certificate is shown", func() bool { return shown(t, s) == "second.test" })

	// A bad one changes nothing, is told once, with its file and the reason, and a good one after it is taken.
	if err := os.WriteFile(f.cfg.CertFile, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log says which file and why", func() bool {
		return f.lines.Have("level=ERROR", f.cfg.CertFile, "failed to find any PEM data")
	})
	s.Look()
	s.Look()
	if got := s.Failures(); got != 1 {
		t.Errorf("one bad file was refused %d times", got)
	}
	if got := shown(t, s); got != "second.test" {
		t.Errorf("a bad file replaced the certificate by %s", got)
	}
	f.write(t, "third.test", time.Hour)
	eventually(t, "the third certificate is shown", func() bool { return shown(t, s) == "third.test" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeUsedKeepsTheOneBefore(t *testing.T) {
	f := newFixture(t)
	f.cfg.ClientCAFile = f.Write(t, f.dir)
	s := f.open(t)
	good := func() {
		f.write(t, "first.test", time.Hour)
		f.Write(t, f.dir)
	}
	for name, c := range map[string]struct {
		spoil func()
		words []string
	}{
		"a key of another certificate": {func() {
			pair := f.Issue(t, time.Now().Add(time.Hour), "other.test")
			must(t, os.WriteFile(f.cfg.KeyFile, pair.Key, 0o600))
		}, []string{f.cfg.KeyFile, "does not match"}},
		"no key":                    {func() { must(t, os.Remove(f.cfg.KeyFile)) }, []string{f.cfg.KeyFile, "no such file"}},
		"no certificate":            {func() { must(t, os.Remove(f.cfg.CertFile)) }, []string{f.cfg.CertFile, "no such file"}},
		"one that has ended":        {func() { f.write(t, "late.test", -time.Minute) }, []string{f.cfg.CertFile, "expired at"}},
		"authorities without any":   {func() { must(t, os.WriteFile(f.cfg.ClientCAFile, nil, 0o600)) }, []string{f.cfg.ClientCAFile, "no certificate"}},
		"authorities that are gone": {func() { must(t, os.Remove(f.cfg.ClientCAFile)) }, []string{f.cfg.ClientCAFile, "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.Failures()
			c.spoil()
			s.Reload()
			if s.Failures() != before+1 {
				t.Error("it was not refused")
			}
			if !f.lines.Have(append([]string{"level=ERROR"}, c.words...)...) {
				t.Errorf("no line says %q", c.words)
			}
			if _, err := certs.Open(f.cfg, slog.Default()); err == nil {
				t.Error("a node starts with it")
			}
			good()
			s.Reload()
			if s.Failures() != before+1 {
				t.Error("a good one after it was refused")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheLogSpeaksBeforeTheEnd(t *testing.T) {
	f := newFixture(t)
	f.write(t, "first.test", 48*time.Hour)
	s := f.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, "a warning", func() bool { return f.lines.Have("level=WARN", "expires soon", f.cfg.CertFile) })
	cancel()
	<-done
}

func TestLowestVersion(t *testing.T) {
	for lowest, want := range map[string]bool{"1.2": true, "1.3": false} {
		f := newFixture(t)
		f.cfg.MinVersion = lowest
		s := f.open(t)
		for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: want, tls.VersionTLS13: true} {
			here, there := net.Pipe()
			go func() {
				_ = tls.Server(there, s.TLS()).Handshake()
				_ = there.Close()
			}()
			err := tls.Client(here, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}).Handshake()
			if (err == nil) != ok {
				t.Errorf("lowest %s: version %x: %v", lowest, version, err)
			}
			_ = here.Close()
		}
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	if err := certs.Default().Validate(); err != nil {
		t.Error(err)
	}
	err := certs.Config{KeyFile: "x", MinVersion: "1.1", CheckMs: 1}.Validate()
	for _, word := range []string{"cert_file", "min_version", "check_ms"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
	if err := (certs.Config{ClientCAFile: "x", MinVersion: "1.2", CheckMs: 100}).Validate(); err == nil {
		t.Error("authorities of clients alone pass")
	}
}
