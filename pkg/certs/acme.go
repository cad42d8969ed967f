package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
)

// ACMEConfig has certificates issued by an authority that speaks ACME (RFC 8555).
type ACMEConfig struct {
	Domains     []string `koanf:"domains" doc:"Names of which an authority issues a certificate each, instead of cert_file and key_file. Nobody is shown one by another name, and none is ever ordered for one. Naming them agrees to the authority's terms."`
	Email       string   `koanf:"email" doc:"Where the authority may write to; empty: nowhere."`
	Directory   string   `koanf:"directory" doc:"URL of the authority's directory. Each authority has a folder of its own in cache_dir."`
	CAFile      string   `koanf:"ca_file" doc:"Authorities of the directory's own certificate, PEM; empty: the system's."`
	CacheDir    string   `koanf:"cache_dir" doc:"Folder where certificates and their keys are kept, and the key of the account; made with mode 0700. Nodes that share it share the certificates."`
	HTTPAddress string   `koanf:"http_address" doc:"Where the authority's question is answered over plain HTTP (HTTP-01), host:port: what port 80 of the domains leads to. Empty: it is answered by the TLS listeners themselves (TLS-ALPN-01), to which port 443 must lead."`
}

// DefaultACME is the shipped configuration: no names, and the authority that most use.
func DefaultACME() ACMEConfig {
	return ACMEConfig{Directory: "https://acme-v02.api.letsencrypt.org/directory"}
}

// Set reports whether an authority is asked.
func (c ACMEConfig) Set() bool { return len(c.Domains) > 0 }

// domainName is a name of at least two labels. Others than ASCII are written as xn--….
var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate reports every setting that cannot be.
func (c ACMEConfig) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !c.Set() {
		if c.Email != "" || c.CacheDir != "" || c.HTTPAddress != "" || c.CAFile != "" {
			fail("domains: must be set, the other settings of acme are of no use without")
		}
		return errors.Join(errs...)
	}
	for i, d := range c.Domains {
		switch {
		case strings.HasPrefix(d, "*."):
			fail("domains: %q: names with * are proven by DNS records only, which Halley does not write", d)
		case !domainName.MatchString(d) || len(d) > 253:
			fail("domains: %q is no name such as chat.example.com, in lower case", d)
		case slices.Contains(c.Domains[:i], d):
			fail("domains: %q is named twice", d)
		}
	}
	if u, err := url.Parse(c.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		fail("directory: want a URL that begins with https://, got %q", c.Directory)
	}
	if c.Email != "" && !strings.Contains(c.Email, "@") {
		fail("email: %q is no address", c.Email)
	}
	if c.CacheDir == "" {
		fail("cache_dir: must be set: without it every start would order certificates anew, which authorities limit")
	}
	if c.HTTPAddress != "" {
		if _, _, err := net.SplitHostPort(c.HTTPAddress); err != nil {
			fail("http_address: %w", err)
		}
	}
	return errors.Join(errs...)
}

// Pauses after orders that failed: so that an authority that counts failures does not refuse the next, and the log stays readable.
const (
	firstPause = time.Minute
	lastPause  = time.Hour
	orderTime  = 3 * time.Minute
)

// automatic has certificates issued. What it gets it writes into the cache, from where the source reads it like any file.
type automatic struct {
	// Static.
	cfg    ACMEConfig
	log    *slog.Logger
	cache  *cache
	client *http.Client
	early  float64 // 0 to 1: how much sooner than others this node renews
	now    func() time.Time

	issued atomic.Int64
	failed atomic.Int64

	// Owned by the goroutine of Source.Run.
	tries map[string]*try
}

// try is how orders for a domain went.
type try struct {
	failures int
	next     time.Time
}

