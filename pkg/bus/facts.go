package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// factsBucket holds what a cluster must agree on for as long as it lives.
const factsBucket = "halley_cluster"

// ErrNoFact: the cluster has no fact under the key.
var ErrNoFact = errors.New("bus: no such fact")

func (c *Conn) facts(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := c.js.KeyValue(ctx, factsBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, ErrNotCreated
	}
	if err != nil {
		return nil, fmt.Errorf("bus: facts: %w", err)
	}
	return kv, nil
}

// GetFact reads a small durable fact of the cluster: ErrNoFact, or ErrNotCreated where CreateLogs never ran.
func (c *Conn) GetFact(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	kv, err := c.facts(ctx)
	if err != nil {
		return nil, err
	}
	e, err := c.bucketGet(ctx, factsBucket, key)
	if errors.Is(err, ErrNoMessage) {
		return nil, fmt.Errorf("%w: %s", ErrNoFact, key)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: fact %s in %s: %w", key, kv.Bucket(), err)
	}
	return e.value, nil
}

// PutFactOnce writes the fact unless there is one, and returns the one that holds from now on.
func (c *Conn) PutFactOnce(ctx context.Context, key string, value []byte) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	kv, err := c.facts(ctx)
	if err != nil {
		return nil, err
	}
	if _, err = kv.Create(ctx, key, value); err == nil {
		return value, nil
	}
	if errors.Is(err, jetstream.ErrKeyExists) {
		return c.GetFact(ctx, key)
	}
	return nil, fmt.Errorf("bus: fact %s: %w", key, err)
}

// bucketEntry is the newest entry of a key as the leader of the bucket's stream has it.
type bucketEntry struct {
	value    []byte
	revision uint64
	created  int64 // nanoseconds since 1970, the server's clock
}

// bucketGet asks the leader. The bucket's own Get may be answered by a replica that lags, which is of no use to those who
// have just been told that their revision is not the newest.
func (c *Conn) bucketGet(ctx context.Context, bucket, key string) (bucketEntry, error) {
	m, err := c.leaderGet(ctx, "KV_"+bucket, getRequest{LastBySubject: "$KV." + bucket + "." + key})
	if err != nil {
		return bucketEntry{}, err
	}
	if m.deleted() {
		return bucketEntry{}, ErrNoMessage
	}
	return bucketEntry{value: m.Data, revision: m.Seq, created: m.Time.UnixNano()}, nil
}
