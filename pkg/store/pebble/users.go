package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/halley-im/halley/pkg/store"
)

const standingLen = seqLen + 1 + 2*seqLen

// The bits of a standing's byte.
const (
	standingMember = 1 << iota
	standingLarge
)

// PutStandings implements store.Users.
func (s *Store) PutStandings(ctx context.Context, app string, standings []store.UserStanding) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := store.CheckName("app", app); err != nil {
		return err
	}
	for _, st := range standings {
		if err := st.Check(); err != nil {
			return err
		}
	}
	return s.commit(func(b *pebble.Batch) error {
		for _, st := range standings {
			if err := touch(b, app, st.User, st.Conversation, st.MinuteUs); err != nil {
				return err
			}
			if st.Seq == 0 {
				continue
			}
			op := b.MergeDeferred(keyLen(1, app, st.User, st.Conversation), standingLen)
			_ = append(appendKey(op.Key[:0], tableUsers, app, st.User, st.Conversation), userStanding)
			var what byte
			if st.Member {
				what |= standingMember
			}
			if st.Large {
				what |= standingLarge
			}
			appendSeq(appendSeq(append(appendSeq(op.Value[:0], st.Seq), what), st.JoinedSeq), st.LeftSeq)
			if err := op.Finish(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Touch implements store.Users.
func (s *Store) Touch(ctx context.Context, app string, touches []store.Touch) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := store.CheckName("app", app); err != nil {
		return err
	}
	for _, t := range touches {
		if err := t.Check(); err != nil {
			return err
		}
	}
	return s.commit(func(b *pebble.Batch) error {
		for _, t := range touches {
			if err := touch(b, app, t.User, t.Conversation, t.MinuteUs); err != nil {
				return err
			}
		}
		return nil
	})
}

func touch(b *pebble.Batch, app, user, conversation string, minuteUs int64) error {
	if minuteUs == 0 {
		return nil
	}
	op := b.MergeDeferred(keyLen(1, app, user, conversation), seqLen)
	_ = append(appendKey(op.Key[:0], tableUsers, app, user, conversation), userActive)
	appendSeq(op.Value[:0], uint64(minuteUs))
	return op.Finish()
}

// List implements store.Users. The two keys of a row are neighbours, so one pass gathers them.
func (s *Store) List(ctx context.Context, app, user string, fn func(store.Listing) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := errors.Join(store.CheckName("app", app), store.CheckName("user", user)); err != nil {
		return err
	}
	var row store.Listing
	var stopped error // The reader's own error, which is returned as it is.
	flush := func() error {
		if row.Conversation != "" {
			stopped = fn(row)
		}
		return stopped
	}
	err := s.scan(ctx, appendKey(nil, tableUsers, app, user), func(rest, value []byte) error {
		conversation, kind, ok := cutName(rest)
		if !ok || len(kind) != 1 {
			return fmt.Errorf("pebble: broken user key …%x", rest)
		}
		if string(conversation) != row.Conversation {
			if err := flush(); err != nil {
				return err
			}
			row = store.Listing{Standing: store.Standing{Conversation: string(conversation)}}
		}
		return decodeRow(kind[0], value, &row)
	})
	if stopped != nil {
		return stopped
	}
	if err != nil {
		return err
	}
	return flush()
}

func decodeRow(kind byte, value []byte, row *store.Listing) error {
	switch {
	case kind == userStanding && len(value) == standingLen:
		row.Seq = binary.BigEndian.Uint64(value)
		row.Member, row.Large = value[seqLen]&standingMember != 0, value[seqLen]&standingLarge != 0
		row.JoinedSeq = binary.BigEndian.Uint64(value[seqLen+1:])
		row.LeftSeq = binary.BigEndian.Uint64(value[2*seqLen+1:])
	case kind == userActive && len(value) == seqLen:
		row.ActiveUs = int64(binary.BigEndian.Uint64(value))
	default:
		return fmt.Errorf("pebble: broken row %d %x of %s", kind, value, row.Conversation)
	}
	return nil
}
