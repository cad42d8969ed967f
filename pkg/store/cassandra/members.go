package cassandra

import (
	"context"
	"errors"

	"github.com/gocql/gocql"

	"github.com/halley-im/halley/pkg/store"
)

const (
	raiseCursor = `UPDATE members USING TIMESTAMP ? SET cursor_seq = ?, cursor_count = ? WHERE app = ? AND conversation = ? AND user = ?`

	selectMembers = `SELECT user, joins, leaves, cursor_seq, cursor_count FROM members WHERE app = ? AND conversation = ?`
	selectMember  = selectMembers + ` AND user = ?`
)

// memberRow is a row of members as the driver scans it.
type memberRow struct {
	user          string
	joins, leaves []uint64
	seq, count    int64
}

func (m *memberRow) scan(row gocql.Scanner) error {
	*m = memberRow{}
	return row.Scan(&m.user, &m.joins, &m.leaves, &m.seq, &m.count)
}

func (m *memberRow) cursor() store.Cursor {
	if m.seq == 0 {
		return store.Cursor{}
	}
	return store.Cursor{User: m.user, Seq: uint64(m.seq), Count: uint64(m.count)}
}

// Members implements store.Members. The table is clustered by user, bytewise. A group may have a hundred thousand.
func (s *Store) Members(ctx context.Context, c store.Conversation) ([]store.Member, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	var out []store.Member
	err := s.all(ctx, "members", func(row gocql.Scanner) error {
		var m memberRow
		if err := m.scan(row); err != nil {
			return s.answer(ctx, "members", err)
		}
		if in := store.Intervals(m.joins, m.leaves); in != nil {
			out = append(out, store.Member{User: m.user, Intervals: in, Cursor: m.cursor()})
		}
		return nil
	}, selectMembers, c.App, c.ID)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) member(ctx context.Context, op string, c store.Conversation, user string) (m memberRow, err error) {
	if err := errors.Join(c.Check(), store.CheckName("user", user)); err != nil {
		return m, err
	}
	err = s.call(ctx, op, func(ctx context.Context) error {
		return s.read(ctx, m.scan, selectMember, c.App, c.ID, user)
	})
	return m, err
}

// Intervals implements store.Members.
func (s *Store) Intervals(ctx context.Context, c store.Conversation, user string) ([]store.Interval, error) {
	m, err := s.member(ctx, "intervals", c, user)
	if err != nil {
		return nil, err
	}
	return store.Intervals(m.joins, m.leaves), nil
}

// Cursor implements store.Members.
func (s *Store) Cursor(ctx context.Context, c store.Conversation, user string) (store.Cursor, error) {
	m, err := s.member(ctx, "cursor", c, user)
	if err != nil {
		return store.Cursor{}, err
	}
	return m.cursor(), nil
}

// SetCursors implements store.Members. The seq is the timestamp, so that the server keeps the highest.
func (s *Store) SetCursors(ctx context.Context, c store.Conversation, cursors []store.Cursor) error {
	if err := c.Check(); err != nil {
		return err
	}
	for _, cur := range cursors {
		if err := cur.Check(); err != nil {
			return err
		}
	}
	return s.call(ctx, "set cursors", func(ctx context.Context) error {
		p := s.newPlan()
		for _, cur := range cursors {
			if cur.Seq > 0 {
				p.add(partition{tableMembers, c.App, c.ID, 0}, len(cur.User), raiseCursor,
					int64(cur.Seq), int64(cur.Seq), int64(cur.Count), c.App, c.ID, cur.User)
			}
		}
		return s.write(ctx, p)
	})
}
