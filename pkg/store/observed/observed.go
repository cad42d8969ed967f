// Package observed counts and times the calls of a store. It changes nothing about them.
package observed

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Store is another store with metrics.
type Store struct {
	next    store.Store
	seconds *prometheus.HistogramVec
	records *prometheus.CounterVec
}

var _ store.Store = (*Store)(nil)

// New wraps a store and registers its metrics.
func New(next store.Store, reg prometheus.Registerer) (*Store, error) {
	s := &Store{
		next: next,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "halley_store_seconds", Help: "Time of calls of the store, by operation and result.",
			// From one cached read of Pebble to a time-out of Cassandra.
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 12),
		}, []string{"op", "result"}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_store_records_total", Help: "Records that the store appended or returned.",
		}, []string{"op"}),
	}
	for _, c := range []prometheus.Collector{s.seconds, s.records} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// result is the class of an outcome, few enough for a label.
func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, store.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, store.ErrInvalid):
		return "invalid"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "cancelled"
	}
	return "error"
}

func (s *Store) done(op string, begin time.Time, err error) {
	s.seconds.WithLabelValues(op, result(err)).Observe(time.Since(begin).Seconds())
}

// Append implements store.Records.
func (s *Store) Append(ctx context.Context, records []*logv1.Record) error {
	begin := time.Now()
	err := s.next.Append(ctx, records)
	s.done("append", begin, err)
	if err == nil {
		s.records.WithLabelValues("append").Add(float64(len(records)))
	}
	return err
}

// Range implements store.Records.
func (s *Store) Range(ctx context.Context, c store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error) {
	begin := time.Now()
	records, err := s.next.Range(ctx, c, from, to, limit, newest)
	s.done("range", begin, err)
	s.records.WithLabelValues("range").Add(float64(len(records)))
	return records, err
}

// Head implements store.Records.
func (s *Store) Head(ctx context.Context, c store.Conversation) (*logv1.Record, error) {
	begin := time.Now()
	head, err := s.next.Head(ctx, c)
	s.done("head", begin, err)
	return head, err
}

// Members implements store.Members.
func (s *Store) Members(ctx context.Context, c store.Conversation) ([]store.Member, error) {
	begin := time.Now()
	members, err := s.next.Members(ctx, c)
	s.done("members", begin, err)
	return members, err
}

// Intervals implements store.Members.
func (s *Store) Intervals(ctx context.Context, c store.Conversation, user string) ([]store.Interval, error) {
	begin := time.Now()
	intervals, err := s.next.Intervals(ctx, c, user)
	s.done("intervals", begin, err)
	return intervals, err
}

// SetCursors implements store.Members.
func (s *Store) SetCursors(ctx context.Context, c store.Conversation, cursors []store.Cursor) error {
	begin := time.Now()
	err := s.next.SetCursors(ctx, c, cursors)
	s.done("set_cursors", begin, err)
	return err
}

// Cursor implements store.Members.
func (s *Store) Cursor(ctx context.Context, c store.Conversation, user string) (store.Cursor, error) {
	begin := time.Now()
	cursor, err := s.next.Cursor(ctx, c, user)
	s.done("cursor", begin, err)
	return cursor, err
}

// PutStandings implements store.Users.
func (s *Store) PutStandings(ctx context.Context, app string, standings []store.UserStanding) error {
	begin := time.Now()
	err := s.next.PutStandings(ctx, app, standings)
	s.done("put_standings", begin, err)
	return err
}

// Touch implements store.Users.
func (s *Store) Touch(ctx context.Context, app string, touches []store.Touch) error {
	begin := time.Now()
	err := s.next.Touch(ctx, app, touches)
	s.done("touch", begin, err)
	return err
}

// List implements store.Users. Its time contains the reader's.
func (s *Store) List(ctx context.Context, app, user string, fn func(store.Listing) error) error {
	begin := time.Now()
	err := s.next.List(ctx, app, user, fn)
	s.done("list", begin, err)
	return err
}

// Ping implements store.Store.
func (s *Store) Ping(ctx context.Context) error {
	begin := time.Now()
	err := s.next.Ping(ctx)
	s.done("ping", begin, err)
	return err
}

// Close implements store.Store.
func (s *Store) Close() error { return s.next.Close() }
