//go:build integration

package redis

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/halley-im/halley/pkg/presence/presencetest"
)

// theRedis is a Redis of the tests' own: they flush it.
func theRedis(t testing.TB) Config {
	t.Helper()
	address := os.Getenv("TEST_REDIS")
	if address == "" {
		t.Fatal("TEST_REDIS is not set: host:port of a Redis that the tests may flush, or host:port,host:port,… of a cluster, or primary@host:port of a sentinel")
	}
	cfg := config(address)
	if strings.Contains(address, ",") {
		cfg.Mode, cfg.Addresses = ModeCluster, strings.Split(address, ",")
	}
	if name, sentinel, ok := strings.Cut(address, "@"); ok {
		cfg.Mode, cfg.Master, cfg.Addresses = ModeSentinel, name, []string{sentinel}
	}
	if ca := os.Getenv("TEST_REDIS_CA"); ca != "" {
		cfg.TLS = TLS{Enabled: true, CAFile: ca}
	}
	return cfg
}

func flush(t testing.TB, r *Registry) {
	t.Helper()
	err := r.primaries(context.Background(), func(ctx context.Context, c goredis.Cmdable) error { return c.FlushAll(ctx).Err() })
	if err != nil {
		t.Fatalf("FLUSHALL: %v", err)
	}
}

// advance shortens what every lease has left, as time would.
func advance(t testing.TB, r *Registry, d time.Duration) {
	t.Helper()
	err := r.primaries(context.Background(), func(ctx context.Context, c goredis.Cmdable) error {
		keys, err := c.Keys(ctx, "node:{*").Result()
		if err != nil {
			return err
		}
		for _, key := range keys {
			left, err := c.PTTL(ctx, key).Result()
			if err != nil {
				return err
			}
			if err := c.PExpire(ctx, key, max(0, left-d)).Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("advance: %v", err)
	}
}

func TestSuiteOnRedis(t *testing.T) {
	presencetest.Run(t, func(t *testing.T) presencetest.Harness {
		c := new(clock)
		r := open(t, theRedis(t), c.Now)
		flush(t, r)
		return presencetest.Harness{
			Registry: r, Other: open(t, theRedis(t), c.Now), Staleness: staleness,
			Advance: func(d time.Duration) { c.Advance(d); advance(t, r, d) },
			Wipe:    func() { flush(t, r) },
		}
	})
}

// The servers' run ids must be in the incarnation: a restart from an old dump brings the old canaries back.
func TestIncarnationNamesTheServers(t *testing.T) {
	r := open(t, theRedis(t), nil)
	ids, err := r.servers(t.Context())
	if err != nil || len(ids) < 2 {
		t.Fatalf("servers = %v, %v: want a run id and a replication id of each", ids, err)
	}
}

func BenchmarkLookupRedis(b *testing.B) {
	r := open(b, theRedis(b), nil)
	flush(b, r)
	benchmarkLookup(b, r)
}
