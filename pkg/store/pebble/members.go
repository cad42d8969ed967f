package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/halley-im/halley/pkg/store"
)

// Members implements store.Members. Keys order users by length first, so the result is sorted once more.
func (s *Store) Members(ctx context.Context, c store.Conversation) ([]store.Member, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := c.Check(); err != nil {
		return nil, err
	}
	var out []store.Member
	var m membership
	flush := func() {
		if in := store.Intervals(m.joins, m.leaves); in != nil {
			out = append(out, store.Member{User: m.cursor.User, Intervals: in, Cursor: m.readCursor()})
		}
	}
	err := s.scan(ctx, appendKey(nil, tableMembers, c.App, c.ID), func(rest, value []byte) error {
		user, rest, ok := cutName(rest)
		if !ok {
			return fmt.Errorf("pebble: broken member key %x in %s", rest, c.ID)
		}
		if string(user) != m.cursor.User {
			flush()
			m.reset(string(user))
		}
		return m.add(rest, value)
	})
	if err != nil {
		return nil, err
	}
	flush()
	slices.SortFunc(out, func(a, b store.Member) int { return strings.Compare(a.User, b.User) })
	return out, nil
}

// Intervals implements store.Members.
func (s *Store) Intervals(ctx context.Context, c store.Conversation, user string) ([]store.Interval, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := errors.Join(c.Check(), store.CheckName("user", user)); err != nil {
		return nil, err
	}
	var m membership
	if err := s.scan(ctx, appendKey(nil, tableMembers, c.App, c.ID, user), m.add); err != nil {
		return nil, err
	}
	return store.Intervals(m.joins, m.leaves), nil
}

// membership gathers the keys of one user in one conversation.
type membership struct {
	joins, leaves []uint64
	cursor        store.Cursor // User is set from the start.
}

func (m *membership) reset(user string) {
	m.joins, m.leaves, m.cursor = m.joins[:0], m.leaves[:0], store.Cursor{User: user}
}

// readCursor is the zero cursor where none was stored.
func (m *membership) readCursor() store.Cursor {
	if m.cursor.Seq == 0 {
		return store.Cursor{}
	}
	return m.cursor
}

// add takes what follows the user in a key.
func (m *membership) add(rest, value []byte) error {
	if len(rest) == 1 && rest[0] == memberCursor {
		return decodeCursor(value, &m.cursor)
	}
	if len(rest) == 1+seqLen {
		seq, _ := seqOf(rest[1:])
		switch rest[0] {
		case memberJoined:
			m.joins = append(m.joins, seq)
			return nil
		case memberLeft:
			m.leaves = append(m.leaves, seq)
			return nil
		}
	}
	return fmt.Errorf("pebble: broken member key …%x", rest)
}

// SetCursors implements store.Members.
func (s *Store) SetCursors(ctx context.Context, c store.Conversation, cursors []store.Cursor) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := c.Check(); err != nil {
		return err
	}
	for _, cur := range cursors {
		if err := cur.Check(); err != nil {
			return err
		}
	}
	return s.commit(func(b *pebble.Batch) error {
		for _, cur := range cursors {
			if cur.Seq == 0 {
				continue
			}
			op := b.MergeDeferred(keyLen(1, c.App, c.ID, cur.User), 2*seqLen)
			_ = append(appendKey(op.Key[:0], tableMembers, c.App, c.ID, cur.User), memberCursor)
			appendSeq(appendSeq(op.Value[:0], cur.Seq), cur.Count)
			if err := op.Finish(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Cursor implements store.Members.
func (s *Store) Cursor(ctx context.Context, c store.Conversation, user string) (store.Cursor, error) {
	if err := s.enter(ctx); err != nil {
		return store.Cursor{}, err
	}
	defer s.leave()
	if err := errors.Join(c.Check(), store.CheckName("user", user)); err != nil {
		return store.Cursor{}, err
	}
	value, closer, err := s.db.Get(append(appendKey(nil, tableMembers, c.App, c.ID, user), memberCursor))
	if errors.Is(err, pebble.ErrNotFound) {
		return store.Cursor{}, nil
	}
	if err != nil {
		return store.Cursor{}, fmt.Errorf("read cursor: %w", err)
	}
	defer func() { _ = closer.Close() }()
	cursor := store.Cursor{User: user}
	err = decodeCursor(value, &cursor)
	return cursor, err
}

func decodeCursor(value []byte, c *store.Cursor) error {
	if len(value) != 2*seqLen {
		return fmt.Errorf("pebble: broken cursor %x of %s", value, c.User)
	}
	c.Seq, c.Count = binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[seqLen:])
	return nil
}

// commit fills a batch and makes it durable; an empty one costs nothing.
func (s *Store) commit(fill func(*pebble.Batch) error) error {
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := fill(b); err != nil {
		return err
	}
	if b.Empty() {
		return nil
	}
	return b.Commit(pebble.Sync)
}
