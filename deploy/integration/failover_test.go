//go:build integration

package integration

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/redis"
)

// TestPresenceAfterAFailover kills the primary of a Redis under sentinels. Presence finds the new one by itself, and its incarnation says
// that entries may have been lost on the way, so that nodes enter their sessions again.
func TestPresenceAfterAFailover(t *testing.T) {
	ports, err := freePorts(5)
	if err != nil {
		t.Fatal(err)
	}
	const password = "sentinels-and-servers"
	env := []string{
		"REDIS_MODE=sentinel", fmt.Sprint("REDIS_PORT=", ports[0]), "REDIS_PASSWORD=" + password, "REDIS_DATA=" + t.TempDir() + "/redis",
	}
	run := func(args ...string) {
		t.Helper()
		if err := servers.scriptWith(env, "redis.sh", args...); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { run("wipe") })
	run("start")

	cfg := redis.Default()
	cfg.Mode, cfg.Master, cfg.Password, cfg.SentinelPassword = redis.ModeSentinel, "halley", password, password
	cfg.Addresses = []string{address(ports[2]), address(ports[3]), address(ports[4])}
	r, err := redis.New(cfg, redis.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	alice := presence.User{App: "main", User: "alice"}
	enter := func() error {
		epoch, err := r.Acquire(t.Context(), "comet-a")
		if err != nil {
			return err
		}
		return r.Register(t.Context(), []presence.Registration{{
			User: alice, Entry: presence.Entry{Device: "phone", Node: "comet-a", Epoch: epoch, Conn: 1, Codec: link.CodecProto},
		}})
	}
	seen := func() bool {
		found, err := r.Lookup(t.Context(), []presence.User{alice}, nil)
		return err == nil && len(found[0]) == 1 && found[0][0].Device == "phone"
	}
	before := ""
	until(t, "presence knows the primary", func() bool {
		before, err = r.Incarnation(t.Context())
		return err == nil
	})
	if err := enter(); err != nil || !seen() {
		t.Fatalf("before: %v, seen %v", err, seen())
	}
	run("kill", primaryOf(t, env))
	until(t, "the failover has another incarnation", func() bool {
		now, err := r.Incarnation(t.Context())
		if err != nil && !errors.Is(err, presence.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil && now != before
	})
	until(t, "presence takes entries", func() bool { return enter() == nil && seen() })
	if now := primaryOf(t, env); now != "redis-2" {
		t.Errorf("the primary is %s", now)
	}
}

func primaryOf(t *testing.T, env []string) string {
	t.Helper()
	out, err := servers.output(env, "redis.sh", "primary")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