func newAutomatic(cfg ACMEConfig, log *slog.Logger) (*automatic, error) {
	a := &automatic{cfg: cfg, log: log, now: time.Now, early: rand.Float64(), tries: map[string]*try{}}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if cfg.CAFile != "" {
		authorities, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("acme.ca_file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("acme.ca_file %s: no certificate in it", cfg.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	a.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	for _, d := range cfg.Domains {
		a.tries[d] = &try{}
	}
	var err error
	if a.cache, err = openCache(cfg); err != nil {
		return nil, fmt.Errorf("acme.cache_dir: %w", err)
	}
	return a, nil
}

// Orders is how many were fulfilled and how many failed.
func (s *Source) Orders() (issued, failed int64) {
	if s.acme == nil {
		return 0, 0
	}
	return s.acme.issued.Load(), s.acme.failed.Load()
}

var (
	errOtherName = errors.New("no certificate by this name")
	errNoneYet   = errors.New("no certificate yet")
)

// show chooses what a connection is shown. It never waits for an order: who asks by a name that is not ours costs no more than that.
func (a *automatic) show(hello *tls.ClientHelloInfo, current *shown) (*tls.Config, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if !slices.Contains(a.cfg.Domains, name) {
		return nil, errOtherName
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
		return a.proof(name)
	}
	if c := current.byName[name]; c != nil {
		return c, nil
	}
	return nil, errNoneYet
}

func (a *automatic) paths() []string {
	var out []string
	for _, d := range a.cfg.Domains {
		out = append(out, a.cache.path(d))
	}
	return out
}

// read makes configurations of what the cache has; of one that cannot be read the one before it stays. One that has ended is shown all
// the same: it is no worse than none, and devices say what is wrong with it.
func (a *automatic) read(base *tls.Config, before *shown) (*shown, error) {
	out := &shown{byName: map[string]*tls.Config{}}
	var errs []error
	for _, d := range a.cfg.Domains {
		pair, err := a.cache.certificate(d)
		c := base.Clone()
		switch {
		case err == nil:
			c.Certificates = []tls.Certificate{*pair}
		case before != nil && before.byName[d] != nil:
			c.Certificates = before.byName[d].Certificates
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		if len(c.Certificates) == 0 {
			continue
		}
		out.byName[d] = c
		if leaf := c.Certificates[0].Leaf; out.first == nil || leaf.NotAfter.Before(out.first.NotAfter) {
			out.first = leaf
		}
	}
	if before == nil && len(errs) > 0 {
		// Another is ordered in its place: no reason not to start.
		a.log.Error("a certificate of the cache is not used", "err", errors.Join(errs...))
		return out, nil
	}
	return out, errors.Join(errs...)
}

// due reports whether the time has come for another certificate than leaf: in the last third of its life, or the last 30 days.
// Nodes do not all come at once.
func (a *automatic) due(leaf *x509.Certificate) bool {
	if leaf == nil {
		return true
	}
	third := min(leaf.NotAfter.Sub(leaf.NotBefore)/3, 30*24*time.Hour)
	return a.now().After(leaf.NotAfter.Add(-third - time.Duration(a.early*float64(third)/10)))
}

func (s *shown) leaf(domain string) *x509.Certificate {
	if c := s.byName[domain]; c != nil {
		return c.Certificates[0].Leaf
	}
	return nil
}

// renew orders what is due, one after the other, and reports whether the cache has something new.
func (a *automatic) renew(ctx context.Context, current *shown) (changed bool) {
	for _, d := range a.cfg.Domains {
		t, leaf := a.tries[d], current.leaf(d)
		if !a.due(leaf) || a.now().Before(t.next) {
			continue
		}
		err := a.obtain(ctx, d, leaf)
		if ctx.Err() != nil {
			return changed
		}
		if err == nil {
			changed = true
			*t = try{}
			continue
		}
		a.failed.Add(1)
		pause := min(firstPause<<min(t.failures, 10), lastPause)
		var refused *acme.Error
		if errors.As(err, &refused) {
			if asked, ok := acme.RateLimit(refused); ok {
				pause = max(pause, asked)
			}
		}
		t.failures, t.next = t.failures+1, a.now().Add(pause)
		args := []any{"domain", d, "authority", a.cfg.Directory, "err", err, "next_try", t.next.UTC().Truncate(time.Second)}
		if leaf != nil {
			a.log.Error("a certificate was not renewed; the one before it is shown on", append(args, "expires", leaf.NotAfter)...)
			continue
		}
		a.log.Error("no certificate was issued; who asks for the domain is not let in", args...)
	}
	return changed
}

// obtain brings a newer certificate than have into the cache: another node's, or one that it orders. Whoever shares the cache waits.
func (a *automatic) obtain(ctx context.Context, domain string, have *x509.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	unlock, err := a.cache.lock(ctx)
	if err != nil {
		return fmt.Errorf("wait for another node that orders: %w", err)
	}
	defer unlock()
	if pair, err := a.cache.certificate(domain); err == nil && !a.due(pair.Leaf) && (have == nil || !bytes.Equal(have.Raw, pair.Leaf.Raw)) {
		return nil
	}
	if err := a.order(ctx, domain); err != nil {
		return err
	}
	a.issued.Add(1)
	a.log.Info("certificate issued", "domain", domain, "authority", a.cfg.Directory)
	return nil
}
