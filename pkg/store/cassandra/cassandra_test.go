//go:build integration

package cassandra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/storetest"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// testConfig names a keyspace that nobody else has. Creating tables takes most of a second each: one keyspace serves a run.
func testConfig(t testing.TB) Config {
	t.Helper()
	address := os.Getenv("TEST_CASSANDRA")
	if address == "" {
		t.Fatal("TEST_CASSANDRA=host:port must name a Cassandra node; deploy/local/cassandra/cassandra.sh starts one")
	}
	cfg := Default()
	cfg.Hosts = []string{address}
	if ca := os.Getenv("TEST_CASSANDRA_CA"); ca != "" {
		cfg.TLS, cfg.CAFile = true, ca
	}
	cfg.Keyspace = fmt.Sprintf("halley_test_%x", rand.Uint64())
	cfg.Replicas = 1
	// A crowded machine with one small node.
	cfg.RequestTimeoutMs, cfg.CallTimeoutMs = 15_000, 60_000
	return cfg
}

// dropAfter drops the keyspace at the test's end.
func dropAfter(t testing.TB, cfg Config) {
	t.Cleanup(func() {
		admin(t, cfg, "DROP KEYSPACE IF EXISTS "+cfg.Keyspace)
	})
}

func admin(t testing.TB, cfg Config, stmt string, args ...any) {
	t.Helper()
	session, err := connect(context.Background(), cfg, "", quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Query(stmt, args...).RetryPolicy(nil).Exec(); err != nil {
		t.Fatalf("%s: %v", stmt, err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The stages share a keyspace, and each leaves it as the next expects it.
func TestOnARealNode(t *testing.T) {
	cfg := testConfig(t)
	dropAfter(t, cfg)
	t.Run("a node refuses a keyspace that is missing or empty", func(t *testing.T) { refusesNothing(t, cfg) })
	t.Run("migrations run once, whoever calls", func(t *testing.T) { migratesOnce(t, cfg) })
	t.Run("a node refuses a schema it does not know", func(t *testing.T) { refusesUnknown(t, cfg) })
	t.Run("conformance", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Store { return mustOpen(t, cfg) })
	})
	t.Run("a conversation whose top only heads know", func(t *testing.T) { readsHeads(t, cfg) })
	t.Run("the lock of a dead node is taken when its time is over", func(t *testing.T) { takesOverLock(t, cfg) })
	t.Run("no quorum is unavailable, and soon", func(t *testing.T) { noQuorum(t, cfg) })
}

func refusesNothing(t *testing.T, cfg Config) {
	if _, err := Open(t.Context(), cfg, quiet()); err == nil || !strings.Contains(err.Error(), cfg.Keyspace) {
		t.Fatalf("open without a keyspace: %v", err)
	}
	if err := createKeyspace(t.Context(), cfg, quiet()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cfg, quiet()); !errors.Is(err, ErrSchema) {
		t.Fatalf("open an empty keyspace: %v, want ErrSchema", err)
	}
}

func migratesOnce(t *testing.T, cfg Config) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// The first creates the migrator's tables alone, as the doc comment of Migrate asks.
	if err := Migrate(ctx, cfg, quiet()); err != nil {
		t.Fatal(err)
	}
	log := &counting{}
	known := append(ours(t), migration{version: len(ours(t)) + 1, name: "test.cql", checksum: "test", statements: []string{
		"CREATE TABLE IF NOT EXISTS test_a (id int PRIMARY KEY)", "CREATE TABLE IF NOT EXISTS test_b (id int PRIMARY KEY)",
	}})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := migrate(ctx, cfg, slog.New(log), known); err != nil {
				t.Errorf("one of three nodes that migrate at once: %v", err)
			}
		})
	}
	wg.Wait()
	if n := log.count("applying migration"); n != 1 {
		t.Fatalf("the migration was applied %d times", n)
	}
	// This build does not know that migration: it is the older node beside a newer one.
	if _, err := Open(ctx, cfg, quiet()); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("open a newer schema: %v", err)
	}
	if err := Migrate(ctx, cfg, quiet()); !errors.Is(err, ErrSchema) {
		t.Fatalf("migrate a newer schema: %v", err)
	}
	admin(t, cfg, "DELETE FROM "+cfg.Keyspace+".schema_migrations WHERE scope = ? AND version = ?", scope, len(known))
	mustOpen(t, cfg).Close()
}

