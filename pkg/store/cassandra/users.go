package cassandra

import (
	"context"
	"errors"

	"github.com/gocql/gocql"

	"github.com/halley-im/halley/pkg/store"
)

const (
	raiseStanding = `UPDATE user_conversations USING TIMESTAMP ? SET standing_seq = ?, member = ?, joined_seq = ?, left_seq = ?, large = ? WHERE app = ? AND user = ? AND conversation = ?`
	raiseActive   = `UPDATE user_conversations USING TIMESTAMP ? SET active_us = ? WHERE app = ? AND user = ? AND conversation = ?`

	selectList = `SELECT conversation, standing_seq, member, joined_seq, left_seq, large, active_us FROM user_conversations WHERE app = ? AND user = ?`
)

// PutStandings implements store.Users. The seq is the timestamp, so that the server keeps the newest.
func (s *Store) PutStandings(ctx context.Context, app string, standings []store.UserStanding) error {
	if err := store.CheckName("app", app); err != nil {
		return err
	}
	for _, st := range standings {
		if err := st.Check(); err != nil {
			return err
		}
	}
	return s.call(ctx, "put standings", func(ctx context.Context) error {
		p := s.newPlan()
		for _, st := range standings {
			p.touch(app, st.User, st.Conversation, st.MinuteUs)
			if st.Seq > 0 {
				p.add(partition{tableUsers, app, st.User, 0}, len(st.Conversation), raiseStanding,
					int64(st.Seq), int64(st.Seq), st.Member, int64(st.JoinedSeq), int64(st.LeftSeq), st.Large, app, st.User, st.Conversation)
			}
		}
		return s.write(ctx, p)
	})
}

// Touch implements store.Users. The minute is the timestamp.
func (s *Store) Touch(ctx context.Context, app string, touches []store.Touch) error {
	if err := store.CheckName("app", app); err != nil {
		return err
	}
	for _, t := range touches {
		if err := t.Check(); err != nil {
			return err
		}
	}
	return s.call(ctx, "touch", func(ctx context.Context) error {
		p := s.newPlan()
		for _, t := range touches {
			p.touch(app, t.User, t.Conversation, t.MinuteUs)
		}
		return s.write(ctx, p)
	})
}

func (p *plan) touch(app, user, conversation string, minuteUs int64) {
	if minuteUs > 0 {
		p.add(partition{tableUsers, app, user, 0}, len(conversation), raiseActive, minuteUs, minuteUs, app, user, conversation)
	}
}

// List implements store.Users.
func (s *Store) List(ctx context.Context, app, user string, fn func(store.Listing) error) error {
	if err := errors.Join(store.CheckName("app", app), store.CheckName("user", user)); err != nil {
		return err
	}
	return s.all(ctx, "list", func(row gocql.Scanner) error {
		var l store.Listing
		var seq, joined, left int64
		if err := row.Scan(&l.Conversation, &seq, &l.Member, &joined, &left, &l.Large, &l.ActiveUs); err != nil {
			return s.answer(ctx, "list", err)
		}
		l.Seq, l.JoinedSeq, l.LeftSeq = uint64(seq), uint64(joined), uint64(left)
		return fn(l)
	}, selectList, app, user)
}
