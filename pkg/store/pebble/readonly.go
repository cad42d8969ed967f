package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// OpenReadOnly opens a store that exists, for reading: no file of it changes, and every write is refused. What a process that
// was killed had only in its write-ahead log is read into memory.
func OpenReadOnly(dir string, cfg Config, log *slog.Logger) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("pebble: %w", err)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("pebble: %w", err) // Opening would create the folder.
	}
	o := options(cfg, log, vfs.Default, func(string) { os.Exit(1) })
	o.ReadOnly, o.ErrorIfNotExists = true, true
	db, err := pebble.Open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	value, closer, err := db.Get(keyFormat)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w: no version: %w", dir, ErrFormat, err), db.Close())
	}
	version := bytes.Clone(value)
	if err := closer.Close(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), db.Close())
	}
	if !bytes.Equal(version, binary.BigEndian.AppendUint64(nil, FormatVersion)) {
		err := fmt.Errorf("open %s: %w: the store has version %x, this build knows %d", dir, ErrFormat, version, FormatVersion)
		return nil, errors.Join(err, db.Close())
	}
	return &Store{db: db, drained: make(chan struct{})}, nil
}

// WalkRecords calls fn for every record of the conversations that wanted accepts, conversation by conversation, in the order of
// seq, until fn returns an error. c and seq are the place where the record stands. The store is seen as it was when the walk began. A record
// belongs to fn.
func (s *Store) WalkRecords(ctx context.Context, wanted func(store.Conversation) bool,
	fn func(c store.Conversation, seq uint64, r *logv1.Record) error,
) (err error) {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	prefix := []byte{tableRecords}
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for valid := it.First(); valid; {
		key := bytes.Clone(it.Key())
		c, names, ok := cutConversation(key)
		if !ok {
			return fmt.Errorf("key %x is no record's", key)
		}
		if !wanted(c) {
			valid = it.SeekGE(after(key[:names]))
			continue
		}
		for ; valid && bytes.HasPrefix(it.Key(), key[:names]); valid = it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			r, err := decode(it)
			if err != nil {
				return err
			}
			seq, ok := seqOf(it.Key()[names:])
			if !ok {
				return fmt.Errorf("key %x is no record's", it.Key())
			}
			if err := fn(c, seq, r); err != nil {
				return err
			}
		}
	}
	return it.Error()
}

// cutConversation takes the key of a record apart; names is the length of what all records of the conversation share.
func cutConversation(key []byte) (c store.Conversation, names int, ok bool) {
	app, rest, ok := cutName(key[1:])
	if !ok {
		return c, 0, false
	}
	id, rest, ok := cutName(rest)
	return store.Conversation{App: string(app), ID: string(id)}, len(key) - len(rest), ok && len(rest) == seqLen
}
