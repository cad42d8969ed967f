package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxLevelBody is ample for a level's name; the rest of a longer body is not read.
const maxLevelBody = 64

// AdminDeps is what the admin server works on.
type AdminDeps struct {
	Log      *slog.Logger
	Level    *slog.LevelVar
	Gatherer prometheus.Gatherer
	// Checks of /readyz, in the order in which they are listed; asked for at every request, for a node that starts up has
	// not got them all.
	Checks func() []Check
	// More is what a node has to say, and to be told, beside that, by pattern.
	More map[string]http.Handler
}

// Admin is the admin HTTP server of a node.
type Admin struct {
	cfg      AdminConfig
	deps     AdminDeps
	listener net.Listener
	server   *http.Server
}

// ListenAdmin takes the address, so that a port in use is known before anything else starts. It serves nothing until Run.
func ListenAdmin(cfg AdminConfig, deps AdminDeps) (*Admin, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, err
	}
	a := &Admin{cfg: cfg, deps: deps, listener: ln}
	a.server = &http.Server{
		Handler:           a.Handler(),
		ReadHeaderTimeout: time.Duration(cfg.ReadHeaderTimeoutMs) * time.Millisecond,
		// No request here has a body worth waiting for. There is no WriteTimeout: a CPU profile takes as long as was asked for.
		ReadTimeout: 2 * time.Duration(cfg.ReadHeaderTimeoutMs) * time.Millisecond,
		IdleTimeout: time.Duration(cfg.IdleTimeoutMs) * time.Millisecond,
		ErrorLog:    slog.NewLogLogger(deps.Log.Handler(), slog.LevelDebug),
	}
	return a, nil
}

// Addr is the address it listens on, with the port chosen when the configured one was 0.
func (a *Admin) Addr() net.Addr { return a.listener.Addr() }

// Close gives the address back without having served; after Run it changes nothing.
func (a *Admin) Close() error { return a.listener.Close() }

// Run serves until ctx ends, then gives requests in flight a second: nobody waits for a profile of a process that leaves.
func (a *Admin) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- a.server.Serve(a.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("admin server: %w", err)
	case <-ctx.Done():
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := a.server.Shutdown(wait); err != nil {
		a.server.Close() //nolint:errcheck // closes what did not end in time; there is nobody left to tell.
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin server: %w", err)
	}
	return nil
}

// Handler is all that the server serves.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.deps.Gatherer, promhttp.HandlerOpts{ErrorLog: promLog{a.deps.Log}}))
	mux.HandleFunc("GET /loglevel", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, a.deps.Level.Level().String()+"\n")
	})
	mux.HandleFunc("PUT /loglevel", a.setLevel)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	for pattern, handler := range a.deps.More {
		mux.Handle(pattern, handler)
	}
	return mux
}

// setLevel takes the level as plain text or as {"level": "debug"}.
func (a *Admin) setLevel(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxLevelBody))
	if err != nil {
		plain(w, http.StatusBadRequest, "cannot read the body\n")
		return
	}
	text := string(body)
	var object struct {
		Level string `json:"level"`
	}
	if json.Unmarshal(body, &object) == nil {
		text = object.Level
	}
	level, err := ParseLevel(strings.TrimSpace(text))
	if err != nil {
		plain(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	before := a.deps.Level.Level()
	a.deps.Level.Set(level)
	// At the new level or above, so that the change is in the log whichever way it went.
	a.deps.Log.Log(r.Context(), max(level, slog.LevelInfo), "log level changed", "from", before, "to", level)
	plain(w, http.StatusOK, level.String()+"\n")
}

func plain(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	io.WriteString(w, body) //nolint:errcheck // the client went away; there is nobody to tell.
}

// promLog hands what promhttp has to say to the process's log.
type promLog struct{ log *slog.Logger }

func (p promLog) Println(v ...any) { p.log.Error("metrics", "err", fmt.Sprint(v...)) }
