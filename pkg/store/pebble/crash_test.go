package pebble

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// dir lies below a folder that does not exist either, as on a first start.
const dir = "data/history"

func mustOpen(t testing.TB, fs vfs.FS) *Store {
	t.Helper()
	s, err := open(dir, small(), quiet(), fs, func(message string) { t.Errorf("fatal: %s", message) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func message(c store.Conversation, seq uint64) *logv1.Record {
	return &logv1.Record{
		App: c.App, Conversation: c.ID, Seq: seq, Count: seq, Id: seq<<20 | 3, Sender: "alice", Device: "phone", ClientId: fmt.Sprintf("c%d", seq),
		TimeUs: 1_700_000_000_000_000 + int64(seq), Type: 16, Body: []byte(strings.Repeat("x", 100+int(seq%700))),
	}
}

// acknowledged is what callers were told is durable.
type acknowledged struct {
	mu      sync.Mutex
	records map[store.Conversation]uint64 // Highest of 1, 2, 3 …
	cursors map[store.Conversation]uint64
}

func (a *acknowledged) copy() *acknowledged {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &acknowledged{records: map[store.Conversation]uint64{}, cursors: map[store.Conversation]uint64{}}
	for c, seq := range a.records {
		out.records[c] = seq
	}
	for c, seq := range a.cursors {
		out.cursors[c] = seq
	}
	return out
}

func (a *acknowledged) note(in map[store.Conversation]uint64, c store.Conversation, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in[c] = seq
}

// Power is cut at many moments under load: the file system keeps what was synced and a random part of what was not. Whatever
// had been acknowledged before the cut must be there when the store is opened again.
func TestAcknowledgedSurvivesPowerCuts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	acked := acknowledged{records: map[store.Conversation]uint64{}, cursors: map[store.Conversation]uint64{}}
	ctx, stop := context.WithCancel(t.Context())
	var appends atomic.Int64
	var writers sync.WaitGroup
	// Writers rest while a clone is inspected, or there would be more to inspect each time. Not while it is taken.
	var rest sync.RWMutex
	for w := range 6 {
		writers.Go(func() {
			c := store.Conversation{App: "main", ID: fmt.Sprintf("g:%d", w)}
			for seq := uint64(1); ctx.Err() == nil; {
				var rs []*logv1.Record
				for range 1 + seq%40 {
					rs = append(rs, message(c, seq))
					seq++
				}
				rest.RLock()
				// Not ctx: a cancelled append would end the test's knowledge of what it wrote.
				err := s.Append(context.Background(), rs)
				rest.RUnlock()
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				acked.note(acked.records, c, seq-1)
				appends.Add(1)
				// Seldom: its sync would make durable what an append left unsynced.
				if seq%5 > 0 {
					continue
				}
				if err := s.SetCursors(context.Background(), c, []store.Cursor{{User: "bob", Seq: seq - 1, Count: seq - 1}}); err != nil {
					t.Errorf("set cursor: %v", err)
					return
				}
				acked.note(acked.cursors, c, seq-1)
			}
		})
	}
	for cut := range 12 {
		// A random moment, in appends and not in time.
		for target := appends.Load() + 1 + rng.Int64N(60); appends.Load() < target && !t.Failed(); {
			runtime.Gosched()
		}
		before := acked.copy()
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(4) * 33, RNG: rng})
		rest.Lock()
		inspect(t, fmt.Sprintf("cut %d", cut), crashed, before)
		rest.Unlock()
	}
	stop()
	writers.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	inspect(t, "after close", fs.CrashClone(vfs.CrashCloneCfg{}), acked.copy())
}

func inspect(t *testing.T, moment string, fs vfs.FS, acked *acknowledged) {
	t.Helper()
	s := mustOpen(t, fs)
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", moment, err)
		}
	}()
	for c, last := range acked.records {
		rs, err := s.Range(t.Context(), c, 1, last, math.MaxInt, false)
		if err != nil {
			t.Fatalf("%s: %v", moment, err)
		}
		if uint64(len(rs)) != last {
			t.Fatalf("%s: %s holds %d of %d acknowledged records", moment, c.ID, len(rs), last)
		}
		for i, r := range rs {
			if want := message(c, uint64(i+1)); r.Seq != want.Seq || r.Id != want.Id || string(r.Body) != string(want.Body) {
				t.Fatalf("%s: record %d of %s is not what was written: %v", moment, i+1, c.ID, r)
			}
		}
		cur, err := s.Cursor(t.Context(), c, "bob")
		if err != nil || cur.Seq < acked.cursors[c] {
			t.Fatalf("%s: cursor of %s is %d, acknowledged was %d (%v)", moment, c.ID, cur.Seq, acked.cursors[c], err)
		}
	}
}

// After a failed sync the file system may have dropped the pages and call the next sync a success. So the first failure
// must end the process, and the append that met it must not return.
func TestADiskThatFailsToSyncEndsTheProcess(t *testing.T) {
	broken := &atomic.Bool{}
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileWrite:
			if broken.Load() && strings.HasSuffix(op.Path, ".log") {
				return errors.New("the disk is gone")
			}
		}
		return nil
	}))
	var died atomic.Bool
	// The store stays open: a process that ended does not close it either.
	s, err := open(dir, small(), quiet(), fs, func(string) { died.Store(true) })
	if err != nil {
		t.Fatal(err)
	}
	c := store.Conversation{App: "main", ID: "g:x"}
	if err := s.Append(t.Context(), []*logv1.Record{message(c, 1)}); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("append returned")
			}
		}()
		err := s.Append(t.Context(), []*logv1.Record{message(c, 2)})
		t.Errorf("append on a broken disk: %v", err)
	}()
	if !died.Load() {
		t.Error("the process was not ended")
	}
}

func TestAStoreOfAnotherFormatIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	if err := mustOpen(t, fs).Close(); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, fs).Close(); err != nil {
		t.Fatalf("our own is refused: %v", err)
	}
	for what, spoil := range map[string]func(*pebble.DB) error{
		"a newer version": func(db *pebble.DB) error { return db.Set(keyFormat, appendSeq(nil, FormatVersion+1), pebble.Sync) },
		"no version, but data": func(db *pebble.DB) error {
			return errors.Join(db.Delete(keyFormat, pebble.Sync), db.Set([]byte("x"), nil, pebble.Sync))
		},
	} {
		db, err := pebble.Open(dir, options(small(), quiet(), fs, nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(spoil(db), db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := open(dir, small(), quiet(), fs, nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", what, err)
		}
	}
}

func TestTwoProcessesCannotOpenOneStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, small(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Open(dir, small(), quiet()); err == nil {
		t.Error(errors.Join(errors.New("a second open succeeded"), second.Close()))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(dir, small(), quiet())
	if err != nil {
		t.Fatalf("open after close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigNamesTheFieldAtFault(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*Config){
		"cache_bytes":    func(c *Config) { c.CacheBytes = 0 },
		"memtable_bytes": func(c *Config) { c.MemTableBytes = 1 << 10 },
		"open_files":     func(c *Config) { c.OpenFiles = 1 },
		"compactions":    func(c *Config) { c.Compactions = 0 },
	} {
		c := Default()
		spoil(&c)
		if _, err := Open(t.TempDir(), c, quiet()); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
