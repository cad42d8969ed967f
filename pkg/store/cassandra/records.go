package cassandra

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/gocql/gocql"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// bucketShift: 4,096 records to a partition, some MB with usual bodies.
const bucketShift = 12

// endOfFirst is the last seq of the first bucket.
const endOfFirst = 1<<bucketShift - 1

const (
	insertMessage = `INSERT INTO messages (app, conversation, bucket, seq, envelope, body) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?`
	raiseTop      = `UPDATE messages USING TIMESTAMP ? SET top = ? WHERE app = ? AND conversation = ? AND bucket = 0`
	raiseHead     = `UPDATE heads USING TIMESTAMP ? SET bucket = ? WHERE app = ? AND conversation = ?`
	addJoin       = `UPDATE members USING TIMESTAMP ? SET joins = joins + ? WHERE app = ? AND conversation = ? AND user = ?`
	addLeave      = `UPDATE members USING TIMESTAMP ? SET leaves = leaves + ? WHERE app = ? AND conversation = ? AND user = ?`

	selectEnd    = `SELECT top, seq, envelope, body FROM messages WHERE app = ? AND conversation = ? AND bucket = 0 ORDER BY seq DESC LIMIT 1`
	selectHead   = `SELECT bucket FROM heads WHERE app = ? AND conversation = ?`
	selectOldest = `SELECT seq, envelope, body FROM messages WHERE app = ? AND conversation = ? AND bucket = ? AND seq >= ? AND seq <= ? ORDER BY seq ASC LIMIT ?`
	selectNewest = `SELECT seq, envelope, body FROM messages WHERE app = ? AND conversation = ? AND bucket = ? AND seq >= ? AND seq <= ? ORDER BY seq DESC LIMIT ?`
	selectLast   = `SELECT seq, envelope FROM messages WHERE app = ? AND conversation = ? AND bucket = ? ORDER BY seq DESC LIMIT 1`
)

// Append implements store.Records. Records of one conversation and bucket share batches, whatever their order.
func (s *Store) Append(ctx context.Context, records []*logv1.Record) error {
	for _, r := range records {
		if err := store.CheckRecord(r); err != nil {
			return err
		}
	}
	return s.call(ctx, "append", func(ctx context.Context) error {
		p := s.newPlan()
		heads := map[store.Conversation]uint64{}
		for _, r := range records {
			if err := p.addRecord(r); err != nil {
				return err
			}
			if b := r.Seq >> bucketShift; b > 0 {
				c := store.Conversation{App: r.App, ID: r.Conversation}
				heads[c] = max(heads[c], b)
			}
		}
		for c, b := range heads {
			p.add(partition{tableMessages, c.App, c.ID, 0}, 0, raiseTop, int64(b), int64(b), c.App, c.ID)
			p.add(partition{tableHeads, c.App, c.ID, 0}, 0, raiseHead, int64(b), int64(b), c.App, c.ID)
		}
		return s.write(ctx, p)
	})
}

func (p *plan) addRecord(r *logv1.Record) error {
	env, err := envelope(r).MarshalVT()
	if err != nil {
		return fmt.Errorf("encode record %d of %s: %w", r.Seq, r.Conversation, err)
	}
	body := r.Body
	if body == nil {
		// A null would be a tombstone.
		body = []byte{}
	}
	bucket := r.Seq >> bucketShift
	p.add(partition{tableMessages, r.App, r.Conversation, bucket}, len(env)+len(body), insertMessage,
		r.App, r.Conversation, int64(bucket), int64(r.Seq), env, body, r.TimeUs)
	members := partition{tableMembers, r.App, r.Conversation, 0}
	at := []int64{int64(r.Seq)}
	for _, user := range r.Joined {
		p.add(members, len(user), addJoin, r.TimeUs, at, r.App, r.Conversation, user)
	}
	for _, user := range r.Left {
		p.add(members, len(user), addLeave, r.TimeUs, at, r.App, r.Conversation, user)
	}
	return nil
}

// envelope is r without what has columns of its own. A test holds it complete when the message grows.
func envelope(r *logv1.Record) *logv1.Record {
	return &logv1.Record{
		Count: r.Count, Id: r.Id, Sender: r.Sender, Device: r.Device, ClientId: r.ClientId, TimeUs: r.TimeUs,
		Target: r.Target, Joined: r.Joined, Left: r.Left, Type: r.Type, Active: r.Active, Large: r.Large, Since: r.Since,
	}
}

