//go:build integration

package integration

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
)

// With SERVICES_TLS=1 the real servers speak nothing but TLS, and the suites pass on them as without.
func TestServicesBehindTLS(t *testing.T) {
	s, err := newServices()
	if err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "SERVICES_TLS=1", "NATS_NODES=1")
	t.Cleanup(func() {
		if err := s.each("wipe"); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	if err := s.each("start"); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(s.dir, "tls", "ca.pem")
	t.Run("nats", func(t *testing.T) {
		connect := func(tls bus.TLS) error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := bus.Connect(ctx, bus.Config{
				Name: "tls", URLs: []string{"nats://" + s.nats[0]}, User: "operator", Password: "operator", TLS: tls,
			}, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Flush(ctx)
		}
		if err := connect(bus.TLS{CAFile: ca}); err != nil {
			t.Errorf("with the authority: %v", err)
		}
		if err := connect(bus.TLS{}); err == nil {
			t.Error("connected without knowing the authority")
		}
	})
	t.Run("redis", func(t *testing.T) {
		goTest(t, []string{"TEST_REDIS=" + s.redis, "TEST_REDIS_CA=" + ca}, "-run", "TestSuiteOnRedis", "./pkg/presence/redis")
		if answer := plainly(t, s.redis, "PING\r\n"); answer == "+PONG" {
			t.Error("Redis answers without TLS")
		}
	})
	t.Run("cassandra", func(t *testing.T) {
		goTest(t, []string{"TEST_CASSANDRA=" + s.cassandra, "TEST_CASSANDRA_CA=" + ca}, "-run", "TestOnARealNode", "./pkg/store/cassandra")
		if answer := plainly(t, s.cassandra, "\x04\x00\x00\x00\x05\x00\x00\x00\x00"); len(answer) > 0 && answer[0] == 0x84 {
			t.Error("Cassandra answers without TLS")
		}
	})
}

// plainly says something without TLS and returns the first bytes of what is answered, if anything is.
func plainly(t *testing.T, address, words string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, words); err != nil {
		return ""
	}
	answer := make([]byte, 5)
	n, _ := io.ReadFull(conn, answer) // A server that speaks TLS closes, or says what is no answer.
	return string(answer[:n])
}
