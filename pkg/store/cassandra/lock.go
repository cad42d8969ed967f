package cassandra

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/gocql/gocql"
)

// The schema lock is a row with a TTL: who dies while holding it is waited for that long.
const (
	lockTTL  = 60 * time.Second
	lockPoll = 500 * time.Millisecond

	lockInsert = `INSERT INTO schema_lock (name, owner) VALUES ('schema', ?) IF NOT EXISTS USING TTL ?`
	lockRenew  = `UPDATE schema_lock USING TTL ? SET owner = ? WHERE name = 'schema' IF owner = ?`
	lockDelete = `DELETE FROM schema_lock WHERE name = 'schema' IF owner = ?`
)

var errLockLost = errors.New("the schema lock went to another node")

type schemaLock struct {
	session *gocql.Session
	owner   string
	log     *slog.Logger
}

// acquireLock waits for the lock until ctx ends.
func acquireLock(ctx context.Context, session *gocql.Session, log *slog.Logger) (*schemaLock, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	// The random part tells two processes of one machine apart, and a process from its former self.
	l := &schemaLock{session: session, owner: host + " " + rand.Text(), log: log}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	said := ""
	for {
		holder, err := l.try(ctx)
		switch {
		case err == nil && holder == l.owner:
			return l, nil
		case err != nil && !transient(err):
			return nil, fmt.Errorf("take the schema lock: %w", err)
		case err == nil && holder != said:
			log.Info("waiting for the schema lock", "holder", holder)
			said = holder
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the schema lock, held by %q: %w", said, ctx.Err())
		}
	}
}

// try returns who holds the lock after the attempt. A compare-and-set that timed out may have been carried out: the next
// attempt then finds us as the holder.
func (l *schemaLock) try(ctx context.Context) (holder string, err error) {
	var name string
	applied, err := l.session.Query(lockInsert, l.owner, int(lockTTL.Seconds())).WithContext(ctx).RetryPolicy(nil).
		ScanCAS(&name, &holder)
	if applied {
		holder = l.owner
	}
	return holder, err
}

// renew fails when the lock is ours no longer; then another node may be migrating already.
func (l *schemaLock) renew(ctx context.Context) error {
	var holder string
	applied, err := l.session.Query(lockRenew, int(lockTTL.Seconds()), l.owner, l.owner).WithContext(ctx).RetryPolicy(nil).ScanCAS(&holder)
	if err != nil {
		return fmt.Errorf("renew the schema lock: %w", err)
	}
	if !applied {
		return fmt.Errorf("%w: %q", errLockLost, holder)
	}
	return nil
}

// release shortens the wait of others; if it fails, the TTL does it.
func (l *schemaLock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var holder string
	if _, err := l.session.Query(lockDelete, l.owner).WithContext(ctx).RetryPolicy(nil).ScanCAS(&holder); err != nil {
		l.log.Warn("the schema lock was not released and ends by itself", "after", lockTTL, "err", err)
	}
}
