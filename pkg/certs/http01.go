package certs

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// token is what an authority calls a question (RFC 8555, section 8.3): nothing that could climb out of the cache.
var token = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// listen answers the authority's questions over plain HTTP and nothing else, until stop is called.
func (a *automatic) listen(ctx context.Context) (at net.Addr, stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.HTTPAddress)
	if err != nil {
		return nil, nil, fmt.Errorf("acme.http_address: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/acme-challenge/{token}", a.answer)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // It ends with the listener.
	}()
	return listener.Addr(), func() {
		_ = server.Close() // Whoever is cut off asks again.
		<-done
	}, nil
}

func (a *automatic) answer(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	name := r.PathValue("token")
	if !slices.Contains(a.cfg.Domains, strings.ToLower(host)) || !token.MatchString(name) {
		http.NotFound(w, r)
		return
	}
	data, err := os.ReadFile(a.cache.path(name + httpSuffix))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(data) // Whoever does not take it asks again.
}
