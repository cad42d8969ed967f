package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// MinLeaseTTL is the shortest time to live that the server keeps.
const MinLeaseTTL = 200 * time.Millisecond

// Leases is a bucket of leases. All run out the same time after their last renewal: the time to live is the bucket's, since one
// that belongs to a key is dropped by an update. Methods are safe for concurrent use.
type Leases struct {
	c      *Conn
	bucket string
	kv     jetstream.KeyValue
	ttl    time.Duration
}

// OpenLeases opens the bucket, or creates it. One that exists with another ttl answers an error: its holders count on theirs.
func OpenLeases(ctx context.Context, c *Conn, bucket string, ttl time.Duration, replicas int) (*Leases, error) {
	if ttl < MinLeaseTTL {
		return nil, fmt.Errorf("bus: leases %s: ttl %v is below %v", bucket, ttl, MinLeaseTTL)
	}
	cfg := jetstream.KeyValueConfig{Bucket: bucket, TTL: ttl, Replicas: replicas, Description: "Halley: leases."}
	kv, st, err := c.openBucket(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("bus: leases %s: %w", bucket, err)
	}
	if st.TTL() != ttl {
		return nil, fmt.Errorf("bus: leases %s: ttl is %v, not %v", bucket, st.TTL(), ttl)
	}
	return &Leases{c: c, bucket: bucket, kv: kv, ttl: ttl}, nil
}

// How long the opening of a bucket may take, and one attempt at it: its first leader is elected meanwhile (4 to 9 s where
// servers have just started), and a server says nothing at all to a question about a stream that has no leader.
const (
	openTimeout = 30 * time.Second
	openAttempt = 2 * time.Second
	openPause   = 100 * time.Millisecond
)

// openBucket opens the bucket, or creates it. Of nodes that start at once one creates it, and for the others it is there before
// it can be found: hence the attempts.
func (c *Conn) openBucket(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, jetstream.KeyValueStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		kv, st, err := c.tryBucket(ctx, cfg)
		if err == nil {
			return kv, st, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, err
		case <-time.After(openPause):
		}
	}
}

func (c *Conn) tryBucket(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, jetstream.KeyValueStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, openAttempt)
	defer cancel()
	kv, err := c.js.KeyValue(ctx, cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = c.js.CreateKeyValue(ctx, cfg)
	}
	if err != nil {
		return nil, nil, err
	}
	st, err := kv.Status(ctx)
	return kv, st, err
}

// TTL is how long after the start of its last renewal a lease may be gone.
func (s *Leases) TTL() time.Duration { return s.ttl }

// Acquire takes a key that nobody holds: ErrHeld otherwise, ErrUnsettled where that is not known yet. value must be this holder's alone
// (its name and a number that is new at each start), since it is what a holder knows its own lease by after an answer was lost.
func (s *Leases) Acquire(ctx context.Context, key string, value []byte) (*Lease, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	start := time.Now()
	rev, err := s.kv.Create(ctx, key, value)
	if err == nil {
		return &Lease{Key: key, Value: value, Revision: rev, Renewed: start}, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		if isInFlight(err) {
			err = ErrUnsettled
		}
		return nil, fmt.Errorf("bus: acquire %s: %w", key, err)
	}
	e, err := s.c.bucketGet(ctx, s.bucket, key)
	switch {
	case errors.Is(err, ErrNoMessage): // It was on its way, or has just gone.
		return nil, fmt.Errorf("bus: acquire %s: %w", key, ErrUnsettled)
	case err != nil:
		return nil, fmt.Errorf("bus: acquire %s: it exists, and cannot be read: %w", key, err)
	case !bytes.Equal(e.value, value):
		return nil, ErrHeld
	}
	// An earlier Acquire of ours went through without our knowing. When, nobody knows, so it counts once it is renewed.
	l := &Lease{Key: key, Value: value, Revision: e.revision}
	return l, s.Renew(ctx, l)
}

// Renew extends the lease and sets its Revision and Renewed. ErrGone is certain; any other error leaves open whether it was
// extended, and Renewed where it was.
func (s *Leases) Renew(ctx context.Context, l *Lease) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	start := time.Now()
	rev, err := s.kv.Update(ctx, l.Key, l.Value, l.Revision)
	if isWrongSequence(err) {
		// A renewal before this one may have gone through without our knowing.
		e, gerr := s.c.bucketGet(ctx, s.bucket, l.Key)
		switch {
		case errors.Is(gerr, ErrNoMessage):
			return ErrGone
		case gerr != nil:
			return fmt.Errorf("bus: renew %s: %w", l.Key, gerr)
		case !bytes.Equal(e.value, l.Value):
			return ErrGone
		}
		start = time.Now()
		rev, err = s.kv.Update(ctx, l.Key, l.Value, e.revision)
		if isWrongSequence(err) {
			return ErrGone
		}
	}
	if err != nil {
		return fmt.Errorf("bus: renew %s: %w", l.Key, err)
	}
	l.Revision, l.Renewed = rev, start
	return nil
}

// Release gives the key up, if it is still ours: ErrGone otherwise.
func (s *Leases) Release(ctx context.Context, l *Lease) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		err := s.kv.Delete(ctx, l.Key, jetstream.LastRevision(l.Revision))
		if err == nil {
			return nil
		}
		if !isWrongSequence(err) && !isInFlight(err) {
			return fmt.Errorf("bus: release %s: %w", l.Key, err)
		}
		// A renewal whose answer nobody waited for has gone through, or is about to.
		e, gerr := s.c.bucketGet(ctx, s.bucket, l.Key)
		switch {
		case errors.Is(gerr, ErrNoMessage):
			return ErrGone
		case gerr != nil:
			return fmt.Errorf("bus: release %s: %w", l.Key, gerr)
		case !bytes.Equal(e.value, l.Value):
			return ErrGone
		}
		l.Revision = e.revision
		select {
		case <-ctx.Done():
			return fmt.Errorf("bus: release %s: %w", l.Key, err)
		case <-time.After(releasePause):
		}
	}
}

// releasePause is between two tries to give a key up behind a renewal that is on its way.
const releasePause = 10 * time.Millisecond

// Get returns the value of a key by the word of the bucket's leader; nil if nobody holds it.
func (s *Leases) Get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	e, err := s.c.bucketGet(ctx, s.bucket, key)
	if errors.Is(err, ErrNoMessage) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("bus: lease %s: %w", key, err)
	}
	return e.value, nil
}

// List returns the keys that are held, and by whom.
func (s *Leases) List(ctx context.Context) (map[string][]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	w, err := s.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("bus: list leases: %w", err)
	}
	defer func() { _ = w.Stop() }()
	out := map[string][]byte{}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("bus: list leases: %w", ctx.Err())
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("bus: list leases: %w", ErrDisconnected)
			case e == nil: // all there is has been seen
				return out, nil
			}
			out[e.Key()] = e.Value()
		}
	}
}
