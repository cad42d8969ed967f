// Package certs keeps the certificates of a listener: it reads them from their files, and again when they change or somebody asks. It
// never listens.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what a listener shows and what it asks for.
type Config struct {
	CertFile     string `koanf:"cert_file" doc:"Certificate of the server and those between it and its authority, PEM."`
	KeyFile      string `koanf:"key_file" doc:"Its key, PEM."`
	MinVersion   string `koanf:"min_version" doc:"Lowest version of TLS that is spoken: 1.2 or 1.3."`
	ClientCAFile string `koanf:"client_ca_file" doc:"Authorities of the other side's certificates, PEM. Where it is set, nobody gets in without a certificate of theirs."`
	CheckMs      int    `koanf:"check_ms" doc:"How often the files are looked at for a change, milliseconds. A SIGHUP reads them at once."`
}

// Default is the shipped configuration: no certificate.
func Default() Config { return Config{MinVersion: "1.2", CheckMs: 10_000} }

// Set reports whether there is a certificate.
func (c Config) Set() bool { return c.CertFile != "" || c.KeyFile != "" }

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// Validate reports every setting that cannot be.
func (c Config) Validate() error {
	var errs []error
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("cert_file: must be set together with key_file"))
	}
	if versions[c.MinVersion] == 0 {
		errs = append(errs, fmt.Errorf("min_version: want 1.2 or 1.3, got %q", c.MinVersion))
	}
	if c.ClientCAFile != "" && !c.Set() {
		errs = append(errs, errors.New("client_ca_file: has no use without cert_file"))
	}
	if c.CheckMs < 100 || c.CheckMs > 3_600_000 {
		errs = append(errs, errors.New("check_ms: must be 100 to 3600000"))
	}
	return errors.Join(errs...)
}

// Source is where a listener has its certificate from.
type Source struct {
	// Static.
	cfg    Config
	protos []string
	log    *slog.Logger

	current atomic.Pointer[tls.Config]
	expires atomic.Int64 // seconds since 1970
	failed  atomic.Int64 // readings that were refused

	mu    sync.Mutex
	files []os.FileInfo // as they were read last, whether that was of use or not
	told  time.Time     // when the log spoke of the end of the certificate
}

// Open reads the files. protos are the protocols that the listener agrees to speak (ALPN), if it asks.
func Open(cfg Config, log *slog.Logger, protos ...string) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, protos: protos, log: log}
	s.files = s.stat()
	c, err := s.read()
	if err != nil {
		return nil, err
	}
	s.use(c)
	return s, nil
}

// TLS is what the listener is given, once: it shows whatever certificate is the current one.
func (s *Source) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: versions[s.cfg.MinVersion], NextProtos: s.protos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load(), nil },
	}
}

// Expires is when the current certificate ends.
func (s *Source) Expires() time.Time { return time.Unix(s.expires.Load(), 0) }

// Failures is how many readings were refused, so that the certificate before them stayed.
func (s *Source) Failures() int64 { return s.failed.Load() }

// Run looks for changes until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	ticker := time.NewTicker(time.Duration(s.cfg.CheckMs) * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		s.look(false)
		s.warn(time.Now())
	}
}

// Reload reads the files now, changed or not.
func (s *Source) Reload() { s.look(true) }

func (s *Source) look(always bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Looked at before they are read: what changes in between is seen the next time.
	now := s.stat()
	if !always && same(now, s.files) {
		return
	}
	s.files = now
	c, err := s.read()
	if err != nil {
		s.failed.Add(1)
		s.log.Error("the new certificate is not used; the one before it is", "err", err, "expires", s.Expires())
		return
	}
	s.use(c)
	s.log.Info("certificate read", "file", s.cfg.CertFile, "expires", s.Expires())
}

func (s *Source) use(c *tls.Config) {
	s.expires.Store(c.Certificates[0].Leaf.NotAfter.Unix())
	s.current.Store(c)
}

// warnBefore the end of a certificate the log speaks of it, once a day.
const warnBefore = 7 * 24 * time.Hour

func (s *Source) warn(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.Expires().Sub(now)
	if left > warnBefore || now.Sub(s.told) < 24*time.Hour {
		return
	}
	s.told = now
	if left <= 0 {
		s.log.Error("the certificate has expired: devices refuse it", "file", s.cfg.CertFile, "expires", s.Expires())
		return
	}
	s.log.Warn("the certificate expires soon", "file", s.cfg.CertFile, "expires", s.Expires())
}

func (s *Source) paths() []string { return []string{s.cfg.CertFile, s.cfg.KeyFile, s.cfg.ClientCAFile} }

// stat is how the files stand; nil for one that is not there.
func (s *Source) stat() []os.FileInfo {
	var out []os.FileInfo
	for _, path := range s.paths() {
		info, err := os.Stat(path)
		if err != nil {
			info = nil
		}
		out = append(out, info)
	}
	return out
}

func same(a, b []os.FileInfo) bool {
	for i := range a {
		switch {
		case a[i] == nil && b[i] == nil:
		case a[i] == nil || b[i] == nil, !os.SameFile(a[i], b[i]), a[i].Size() != b[i].Size(), !a[i].ModTime().Equal(b[i].ModTime()):
			return false
		}
	}
	return true
}

// read makes a configuration of the files. The error names the file.
func (s *Source) read() (*tls.Config, error) {
	certPEM, err := os.ReadFile(s.cfg.CertFile)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(s.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", s.cfg.CertFile, s.cfg.KeyFile, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("certificate %s: expired at %s", s.cfg.CertFile, pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	c := &tls.Config{
		MinVersion: versions[s.cfg.MinVersion], NextProtos: s.protos, Certificates: []tls.Certificate{pair},
		// Frames are written when they are complete: small records first would only make more of them.
		DynamicRecordSizingDisabled: true,
	}
	if s.cfg.ClientCAFile == "" {
		return c, nil
	}
	authorities, err := os.ReadFile(s.cfg.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("authorities of clients: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("authorities of clients %s: no certificate in it", s.cfg.ClientCAFile)
	}
	return c, nil
}