// assemble is the reverse. The driver gives each row memory of its own, which the record takes over.
func assemble(c store.Conversation, seq int64, env, body []byte) (*logv1.Record, error) {
	r := new(logv1.Record)
	if err := r.UnmarshalVTUnsafe(env); err != nil {
		return nil, fmt.Errorf("decode record %d of %s: %w", seq, c.ID, err)
	}
	r.App, r.Conversation, r.Seq = c.App, c.ID, uint64(seq)
	if len(body) > 0 {
		r.Body = body
	}
	return r, nil
}

// Range implements store.Records: bucket by bucket, from whichever end is asked for, until limit is reached.
func (s *Store) Range(ctx context.Context, c store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	to = min(to, store.MaxSeq)
	limit = min(limit, math.MaxInt32)
	if from > to || limit <= 0 {
		return nil, ctx.Err()
	}
	var out []*logv1.Record
	err := s.call(ctx, "range", func(ctx context.Context) error {
		low, high := from>>bucketShift, to>>bucketShift
		if high > low+1 {
			// Callers ask up to "the end"; where that is, only the conversation says.
			top, last, err := s.end(ctx, c)
			if err != nil {
				return err
			}
			if top == 0 && (last == nil || newest && limit == 1) { // That was all of it, or all that is asked for.
				if last != nil && last.Seq >= from {
					out = append(out, last)
				}
				return nil
			}
			high = min(high, top)
		}
		for n := uint64(0); low+n <= high && len(out) < limit; n++ {
			bucket, stmt := low+n, selectOldest
			if newest {
				bucket, stmt = high-n, selectNewest
			}
			var err error
			if out, err = s.readBucket(ctx, out, c, stmt, bucket, from, to, limit-len(out)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if newest {
		slices.Reverse(out)
	}
	return out, nil
}

func (s *Store) readBucket(ctx context.Context, out []*logv1.Record, c store.Conversation, stmt string, bucket, from, to uint64, limit int) ([]*logv1.Record, error) {
	err := s.read(ctx, func(row gocql.Scanner) error {
		var seq int64
		var env, body []byte
		if err := row.Scan(&seq, &env, &body); err != nil {
			return err
		}
		r, err := assemble(c, seq, env, body)
		out = append(out, r)
		return err
	}, stmt, c.App, c.ID, int64(bucket), int64(from), int64(to), limit)
	return out, err
}

// end is the highest bucket that may hold a record, and the last record of the first bucket; nil: that has none.
func (s *Store) end(ctx context.Context, c store.Conversation) (top uint64, last *logv1.Record, err error) {
	err = s.read(ctx, func(row gocql.Scanner) error {
		var bucket, seq int64
		var env, body []byte
		if err := row.Scan(&bucket, &seq, &env, &body); err != nil {
			return err
		}
		if top = uint64(bucket); seq == 0 {
			return nil // The records of the first bucket are still to come.
		}
		last, err = assemble(c, seq, env, body)
		return err
	}, selectEnd, c.App, c.ID)
	if err == nil && top == 0 && last != nil && last.Seq == endOfFirst { // Of what a version without the column wrote, heads may know more.
		err = s.read(ctx, func(row gocql.Scanner) error {
			var bucket int64
			err := row.Scan(&bucket)
			top = uint64(bucket)
			return err
		}, selectHead, c.App, c.ID)
	}
	return top, last, err
}

// Head implements store.Records. An append that failed may have raised the top and written nothing there, so that buckets
// below are looked at; usually the first holds it.
func (s *Store) Head(ctx context.Context, c store.Conversation) (*logv1.Record, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	var head *logv1.Record
	err := s.call(ctx, "head", func(ctx context.Context) error {
		top, last, err := s.end(ctx, c)
		if err != nil {
			return err
		}
		for b := top; b > 0 && head == nil; b-- {
			err := s.read(ctx, func(row gocql.Scanner) error {
				var seq int64
				var env []byte
				if err := row.Scan(&seq, &env); err != nil {
					return err
				}
				head, err = assemble(c, seq, env, nil)
				return err
			}, selectLast, c.App, c.ID, int64(b))
			if err != nil {
				return err
			}
		}
		if head == nil && last != nil {
			last.Body = nil
			head = last
		}
		return nil
	})
	return head, err
}
