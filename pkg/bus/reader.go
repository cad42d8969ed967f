package bus

import "context"

// Reader is the log of one partition for one who only reads it: nothing that it does leaves a trace on the server. Methods are
// safe for concurrent use.
type Reader struct{ l *Log }

// OpenReader opens the log as OpenLog does, with the same errors, and writes nothing down: neither how far the log was seen nor a
// place of its own.
func OpenReader(ctx context.Context, c *Conn, partition int) (*Reader, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	l, err := c.logOf(ctx, partition)
	if err != nil {
		return nil, err
	}
	seen, _, err := l.seen(ctx)
	if err != nil {
		return nil, err
	}
	return &Reader{l}, l.reaches(ctx, seen)
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
