// Package api is the HTTP API for app servers: it turns HTTP/JSON into the same requests that devices send, on the same path,
// with a server key's rights. It never touches a log or a conversation itself.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/certs"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// IdempotencyTTL is how long an Idempotency-Key is remembered.
const IdempotencyTTL = 24 * time.Hour

// Config configures the API.
type Config struct {
	Address          string `koanf:"address" doc:"Where the HTTP API listens, host:port."`
	BodyBytes        int64  `koanf:"body_bytes" doc:"Most bytes of a request's body."`
	RequestTimeoutMs int    `koanf:"request_timeout_ms" doc:"Most time for one request, milliseconds; retries inside the cluster end before it."`
	TokenTTLMaxS     int    `koanf:"token_ttl_max_s" doc:"Longest life of a token that the API issues, seconds."`

	TLS certs.Config `koanf:"tls" doc:"The certificate of the HTTP API; without one it speaks plain HTTP."`
}

// Default is the shipped configuration.
func Default() Config {
	return Config{Address: "127.0.0.1:7080", BodyBytes: 1 << 20, RequestTimeoutMs: 10_000, TokenTTLMaxS: 30 * 24 * 3600, TLS: certs.Default()}
}

// Validate refuses values that cannot work.
func (c Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return fmt.Errorf("api.address: %w", err)
	}
	switch {
	case c.BodyBytes < 1<<10 || c.BodyBytes > 64<<20:
		return errors.New("api.body_bytes: must lie between 1 KiB and 64 MiB")
	case c.RequestTimeoutMs < 100 || c.RequestTimeoutMs > 600_000:
		return errors.New("api.request_timeout_ms: must lie between 100 and 600000")
	case c.TokenTTLMaxS < 1:
		return errors.New("api.token_ttl_max_s: must be positive")
	}
	return nil
}

// Caller asks the owners of conversations; logic.Caller is one.
type Caller interface {
	Call(ctx context.Context, requests []link.Request, fn func(i int, f *envelopev1.Frame)) error
	One(ctx context.Context, r link.Request, reply protocol.Message) error
}

// Deps is what the API works with.
type Deps struct {
	Caller   Caller
	Presence presence.Registry
	Sender   link.Sender
	Keys     *auth.Keys
	// SigningKey signs the tokens that the API issues.
	SigningKey auth.Key
	// Audience is the aud of those tokens.
	Audience string
	// TLS shows the certificate; nil: plain HTTP.
	TLS *tls.Config
	// Idempotency remembers keys for IdempotencyTTL.
	Idempotency *bus.Leases
	// Demo is served under /demo/ where it is set.
	Demo    http.Handler
	Version string
	Logger  *slog.Logger
}

// API is the HTTP API of one logic node.
type API struct {
	cfg     Config
	deps    Deps
	handler http.Handler
	started chan struct{}
	addr    net.Addr
}

// New makes the API. Nothing is started.
func New(cfg Config, deps Deps) (*API, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &API{cfg: cfg, deps: deps, started: make(chan struct{})}
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Halley", deps.Version)
	config.Info.Description = description
	config.DocsPath = ""    // Our own page: the default one loads its viewer from elsewhere.
	config.SchemasPath = "" // No $schema links in answers.
	config.CreateHooks = nil
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"server_key": {Type: "http", Scheme: "bearer", Description: "A server API key, hk_…"},
	}
	config.Security = []map[string][]string{{"server_key": {}}}
	h := humago.New(mux, config)
	h.UseMiddleware(a.authenticate(h))
	a.register(h)
	mux.HandleFunc("GET /docs", docsPage)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/docs", http.StatusFound) })
	if deps.Demo != nil {
		mux.Handle("/demo/", deps.Demo)
	}
	a.handler = a.limits(mux)
	return a, nil
}

const acmeProto = "acme-tls/1"

const description = "Requests of an app's server. Errors are RFC 9457 problem documents with a stable `code`; a retryable one may be sent " +
	"again unchanged. Ids are strings; seqs are numbers. Times are microseconds since 1970."

// Handler serves the API.
func (a *API) Handler() http.Handler { return a.handler }

// Started is closed once the API accepts; Addr is valid from then on.
func (a *API) Started() <-chan struct{} { return a.started }

// Addr is where the API listens.
func (a *API) Addr() net.Addr { return a.addr }

// Scheme is that of the API's URLs.
func (a *API) Scheme() string {
	if a.deps.TLS != nil {
		return "https"
	}
	return "http"
}

// Run serves until ctx ends, and then ends what is under way.
func (a *API) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.Address)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	a.addr = listener.Addr()
	server := &http.Server{
		Handler: a.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30*time.Second + a.timeout(), IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.deps.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() {
		if a.deps.TLS == nil {
			ended <- server.Serve(listener)
			return
		}
		server.TLSConfig = a.deps.TLS
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetHTTP2(true)
		// An authority that asks whether the domain is ours (RFC 8737) has seen the answer by then; there are no requests over it.
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){acmeProto: func(*http.Server, *tls.Conn, http.Handler) {}}
		ended <- server.ServeTLS(listener, "", "") // The handshake has the time of a header.
	}()
	close(a.started)
	select {
	case err := <-ended:
		return fmt.Errorf("api: %w", err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(stopCtx); err != nil {
		a.deps.Logger.Warn("api: requests were cut off", "err", err)
		if err := server.Close(); err != nil { // What is left has had its time.
			a.deps.Logger.Debug("api: not closed cleanly", "err", err)
		}
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

func (a *API) timeout() time.Duration {
	return time.Duration(a.cfg.RequestTimeoutMs) * time.Millisecond
}

// limits bounds every request in time and size.
func (a *API) limits(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), a.timeout())
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, a.cfg.BodyBytes)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
