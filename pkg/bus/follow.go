package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/halley-im/halley/protocol"
)

const (
	// How long the server keeps a pull that finds nothing. A pull that was lost, with its server or its connection, is asked
	// again one grace later.
	pullExpires = 5 * time.Second
	pullGrace   = time.Second
	// Pause after the server refused a pull: its consumer is without a leader.
	pullPause = 100 * time.Millisecond
	// After so many refusals in a row Fetch says so: an election is long over, the consumer may not exist any more.
	mostRefused = 150
	// Deliveries that may wait in memory between two Fetches; one pull never asks for more.
	fetchQueue = 4096
)

// FollowOptions says how a follower reads.
type FollowOptions struct {
	// UserOnly leaves out blocks that were appended without the user mark.
	UserOnly bool
	// MaxAckPending is how many blocks may be out with all nodes together. 0 means 1,000.
	MaxAckPending int
	// AckWait is when an unanswered block is delivered again. 0 means 30 s.
	AckWait time.Duration
}

// Follower reads a log under a name, with the place kept by the server: every block comes at least once to one of the nodes that
// follow under the same name, until it is acknowledged. Fetch is for one goroutine at a time, the other methods for any.
type Follower struct {
	l    *Log
	name string
	opt  FollowOptions

	// owned by Fetch
	msgs    chan *nats.Msg
	sub     *nats.Subscription
	inbox   string
	token   uint64
	pull    string    // reply subject of the pull that is out
	expect  int       // what it still may bring; 0: none is out
	expires time.Time // when it counts as lost
	refused int       // pulls that the server refused in a row
}

// Follow opens the follower, creating it on the server at the log's first block if it does not exist.
func (l *Log) Follow(ctx context.Context, name string, opt FollowOptions) (*Follower, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if opt.MaxAckPending == 0 {
		opt.MaxAckPending = 1000
	}
	if opt.AckWait == 0 {
		opt.AckWait = 30 * time.Second
	}
	cfg := jetstream.ConsumerConfig{
		Durable:       name,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       opt.AckWait,
		MaxAckPending: opt.MaxAckPending,
		MaxDeliver:    -1, // a block is never given up
	}
	if opt.UserOnly {
		cfg.FilterSubject = protocol.SubjectLogUser(l.partition)
	}
	if _, err := l.c.js.CreateOrUpdateConsumer(ctx, l.stream, cfg); err != nil {
		return nil, fmt.Errorf("bus: follow %s as %s: %w", l.stream, name, err)
	}
	f := &Follower{l: l, name: name, opt: opt, msgs: make(chan *nats.Msg, fetchQueue+16), inbox: l.c.nc.NewInbox() + "."}
	sub, err := l.c.nc.ChanSubscribe(f.inbox+"*", f.msgs)
	if err != nil {
		return nil, fmt.Errorf("bus: follow %s as %s: %w", l.stream, name, err)
	}
	f.sub = sub
	return f, nil
}

// Log is what it follows.
func (f *Follower) Log() *Log { return f.l }

// Close gives back what waits for the next Fetch; the follower's place stays. Blocks that were fetched and not acknowledged come
// again after AckWait. It is for the goroutine that fetches.
func (f *Follower) Close() {
	// Both fail where the connection is closed already, which ends subscriptions too; the blocks then come after AckWait.
	_ = f.sub.Unsubscribe()
	for {
		select {
		case m := <-f.msgs:
			if status(m) == "" {
				_ = m.Respond([]byte("-NAK"))
			}
		default:
			return
		}
	}
}

// Delivery is one block in the hands of a follower, which owes an Ack, a Nak or, before AckWait ends, an InProgress.
type Delivery struct {
	Message
	// Redelivered counts the earlier deliveries of the same block.
	Redelivered int

	nc    *nats.Conn
	reply string
}

// Ack says that the block is done. It is not confirmed: if it is lost, the block comes again.
func (d Delivery) Ack() error { return d.answer("+ACK") }

// Nak gives the block back, to be delivered again after the delay.
func (d Delivery) Nak(delay time.Duration) error {
	return d.answer(`-NAK {"delay":` + strconv.FormatInt(int64(delay), 10) + `}`)
}

// InProgress starts AckWait again.
func (d Delivery) InProgress() error { return d.answer("+WPI") }

func (d Delivery) answer(word string) error {
	if err := d.nc.Publish(d.reply, []byte(word)); err != nil {
		return publishError(d.reply, err)
	}
	return nil
}

// Fetch waits up to wait for the first block and returns it with what has arrived by then, at most `most` blocks and about maxBytes;
// none, without an error, if nothing came. As many more may wait in memory for the next call; with wait 0 it returns those.
func (f *Follower) Fetch(ctx context.Context, most, maxBytes int, wait time.Duration) ([]Delivery, error) {
	most = min(most, fetchQueue)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var out []Delivery
	size := 0
	for len(out) < most && size < maxBytes {
		m, err := f.next(ctx, timer.C, len(out) == 0, most, maxBytes)
		if err != nil {
			return nil, err
		}
		if m == nil {
			return out, nil
		}
		d, isBlock, err := f.sort(ctx, m)
		if err != nil && len(out) == 0 {
			return nil, err
		}
		if err != nil {
			return out, nil // what was fetched must not be lost with the error, which comes again
		}
		if isBlock {
			size += len(d.Data)
			out = append(out, d)
		}
	}
	return out, nil
}

