package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/halley-im/halley/protocol"
)

// Reader is the log of one partition for one who only reads it: nothing that it does leaves a trace on the server. Methods are
// safe for concurrent use.
type Reader struct{ l *Log }

// OpenReader opens the log as OpenLog does, with the same errors, and writes nothing down: neither how far the log was seen nor a
// place of its own.
func OpenReader(ctx context.Context, c *Conn, partition int) (*Reader, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	fact, _, err := c.readLogsFact(ctx)
	switch {
	case err != nil:
		return nil, err
	case !fact.Ready:
		return nil, fmt.Errorf("%w: creation was not finished", ErrNotCreated)
	case partition < 0 || partition >= fact.Partitions:
		return nil, fmt.Errorf("bus: partition %d is not in 0..%d", partition, fact.Partitions-1)
	}
	r := &Reader{l: &Log{c: c, partition: partition, stream: protocol.StreamLog(partition), incarnation: fact.Incarnation}}
	seen, err := r.seen(ctx)
	if err != nil {
		return nil, err
	}
	return r, r.l.reaches(ctx, seen)
}

// seen is how far the log is known to have reached.
func (r *Reader) seen(ctx context.Context) (uint64, error) {
	e, err := r.l.c.bucketGet(ctx, factsBucket, "seen."+strconv.Itoa(r.l.partition))
	if errors.Is(err, ErrNoMessage) {
		return 0, nil
	}
	var seq uint64
	if err == nil {
		seq, err = strconv.ParseUint(string(e.value), 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("bus: what was seen of %s: %w", r.l.stream, err)
	}
	return seq, nil
}

// State is Log.State.
func (r *Reader) State(ctx context.Context) (LogState, error) { return r.l.State(ctx) }

// Scan is Log.Scan.
func (r *Reader) Scan(ctx context.Context, from uint64, fn func(Message) error) error {
	return r.l.Scan(ctx, from, fn)
}

// Floor is Log.Floor.
func (r *Reader) Floor(ctx context.Context, name string, userOnly bool) (uint64, error) {
	return r.l.Floor(ctx, name, userOnly)
}
