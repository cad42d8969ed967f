//go:build integration

package redis

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/halley-im/halley/pkg/presence"
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

func TestWhatARealRedisGetsLateHasNoEffect(t *testing.T) {
	cfg := theRedis(t)
	if cfg.Mode != ModeSingle || cfg.TLS.Enabled {
		return // Its clients would go round the wire.
	}
	testLate(t, func(t *testing.T) Config {
		flush(t, open(t, cfg, nil))
		return cfg
	})
}

// Redis has a call, and does not come to it until its caller has given up.
func TestWhatRedisComesToLateHasNoEffect(t *testing.T) {
	l := &lateness{slow: open(t, theRedis(t), nil), fast: open(t, theRedis(t), nil)}
	flush(t, l.slow)
	l.slowEpoch, l.fastEpoch = l.acquire(t, l.slow, "comet-slow"), l.acquire(t, l.fast, "comet-fast")
	const patience, stands = 200 * time.Millisecond, time.Second
	for loops := 1 << 22; ; loops *= 2 {
		before := l.register(t, l.fast, l.on("fast", 1))
		var busy sync.WaitGroup
		busy.Go(func() {
			// Its caller may give up before it ends, too.
			_ = l.fast.client.Eval(context.WithoutCancel(t.Context()), `for i = 1, tonumber(ARGV[1]) do end`, []string{userKey(alice)}, loops).Err()
		})
		<-time.After(patience / 4)
		asked := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := l.slow.Register(ctx, []presence.Registration{l.on("slow", 2)})
		cancel()
		busy.Wait()
		readClock(t, l.slow) // Whatever Redis had, it has come to before this. The next one has a connection.
		if took := time.Since(asked); took > 10*stands {
			t.Fatalf("Redis stood for %v, and Register = %v", took, err)
		} else if err != nil && took > stands {
			l.expect(t, before.Entry)
			return
		}
	}
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
