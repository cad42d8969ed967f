// Package pebble is the store of one machine: history and all else in an embedded key-value database. It never reads a body,
// and no write of it reads first.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/halley-im/halley/pkg/store"
)

// FormatVersion counts changes of the keys and values described in keys.go. A store of another version is not opened.
const FormatVersion = 1

// ErrFormat: the folder holds what this build cannot read.
var ErrFormat = errors.New("pebble: unknown format")

// Store implements store.Store.
type Store struct {
	db *pebble.DB

	// guarded by mu
	mu      sync.Mutex
	calls   int
	closed  bool
	drained chan struct{} // Closed when closed is set and calls is 0.
}

var _ store.Store = (*Store)(nil)

// Open opens the store in a folder and creates it where there is none. One process at a time can have it open. A disk that
// fails to write ends the process: after a failed fsync nobody knows what is on the disk, and the log has everything.
func Open(dir string, cfg Config, log *slog.Logger) (*Store, error) {
	return open(dir, cfg, log, vfs.Default, func(string) { os.Exit(1) })
}

func open(dir string, cfg Config, log *slog.Logger, fs vfs.FS, fatal func(string)) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("pebble: %w", err)
	}
	db, err := pebble.Open(dir, options(cfg, log, fs, fatal))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if err := checkFormat(db); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), db.Close())
	}
	return &Store{db: db, drained: make(chan struct{})}, nil
}

func options(cfg Config, log *slog.Logger, fs vfs.FS, fatal func(string)) *pebble.Options {
	o := &pebble.Options{
		FS:        fs,
		CacheSize: cfg.CacheBytes,
		// Pinned: files must not change because a dependency did.
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                uint64(cfg.MemTableBytes),
		MemTableStopWritesThreshold: 2,
		MaxOpenFiles:                cfg.OpenFiles,
		CompactionConcurrencyRange:  func() (int, int) { return 1, cfg.Compactions },
		Merger:                      maxMerger,
		Logger:                      logger{log, fatal},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { log.Error("store background error", "err", err) },
			DiskSlow: func(i pebble.DiskSlowInfo) {
				log.Warn("store disk slow", "path", i.Path, "op", i.OpType.String(), "duration", i.Duration)
			},
			WriteStallBegin: func(i pebble.WriteStallBeginInfo) { log.Warn("store writes stalled", "reason", i.Reason) },
			WriteStallEnd:   func() { log.Warn("store writes go on") },
		},
	}
	// Two thirds of the processor time of a write are compactions: the cheapest compression, and no Bloom filters, which only
	// the look-up of a single missing cursor would use.
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	return o
}

// checkFormat reads the version and writes it into an empty store.
func checkFormat(db *pebble.DB) error {
	value, closer, err := db.Get(keyFormat)
	if err == nil {
		defer func() { _ = closer.Close() }()
		if len(value) != 8 || binary.BigEndian.Uint64(value) != FormatVersion {
			return fmt.Errorf("%w: the store has version %x, this build knows %d", ErrFormat, value, FormatVersion)
		}
		return nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return fmt.Errorf("read format: %w", err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	occupied := it.First()
	if err := it.Close(); err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	if occupied {
		return fmt.Errorf("%w: the folder holds another program's data", ErrFormat)
	}
	return db.Set(keyFormat, binary.BigEndian.AppendUint64(nil, FormatVersion), pebble.Sync)
}

// Ping writes to the disk.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	return s.db.Set(keyPing, nil, pebble.Sync)
}

// Close waits for the calls that are under way; later ones answer store.ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.drained
		return nil
	}
	s.closed = true
	if s.calls == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	<-s.drained
	return s.db.Close()
}

// enter begins a call. Pebble panics when it is used after Close; and a RWMutex would deadlock where a reader of List calls
// the store while Close waits.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	s.calls++
	return nil
}

func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls--; s.calls == 0 && s.closed {
		close(s.drained)
	}
}

// scan calls fn for each key with the prefix, in order, without the prefix. fn may not keep its arguments.
func (s *Store) scan(ctx context.Context, prefix []byte, fn func(rest, value []byte) error) (err error) {
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for valid := it.First(); valid; valid = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := fn(it.Key()[len(prefix):], value); err != nil {
			return err
		}
	}
	return it.Error()
}

// logger hands Pebble's words to slog.
type logger struct {
	log   *slog.Logger
	fatal func(string)
}

func (l logger) Infof(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l logger) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }

// Fatalf must not return: Pebble would go on and report a failed commit as done.
func (l logger) Fatalf(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	l.log.Error("store cannot go on", "err", message)
	l.fatal(message)
	panic("pebble: " + message)
}

// maxMerger keeps the bytewise greatest of the values written to a key. Registers that only rise (cursors, standings,
// touches) are big-endian with the deciding number first, so concurrent writers need neither a lock nor a read, and any order
// of the same writes ends the same. Its name stands on disk.
var maxMerger = &pebble.Merger{
	Name: "halley.max",
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		return &maximum{append([]byte(nil), value...)}, nil
	},
}

type maximum struct{ value []byte }

func (m *maximum) MergeNewer(value []byte) error {
	if string(value) > string(m.value) {
		m.value = append(m.value[:0], value...)
	}
	return nil
}

func (m *maximum) MergeOlder(value []byte) error { return m.MergeNewer(value) }

func (m *maximum) Finish(bool) ([]byte, io.Closer, error) { return m.value, nil, nil }
