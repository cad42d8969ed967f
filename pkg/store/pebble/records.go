package pebble

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Append writes one batch and waits for one sync, which concurrent calls share.
func (s *Store) Append(ctx context.Context, records []*logv1.Record) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	for _, r := range records {
		if err := store.CheckRecord(r); err != nil {
			return err
		}
	}
	if len(records) == 0 {
		return nil
	}
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	// The memtable finds the place of a key from that of the key before: in order that is near.
	ordered := slices.Clone(records)
	slices.SortFunc(ordered, byKey)
	for _, r := range ordered {
		if err := addRecord(b, r); err != nil {
			return fmt.Errorf("append record %d of %s: %w", r.Seq, r.Conversation, err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("append %d records: %w", len(records), err)
	}
	return nil
}

func byKey(a, b *logv1.Record) int {
	if n := strings.Compare(a.App, b.App); n != 0 {
		return n
	}
	if n := strings.Compare(a.Conversation, b.Conversation); n != 0 {
		return n
	}
	return cmp.Compare(a.Seq, b.Seq)
}

// addRecord encodes key and value in place, in the batch's own memory.
func addRecord(b *pebble.Batch, r *logv1.Record) error {
	op := b.SetDeferred(keyLen(seqLen, r.App, r.Conversation), r.SizeVT())
	appendSeq(appendKey(op.Key[:0], tableRecords, r.App, r.Conversation), r.Seq)
	if _, err := r.MarshalToSizedBufferVT(op.Value); err != nil {
		return err
	}
	if err := op.Finish(); err != nil {
		return err
	}
	for _, user := range r.Joined {
		if err := addMembership(b, r, user, memberJoined); err != nil {
			return err
		}
	}
	for _, user := range r.Left {
		if err := addMembership(b, r, user, memberLeft); err != nil {
			return err
		}
	}
	return nil
}

func addMembership(b *pebble.Batch, r *logv1.Record, user string, event byte) error {
	op := b.SetDeferred(keyLen(1+seqLen, r.App, r.Conversation, user), 0)
	appendSeq(append(appendKey(op.Key[:0], tableMembers, r.App, r.Conversation, user), event), r.Seq)
	return op.Finish()
}

// Range implements store.Records.
func (s *Store) Range(ctx context.Context, c store.Conversation, from, to uint64, limit int, newest bool) (out []*logv1.Record, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := c.Check(); err != nil {
		return nil, err
	}
	to = min(to, store.MaxSeq)
	if from > to || limit <= 0 {
		return nil, nil
	}
	prefix := appendKey(make([]byte, 0, keyLen(seqLen, c.App, c.ID)), tableRecords, c.App, c.ID)
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{
		LowerBound: appendSeq(slices.Clone(prefix), from), UpperBound: appendSeq(prefix, to+1),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	start, step := it.First, it.Next
	if newest {
		start, step = it.Last, it.Prev
	}
	out = make([]*logv1.Record, 0, min(uint64(limit), to-from+1, 64))
	for valid := start(); valid && len(out) < limit; valid = step() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := decode(it)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if err := it.Error(); err != nil {
		return nil, err
	}
	if newest {
		slices.Reverse(out)
	}
	return out, nil
}

// decode copies the value once; the record's strings and body point into the copy, which is the record's alone.
func decode(it *pebble.Iterator) (*logv1.Record, error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return nil, err
	}
	r := new(logv1.Record)
	if err := r.UnmarshalVTUnsafe(slices.Clone(value)); err != nil {
		return nil, fmt.Errorf("decode record %x: %w", it.Key(), err)
	}
	return r, nil
}

// Head implements store.Records: the last record of the conversation.
func (s *Store) Head(ctx context.Context, c store.Conversation) (head *logv1.Record, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := c.Check(); err != nil {
		return nil, err
	}
	prefix := appendKey(nil, tableRecords, c.App, c.ID)
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.Last() {
		return nil, it.Error()
	}
	value, err := it.ValueAndErr()
	if err != nil {
		return nil, err
	}
	// Not the unsafe way of decode: a head is kept for long and must not hold on to the body.
	head = new(logv1.Record)
	if err := head.UnmarshalVT(value); err != nil {
		return nil, fmt.Errorf("decode head of %s: %w", c.ID, err)
	}
	head.Body = nil
	return head, nil
}

// seqOf reads the number at the end of a key.
func seqOf(b []byte) (uint64, bool) {
	if len(b) != seqLen {
		return 0, false
	}
	return binary.BigEndian.Uint64(b), true
}
