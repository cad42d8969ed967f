package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/halley-im/halley/protocol"
)

const (
	headerExpectedStream = "Nats-Expected-Stream"
	headerExpectedLast   = "Nats-Expected-Last-Sequence"

	// Answers to appends that were given up may still come in; more than these are not of interest to anybody.
	replyQueue = 64
)

// Log is the log of one partition. Methods are safe for concurrent use; appends wait for each other.
type Log struct {
	c           *Conn
	partition   int
	stream      string
	subjects    [2]string // without and with news for users' logs
	incarnation string

	appending sync.Mutex
	// guarded by appending
	replies chan *nats.Msg
	sub     *nats.Subscription
	inbox   string // prefix of the subjects of replies, ends in a dot
	token   uint64
	msg     nats.Msg
}

// OpenLog opens the log of a partition: ErrNotCreated, ErrIncarnation.
//
// A stream is the cluster's own if it carries the incarnation that KV has, and if it is not behind the last sequence that was
// seen of it: a server that lost its disk creates its streams anew, with all their metadata and nothing in them.
func OpenLog(ctx context.Context, c *Conn, partition int) (*Log, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	l, err := c.logOf(ctx, partition)
	if err != nil {
		return nil, err
	}
	l.subjects = [2]string{protocol.SubjectLog(partition), protocol.SubjectLogUser(partition)}
	l.replies, l.inbox = make(chan *nats.Msg, replyQueue), c.nc.NewInbox()+"."
	state, err := l.State(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.Witness(ctx, state.Last); err != nil {
		return nil, err
	}
	l.sub, err = c.nc.ChanSubscribe(l.inbox+"*", l.replies)
	if err != nil {
		return nil, fmt.Errorf("bus: open %s: %w", l.stream, err)
	}
	l.msg.Header = nats.Header{headerExpectedStream: {l.stream}, headerExpectedLast: {""}}
	return l, nil
}

// logOf is the partition's log for those who only read it.
func (c *Conn) logOf(ctx context.Context, partition int) (*Log, error) {
	fact, err := c.readyLogs(ctx)
	if err != nil {
		return nil, err
	}
	if partition < 0 || partition >= fact.Partitions {
		return nil, fmt.Errorf("bus: partition %d is not in 0..%d", partition, fact.Partitions-1)
	}
	return &Log{c: c, partition: partition, stream: protocol.StreamLog(partition), incarnation: fact.Incarnation}, nil
}

// Close gives up what the log holds of its connection.
func (l *Log) Close() {
	// Fails where the connection is closed already, which ends subscriptions too.
	_ = l.sub.Unsubscribe()
}

// Partition is the number of the log's partition.
func (l *Log) Partition() int { return l.partition }

// Append publishes the block as sequence last+1, once, and waits for the server's word that it is durable, bounded by ctx (10 s
// where it has no deadline). user marks a block from which records in users' logs follow. ErrMoved and ErrFull are certain; any
// other error leaves open whether the block is stored. block may be reused when it has returned.
func (l *Log) Append(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	l.appending.Lock()
	defer l.appending.Unlock()

	l.token++
	l.msg.Subject = l.subjects[0]
	if user {
		l.msg.Subject = l.subjects[1]
	}
	l.msg.Reply = l.inbox + strconv.FormatUint(l.token, 36)
	l.msg.Data = block
	l.msg.Header[headerExpectedLast][0] = strconv.FormatUint(last, 10)
	err := l.c.nc.PublishMsg(&l.msg)
	l.msg.Data = nil
	if err != nil {
		return 0, publishError(l.msg.Subject, err)
	}
	for {
		select {
		case m := <-l.replies:
			if m.Subject == l.msg.Reply {
				return l.appended(m)
			}
			// The answer to an append that was given up.
		case <-ctx.Done():
			return 0, fmt.Errorf("bus: append to %s: no answer: %w", l.stream, ctx.Err())
		}
	}
}

type pubAck struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
	Error  *struct {
		Code        int    `json:"code"`
		ErrorCode   int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

func (l *Log) appended(m *nats.Msg) (uint64, error) {
	if status(m) == statusNoResponders {
		return 0, fmt.Errorf("bus: append to %s: %w", l.stream, ErrNoResponders)
	}
	var ack pubAck
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, fmt.Errorf("bus: append to %s: answer: %w", l.stream, err)
	}
	if e := ack.Error; e != nil {
		switch {
		case e.ErrorCode == codeWrongLastSequence:
			return 0, ErrMoved
		case e.ErrorCode == codeStoreFailed && strings.Contains(e.Description, "maximum bytes"):
			return 0, ErrFull
		}
		return 0, fmt.Errorf("bus: append to %s: %s (%d)", l.stream, e.Description, e.ErrorCode)
	}
	if ack.Stream != l.stream || ack.Seq == 0 {
		return 0, fmt.Errorf("bus: append to %s: acknowledged by %q as %d", l.stream, ack.Stream, ack.Seq)
	}
	return ack.Seq, nil
}

// How long a new leader may take to have the whole log before it counts as lost.
const (
	witnessPatience = 3 * time.Second
	witnessPoll     = 100 * time.Millisecond
)

// Witness writes down that the log reached seq, so that OpenLog, on any node, notices a stream that came back with less. It
// answers ErrIncarnation if the log does not reach what was seen before. Owners call it now and then; OpenLog and Trim do by
// themselves.
func (l *Log) Witness(ctx context.Context, seq uint64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	kv, err := l.c.facts(ctx)
	if err != nil {
		return err
	}
	for {
		seen, rev, err := l.seen(ctx)
		if err != nil {
			return err
		}
		if seen > seq {
			return l.reaches(ctx, seen)
		}
		if seen == seq {
			return nil
		}
		_, err = kv.Update(ctx, l.seenKey(), strconv.AppendUint(nil, seq, 10), rev)
		if err == nil {
			return nil
		}
		// Another node witnessed at the same time: look again.
		if !isWrongSequence(err) && !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("bus: what was seen of %s: %w", l.stream, err)
		}
	}
}

// seenKey is the key of the fact that says how far the log is known to have reached.
func (l *Log) seenKey() string { return "seen." + strconv.Itoa(l.partition) }

// seen is how far the log is known to have reached, and the revision of that fact; zeros where there is none.
func (l *Log) seen(ctx context.Context) (seq, revision uint64, err error) {
	e, err := l.c.bucketGet(ctx, factsBucket, l.seenKey())
	if errors.Is(err, ErrNoMessage) {
		return 0, 0, nil
	}
	if err == nil {
		seq, err = strconv.ParseUint(string(e.value), 10, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("bus: what was seen of %s: %w", l.stream, err)
	}
	return seq, e.revision, nil
}

// reaches waits until the log's leader has applied the log up to seq; it has committed it already, if it is the same log.
func (l *Log) reaches(ctx context.Context, seq uint64) error {
	deadline := time.Now().Add(witnessPatience)
	for {
		state, err := l.State(ctx)
		if err != nil {
			return err
		}
		if state.Last >= seq {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %s ends at %d, but it had reached %d", ErrIncarnation, l.stream, state.Last, seq)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("bus: what was seen of %s: %w", l.stream, ctx.Err())
		case <-time.After(witnessPoll):
		}
	}
}