// Versions without the column in messages kept the highest bucket in heads.
func readsHeads(t *testing.T, cfg Config) {
	s := mustOpen(t, cfg)
	defer s.Close()
	c := store.Conversation{App: "main", ID: "g:heads"}
	var written []*logv1.Record
	for _, seq := range []uint64{1, endOfFirst, endOfFirst + 1, 3 * (endOfFirst + 1)} {
		written = append(written, &logv1.Record{App: c.App, Conversation: c.ID, Seq: seq, Count: seq, TimeUs: int64(seq), Body: []byte{1}})
	}
	if err := s.Append(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	admin(t, cfg, "DELETE top FROM "+cfg.Keyspace+".messages WHERE app = ? AND conversation = ? AND bucket = 0", c.App, c.ID)
	last := written[len(written)-1]
	if head, err := s.Head(t.Context(), c); err != nil || head == nil || head.Seq != last.Seq {
		t.Errorf("head %v, %v, want %d", head, err, last.Seq)
	}
	for _, newest := range []bool{false, true} {
		if got, err := s.Range(t.Context(), c, 1, store.MaxSeq, 10, newest); err != nil || len(got) != len(written) {
			t.Errorf("newest %v: %d records, %v, want all %d", newest, len(got), err, len(written))
		}
	}
	if got, err := s.Range(t.Context(), c, 1, store.MaxSeq, 1, true); err != nil || len(got) != 1 || got[0].Seq != last.Seq {
		t.Errorf("the newest: %v, %v, want %d", got, err, last.Seq)
	}
}

func refusesUnknown(t *testing.T, cfg Config) {
	first := ours(t)[0]
	set := "UPDATE " + cfg.Keyspace + ".schema_migrations SET checksum = ? WHERE scope = ? AND version = 1"
	admin(t, cfg, set, "0123456789abcdef", scope)
	if _, err := Open(t.Context(), cfg, quiet()); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "changed") {
		t.Fatalf("open a changed schema: %v", err)
	}
	admin(t, cfg, set, first.checksum, scope)
	mustOpen(t, cfg).Close()
}

func takesOverLock(t *testing.T, cfg Config) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	admin(t, cfg, "INSERT INTO "+cfg.Keyspace+".schema_lock (name, owner) VALUES ('schema', 'a dead node') IF NOT EXISTS USING TTL 2")
	s := mustOpen(t, cfg)
	defer s.Close()
	begin := time.Now()
	lock, err := acquireLock(ctx, s.session, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(begin); waited < 500*time.Millisecond {
		t.Fatalf("took a lock that was held after %v", waited)
	}
	if err := lock.renew(ctx); err != nil {
		t.Fatal(err)
	}
	impatient, stop := context.WithTimeout(ctx, 700*time.Millisecond)
	defer stop()
	if _, err := acquireLock(impatient, s.session, quiet()); err == nil || !strings.Contains(err.Error(), lock.owner) {
		t.Fatalf("a second holder: %v", err)
	}
	lock.release(ctx)
	if err := lock.renew(ctx); !errors.Is(err, errLockLost) {
		t.Fatalf("renew after release: %v", err)
	}
}

func noQuorum(t *testing.T, cfg Config) {
	admin(t, cfg, "ALTER KEYSPACE "+cfg.Keyspace+" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}")
	s := mustOpenAt(t, cfg, "ONE")
	defer s.Close()
	c := store.Conversation{App: "main", ID: "g:x"}
	r := &logv1.Record{App: c.App, Conversation: c.ID, Seq: 1, TimeUs: 1}
	if err := s.Append(t.Context(), []*logv1.Record{r}); err != nil {
		t.Fatalf("one copy is enough for ONE: %v", err)
	}
	// The same session with a higher demand: two of three copies have no node.
	s.session.SetConsistency(gocql.LocalQuorum)
	begin := time.Now()
	_, readErr := s.Range(t.Context(), c, 1, 2, 3, false)
	for what, err := range map[string]error{"append": s.Append(t.Context(), []*logv1.Record{r}), "range": readErr, "ping": s.Ping(t.Context())} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", what, err)
		}
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("said so after %v", took)
	}
}

func mustOpenAt(t testing.TB, cfg Config, consistency string) *Store {
	cfg.Consistency = consistency
	return mustOpen(t, cfg)
}

// counting is a log that counts messages.
type counting struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *counting) Enabled(context.Context, slog.Level) bool { return true }
func (c *counting) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *counting) WithGroup(string) slog.Handler            { return c }

func (c *counting) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]int{}
	}
	c.seen[r.Message]++
	return nil
}

func (c *counting) count(message string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[message]
}