// next returns a message from the server, or nil when there is none; only with wait does it ask for one and wait.
func (f *Follower) next(ctx context.Context, timeout <-chan time.Time, wait bool, most, maxBytes int) (*nats.Msg, error) {
	for {
		select {
		case m := <-f.msgs:
			return m, nil
		default:
		}
		if !wait {
			return nil, nil
		}
		if err := f.ask(most, maxBytes); err != nil {
			return nil, err
		}
		lost := time.NewTimer(time.Until(f.expires))
		select {
		case m := <-f.msgs:
			lost.Stop()
			return m, nil
		case <-lost.C: // ask again
		case <-timeout:
			lost.Stop()
			return nil, nil
		case <-ctx.Done():
			lost.Stop()
			return nil, ctx.Err()
		}
	}
}

// ask sends a pull unless one is out.
func (f *Follower) ask(most, maxBytes int) error {
	if f.expect > 0 && time.Now().Before(f.expires) {
		return nil
	}
	f.token++
	f.pull = f.inbox + strconv.FormatUint(f.token, 36)
	// A block larger than max_bytes would be refused for ever.
	maxBytes = max(maxBytes, int(f.l.c.nc.MaxPayload())*2)
	req := fmt.Appendf(nil, `{"batch":%d,"max_bytes":%d,"expires":%d}`, most, maxBytes, pullExpires)
	subject := "$JS.API.CONSUMER.MSG.NEXT." + f.l.stream + "." + f.name
	if err := f.l.c.nc.PublishRequest(subject, f.pull, req); err != nil {
		f.expect = 0
		return publishError(subject, err)
	}
	f.expect, f.expires = most, time.Now().Add(pullExpires+pullGrace)
	return nil
}

// sort tells blocks from what the server says of the pull.
func (f *Follower) sort(ctx context.Context, m *nats.Msg) (d Delivery, isBlock bool, err error) {
	s := status(m)
	if s == "" {
		meta, err := m.Metadata()
		if err != nil {
			return Delivery{}, false, fmt.Errorf("bus: follow %s as %s: %w", f.l.stream, f.name, err)
		}
		f.expect, f.refused = max(0, f.expect-1), 0
		return Delivery{
			Message:     Message{Seq: meta.Sequence.Stream, Time: meta.Timestamp, Data: m.Data},
			Redelivered: int(meta.NumDelivered) - 1,
			nc:          f.l.c.nc, reply: m.Reply,
		}, true, nil
	}
	if s == statusHeartbeat || m.Subject != f.pull {
		return Delivery{}, false, nil
	}
	f.expect = 0
	what := m.Header.Get("Description")
	switch {
	case s == statusPullExpired, what == "Batch Completed", what == "Message Size Exceeds MaxBytes": // as pulls end
		return Delivery{}, false, nil
	case what == "Consumer Deleted":
		return Delivery{}, false, fmt.Errorf("bus: follow %s as %s: %w", f.l.stream, f.name, jetstream.ErrConsumerDeleted)
	case s == statusConflict, s == statusNoResponders, s == statusNoMessage: // no leader, or it moves
		if f.refused++; f.refused > mostRefused {
			f.refused = 0
			return Delivery{}, false, fmt.Errorf("bus: follow %s as %s: refused for long: %s %s", f.l.stream, f.name, s, what)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pullPause):
		}
		return Delivery{}, false, nil
	}
	return Delivery{}, false, fmt.Errorf("bus: follow %s as %s: server answers %s %s", f.l.stream, f.name, s, what)
}

// Floor returns the highest sequence up to which every block that the follower must see is acknowledged, and the number of
// blocks that are not.
//
// For a follower that leaves blocks out, the server's ack floor stands at the last block it was given, which may be long ago.
// Once that has reached the newest block of its kind, everything up to the log's end is done. Both are asked of the log's
// leader, and before the floor: the leader of the consumer may lag behind the log, and what it does not know of, it does not
// count as pending.
func (f *Follower) Floor(ctx context.Context) (floor, pending uint64, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var last, newest uint64
	if f.opt.UserOnly {
		state, err := f.l.State(ctx)
		if err != nil {
			return 0, 0, err
		}
		last = state.Last
		m, err := f.l.c.leaderGet(ctx, f.l.stream, getRequest{LastBySubject: protocol.SubjectLogUser(f.l.partition)})
		switch {
		case err == nil:
			newest = m.Seq
		case !errors.Is(err, ErrNoMessage):
			return 0, 0, err
		}
	}
	cons, err := f.l.c.js.Consumer(ctx, f.l.stream, f.name)
	if err != nil {
		return 0, 0, fmt.Errorf("bus: floor of %s in %s: %w", f.name, f.l.stream, err)
	}
	info := cons.CachedInfo()
	floor = info.AckFloor.Stream
	pending = info.NumPending + uint64(info.NumAckPending)
	if f.opt.UserOnly && floor >= newest {
		floor = max(floor, last)
	}
	return floor, pending, nil
}

// Floor is Follower.Floor for one who does not follow: it creates and changes nothing. A follower that does not exist yet has
// acknowledged nothing.
func (l *Log) Floor(ctx context.Context, name string, userOnly bool) (uint64, error) {
	f := &Follower{l: l, name: name, opt: FollowOptions{UserOnly: userOnly}}
	floor, _, err := f.Floor(ctx)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	return floor, err
}
