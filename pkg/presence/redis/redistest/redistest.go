// Package redistest gives tests a presence in a Redis of their own, inside the test's process. It has Redis's commands, not its
// persistence or its failovers.
package redistest

import (
	"log/slog"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/presence/redis"
)

// Start starts a server for the time of the test, and returns its address.
func Start(t testing.TB) string { return miniredis.RunT(t).Addr() }

// Open opens presence in the server at the address until the test ends.
func Open(t testing.TB, address string, metrics prometheus.Registerer) *redis.Registry {
	t.Helper()
	cfg := redis.Default()
	cfg.Addresses = []string{address}
	r, err := redis.New(cfg, redis.Deps{Log: slog.New(slog.DiscardHandler), Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
