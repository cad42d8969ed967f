// Package cassandra is the store of a cluster. Every write is idempotent and carries a timestamp that decides by itself who
// wins, so replays in any order end the same; it never deletes and never compares before it writes, but for the schema.
package cassandra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"
	"github.com/sony/gobreaker/v2"

	"github.com/halley-im/halley/pkg/store"
)

// What one answer of a node carries at most: of rows with bodies, about 6 MB of the largest; of small ones, of which an account or a
// group may have a hundred thousand that are all read.
const (
	pageRows      = 200
	smallPageRows = 2000
)

// Store implements store.Store.
type Store struct {
	cfg     Config
	session *gocql.Session
	// route is the session's: it says which node a batch goes to first.
	route interface {
		Pick(gocql.ExecutableQuery) gocql.NextHost
	}
	// slots bounds the requests under way; who finds none free waits until its call's time is over.
	slots chan struct{}
	// breaker has calls fail at once while Cassandra does not answer: else each would keep its caller's slot until its time is over.
	breaker *gobreaker.CircuitBreaker[struct{}]

	closing sync.Once
	closed  atomic.Bool
}

var _ store.Store = (*Store)(nil)

// Open connects and compares the schema with what this build knows; see Migrate. An error that is ErrSchema will not go
// away by itself.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cassandra: %w", err)
	}
	known, err := load(files)
	if err != nil {
		return nil, err
	}
	driver := cfg.cluster(cfg.Keyspace, log)
	session, err := dial(ctx, cfg, driver)
	if err != nil {
		return nil, err
	}
	if err := checkSchema(ctx, session, known); err != nil {
		session.Close()
		return nil, fmt.Errorf("cassandra: keyspace %s: %w", cfg.Keyspace, err)
	}
	return &Store{
		cfg: cfg, session: session, route: driver.PoolConfig.HostSelectionPolicy, slots: make(chan struct{}, cfg.Requests), breaker: newBreaker(cfg, log),
	}, nil
}

func newBreaker(cfg Config, log *slog.Logger) *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "cassandra", MaxRequests: 1, Timeout: time.Duration(cfg.BreakerOpenMs) * time.Millisecond,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= cfg.BreakerFailures },
		IsSuccessful: func(err error) bool { return !transient(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			log.Warn("store: Cassandra's breaker", "from", from.String(), "to", to.String())
		},
	})
}

// connect opens a session; keyspace may be empty.
func connect(ctx context.Context, cfg Config, keyspace string, log *slog.Logger) (*gocql.Session, error) {
	return dial(ctx, cfg, cfg.cluster(keyspace, log))
}

// dial opens a session. The driver's dialling knows no context but ends after its own time-outs.
func dial(ctx context.Context, cfg Config, driver *gocql.ClusterConfig) (*gocql.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	session, err := driver.CreateSession()
	if err == nil {
		return session, nil
	}
	if errors.Is(err, gocql.ErrNoConnectionsStarted) && driver.Keyspace != "" {
		// The driver says no more when the nodes refuse the keyspace.
		return nil, fmt.Errorf("cassandra: connect to %v: %w: %w (a missing keyspace %s looks the same: has the migration run?)",
			cfg.Hosts, store.ErrUnavailable, err, driver.Keyspace)
	}
	return nil, fmt.Errorf("cassandra: connect to %v: %w", cfg.Hosts, classify(err))
}

// Ping writes a row and reads it.
func (s *Store) Ping(ctx context.Context) error {
	return s.call(ctx, "ping", func(ctx context.Context) error {
		now := time.Now().UnixMicro()
		if err := s.session.Query(`UPDATE probe USING TIMESTAMP ? SET at_us = ? WHERE id = 0`, now, now).WithContext(ctx).Exec(); err != nil {
			return err
		}
		var at int64
		return s.session.Query(`SELECT at_us FROM probe WHERE id = 0`).WithContext(ctx).Scan(&at)
	})
}

// Close ends the session; calls under way fail with store.ErrClosed or what they met.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.closed.Store(true)
		s.session.Close()
	})
	return nil
}

// call bounds fn in time and classifies its error.
func (s *Store) call(ctx context.Context, op string, fn func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, time.Duration(s.cfg.CallTimeoutMs)*time.Millisecond)
	defer cancel()
	_, err := s.breaker.Execute(func() (struct{}, error) { return struct{}{}, fn(bounded) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return fmt.Errorf("cassandra: %s: %w: it has not answered for a while: %w", op, store.ErrUnavailable, err)
	}
	return s.answer(ctx, op, err)
}

// answer is err as the caller shall see it: its own context's end first, then whether trying again makes sense.
func (s *Store) answer(ctx context.Context, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case s.closed.Load():
		return store.ErrClosed
	case ctx.Err() != nil:
		return fmt.Errorf("cassandra: %s: %w", op, ctx.Err())
	}
	return fmt.Errorf("cassandra: %s: %w", op, classify(err))
}

// read runs one query within a slot and scans its rows.
func (s *Store) read(ctx context.Context, rows func(scan gocql.Scanner) error, stmt string, args ...any) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	scanner := s.session.Query(stmt, args...).WithContext(ctx).Iter().Scanner()
	for scanner.Next() {
		if err := rows(scanner); err != nil {
			return errors.Join(err, scanner.Err())
		}
	}
	return scanner.Err()
}

// all reads small rows, however many there are. It holds no slot and sets no bound but those of each page: the time is the reader's. An error
// of rows ends it, and is returned as it is.
func (s *Store) all(ctx context.Context, op string, rows func(scan gocql.Scanner) error, stmt string, args ...any) error {
	scanner := s.session.Query(stmt, args...).WithContext(ctx).PageSize(smallPageRows).Iter().Scanner()
	for ctx.Err() == nil && scanner.Next() {
		if err := rows(scanner); err != nil {
			// Of the driver nothing is left to learn: the rest of the rows is not wanted.
			_ = scanner.Err()
			return err
		}
	}
	return s.answer(ctx, op, errors.Join(ctx.Err(), scanner.Err()))
}

func (s *Store) acquire(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) release() { <-s.slots }
