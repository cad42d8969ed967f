// Package certs keeps the certificates of a listener: it reads them from files, and again when they change or somebody asks, or has an
// authority issue them. It never speaks to a device.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
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

	ACME ACMEConfig `koanf:"acme" doc:"Certificates from an authority instead of files."`
}

// Default is the shipped configuration: no certificate.
func Default() Config {
	return Config{MinVersion: "1.2", CheckMs: 10_000, ACME: DefaultACME()}
}

// Set reports whether there is a certificate, or will be one.
func (c Config) Set() bool { return c.CertFile != "" || c.KeyFile != "" || c.ACME.Set() }

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
	if c.ACME.Set() && c.CertFile != "" {
		errs = append(errs, errors.New("acme.domains: cert_file is set too: a certificate comes from one of them"))
	}
	if err := c.ACME.Validate(); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			errs = append(errs, errors.New("acme."+line))
		}
	}
	return errors.Join(errs...)
}

// Source is where a listener has its certificate from.
type Source struct {
	// Static.
	cfg    Config
	protos []string
	log    *slog.Logger
	acme   *automatic // nil where it is read from files

	current atomic.Pointer[shown]
	failed  atomic.Int64 // readings that were refused

	mu    sync.Mutex
	files []os.FileInfo // as they were read last, whether that was of use or not
	told  time.Time     // when the log spoke of the end of the certificate
}

// shown is what connections are shown until the next reading.
type shown struct {
	any    *tls.Config            // from files: whatever name is asked for
	byName map[string]*tls.Config // from an authority
	first  *x509.Certificate      // the one that ends first; nil where there is none
}

// Open reads what there is. protos are the protocols that the listener agrees to speak (ALPN), if it asks. Files must be there; from an
// authority the first certificate comes while Run runs, and until then nobody is let in.
func Open(cfg Config, log *slog.Logger, protos ...string) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, protos: protos, log: log}
	if cfg.ACME.Set() {
		var err error
		if s.acme, err = newAutomatic(cfg.ACME, log); err != nil {
			return nil, err
		}
	}
	s.files = s.stat()
	c, err := s.read()
	if err != nil {
		return nil, err
	}
	s.current.Store(c)
	return s, nil
}

// TLS is what the listener is given, once: it shows whatever certificate is the current one.
func (s *Source) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: versions[s.cfg.MinVersion], NextProtos: s.protos,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if s.acme == nil {
				return s.current.Load().any, nil
			}
			return s.acme.show(hello, s.current.Load())
		},
	}
}

// Expires is when the certificate ends that ends first; the zero time while there is none.
func (s *Source) Expires() time.Time {
	if first := s.current.Load().first; first != nil {
		return first.NotAfter
	}
	return time.Time{}
}

// Failures is how many readings were refused, so that the certificate before them stayed.
func (s *Source) Failures() int64 { return s.failed.Load() }

// Run looks for changes, and has certificates issued and renewed, until ctx ends. It is to be called when the listener is there: an
// authority asks it first.
func (s *Source) Run(ctx context.Context) error {
	if s.acme != nil && s.cfg.ACME.HTTPAddress != "" {
		_, stop, err := s.acme.listen(ctx)
		if err != nil {
			return err
		}
		defer stop()
	}
	ticker := time.NewTicker(time.Duration(s.cfg.CheckMs) * time.Millisecond)
	defer ticker.Stop()
	for {
		if s.acme != nil && s.acme.renew(ctx, s.current.Load()) {
			s.look(true)
		}
		s.warn(s.now())
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		s.look(false)
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
	s.current.Store(c)
	s.log.Info("certificate read", "of", s.origin(), "expires", s.Expires())
}

// origin is where the certificate is from, for the log.
func (s *Source) origin() string {
	if s.acme != nil {
		return s.acme.cfg.Directory
	}
	return s.cfg.CertFile
}

func (s *Source) now() time.Time {
	if s.acme != nil {
		return s.acme.now()
	}
	return time.Now()
}

// warnBefore the end of a certificate the log speaks of it, once a day; of one with a short life, in the last sixth of it.
const warnBefore = 7 * 24 * time.Hour

func (s *Source) warn(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.current.Load().first
	if first == nil {
		return
	}
	left := first.NotAfter.Sub(now)
	if left > min(warnBefore, first.NotAfter.Sub(first.NotBefore)/6) || now.Sub(s.told) < 24*time.Hour {
		return
	}
	s.told = now
	if left <= 0 {
		s.log.Error("the certificate has expired: devices refuse it", "of", s.origin(), "names", first.DNSNames, "expires", first.NotAfter)
		return
	}
	s.log.Warn("the certificate expires soon", "of", s.origin(), "names", first.DNSNames, "expires", first.NotAfter)
}

func (s *Source) paths() []string {
	if s.acme != nil {
		return append(s.acme.paths(), s.cfg.ClientCAFile)
	}
	return []string{s.cfg.CertFile, s.cfg.KeyFile, s.cfg.ClientCAFile}
}

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

// read makes configurations of the files. The error names the file.
func (s *Source) read() (*shown, error) {
	base, err := s.base()
	if err != nil {
		return nil, err
	}
	if s.acme != nil {
		return s.acme.read(base, s.current.Load())
	}
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
	base.Certificates = []tls.Certificate{pair}
	return &shown{any: base, first: pair.Leaf}, nil
}

// base is a configuration without a certificate.
func (s *Source) base() (*tls.Config, error) {
	c := &tls.Config{
		MinVersion: versions[s.cfg.MinVersion], NextProtos: s.protos,
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
