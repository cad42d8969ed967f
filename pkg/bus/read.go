package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	scanBatch      = 4096    // messages asked for at once
	scanBatchBytes = 8 << 20 // and bytes; with one message more this is what Scan holds
	// How long Scan waits for the next message before it asks again from there.
	scanPatience = 5 * time.Second
	// Pause before a replica that lags is asked again.
	scanPause = 50 * time.Millisecond
)

// State asks the log's leader where the log stands: ErrIncarnation if it is not the one that was opened.
func (l *Log) State(ctx context.Context) (LogState, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := l.c.streamInfo(ctx, l.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return LogState{}, fmt.Errorf("%w: %s does not exist", ErrIncarnation, l.stream)
	}
	if err != nil {
		return LogState{}, err
	}
	if info.Config.Metadata[metaIncarnation] != l.incarnation {
		return LogState{}, fmt.Errorf("%w: %s carries another incarnation", ErrIncarnation, l.stream)
	}
	return LogState{
		First: info.State.FirstSeq, Last: info.State.LastSeq,
		Bytes: int64(info.State.Bytes), MaxBytes: info.Config.MaxBytes,
	}, nil
}

// Get reads one block: ErrNoMessage where there is none, by the word of the log's leader.
func (l *Log) Get(ctx context.Context, seq uint64) (Message, error) {
	if seq == 0 {
		return Message{}, ErrNoMessage
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	// Any replica may answer. What it has is the truth, since blocks never change; that it has nothing says nothing.
	m, err := l.c.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+l.stream, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err == nil && status(m) == "" {
		at, terr := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
		got, serr := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
		if terr == nil && serr == nil && got == seq {
			return Message{Seq: seq, Time: at, Data: m.Data}, nil
		}
	}
	sm, err := l.c.leaderGet(ctx, l.stream, getRequest{Seq: seq})
	if err != nil {
		return Message{}, err
	}
	return sm.Message, nil
}

// Scan calls fn for every block from the sequence on (0, or one that was trimmed: from the first) to the last one at the time
// of the call, in order. It stops with fn's error; ErrHole if a sequence is missing; ErrTrimmed. Message.Time is zero.
func (l *Log) Scan(ctx context.Context, from uint64, fn func(Message) error) error {
	state, err := l.State(ctx)
	if err != nil {
		return err
	}
	s := &scan{l: l, next: max(from, state.First, 1), last: state.Last, fn: fn, inbox: l.c.nc.NewInbox() + "."}
	if s.next > s.last {
		return nil
	}
	// A batch, what ends it, and an answer that came too late all fit, so nothing is dropped.
	s.msgs = make(chan *nats.Msg, 2*scanBatch+2)
	sub, err := l.c.nc.ChanSubscribe(s.inbox+"*", s.msgs)
	if err != nil {
		return fmt.Errorf("bus: scan %s: %w", l.stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for s.next <= s.last {
		if err := s.batch(ctx); err != nil {
			return err
		}
	}
	return nil
}

type scan struct {
	l          *Log
	next, last uint64
	fn         func(Message) error

	inbox string
	token uint64
	msgs  chan *nats.Msg
}

// batch reads some blocks from s.next on. Messages come without headers, which cost more than small blocks do: the place of
// each follows from its order, and the end of the batch, which names the last sequence sent, proves it.
func (s *scan) batch(ctx context.Context) error {
	s.token++
	reply := s.inbox + strconv.FormatUint(s.token, 36)
	n := min(scanBatch, s.last-s.next+1)
	req := fmt.Appendf(nil, `{"seq":%d,"batch":%d,"max_bytes":%d,"no_hdr":true}`, s.next, n, scanBatchBytes)
	if err := s.l.c.nc.PublishRequest("$JS.API.DIRECT.GET."+s.l.stream, reply, req); err != nil {
		return publishError(s.l.stream, err)
	}
	patience := time.NewTimer(scanPatience)
	defer patience.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("bus: scan %s at %d: %w", s.l.stream, s.next, ctx.Err())
		case <-patience.C:
			return nil // from s.next again
		case m := <-s.msgs:
			if m.Subject != reply {
				continue // of a batch that was given up
			}
			switch status(m) {
			case "":
				if err := s.take(m); err != nil {
					return err
				}
				patience.Reset(scanPatience)
			case statusEndOfBatch:
				return s.proveContiguous(ctx, m)
			case statusNoMessage, statusNoResponders:
				return s.pause(ctx)
			default:
				return fmt.Errorf("bus: scan %s at %d: server answers %s %s", s.l.stream, s.next, status(m), m.Header.Get("Description"))
			}
		}
	}
}

func (s *scan) take(m *nats.Msg) error {
	if v := m.Header.Get(jetstream.SequenceHeader); v != "" { // a server that does not know no_hdr
		if got, err := strconv.ParseUint(v, 10, 64); err != nil || got != s.next {
			return fmt.Errorf("%w: %s has %s where %d belongs", ErrHole, s.l.stream, v, s.next)
		}
	}
	err := s.fn(Message{Seq: s.next, Data: m.Data})
	s.next++
	return err
}

func (s *scan) proveContiguous(ctx context.Context, end *nats.Msg) error {
	v := end.Header.Get("Nats-Last-Sequence")
	if got, err := strconv.ParseUint(v, 10, 64); err == nil && got == s.next-1 {
		return nil
	}
	if state, err := s.l.State(ctx); err == nil && state.First > s.next-1 {
		return fmt.Errorf("%w: %s now begins at %d", ErrTrimmed, s.l.stream, state.First)
	}
	return fmt.Errorf("%w: the batch of %s that should end at %d ended at %s", ErrHole, s.l.stream, s.next-1, v)
}

// pause waits for a replica that does not have yet what the leader said it has; it gives up if what is asked for was trimmed.
func (s *scan) pause(ctx context.Context) error {
	state, err := s.l.State(ctx)
	if err != nil {
		return err
	}
	if state.First > s.next {
		return fmt.Errorf("%w: %s now begins at %d", ErrTrimmed, s.l.stream, state.First)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("bus: scan %s at %d: %w", s.l.stream, s.next, ctx.Err())
	case <-time.After(scanPause):
		return nil
	}
}

// Trim removes all blocks with a sequence lower than below. Doing it twice, or from two nodes, is harmless.
func (l *Log) Trim(ctx context.Context, below uint64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	state, err := l.State(ctx)
	if err != nil {
		return err
	}
	// An empty stream only has its last sequence to continue from; nothing is gained by trimming the last block away.
	below = min(below, state.Last)
	if below <= state.First {
		return nil
	}
	if err := l.Witness(ctx, state.Last); err != nil {
		return err
	}
	s, err := l.c.js.Stream(ctx, l.stream)
	if err != nil {
		return fmt.Errorf("bus: trim %s: %w", l.stream, err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSequence(below)); err != nil {
		return fmt.Errorf("bus: trim %s: %w", l.stream, err)
	}
	return nil
}

// getRequest asks the leader of a stream for one message.
type getRequest struct {
	Seq           uint64 `json:"seq,omitempty"`
	LastBySubject string `json:"last_by_subj,omitempty"`
}

// storedMessage is what it answers.
type storedMessage struct {
	Message
	Header []byte
}

// deleted reports whether the message of a KV bucket marks a key as gone.
func (m *storedMessage) deleted() bool {
	if len(m.Header) == 0 {
		return false
	}
	h, err := nats.DecodeHeadersMsg(m.Header)
	return err == nil && (h.Get("KV-Operation") != "" || h.Get("Nats-Marker-Reason") != "")
}

func (c *Conn) leaderGet(ctx context.Context, stream string, req getRequest) (*storedMessage, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("bus: get from %s: %w", stream, err)
	}
	m, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, body)
	if err != nil {
		return nil, publishError(stream, err)
	}
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Seq    uint64    `json:"seq"`
			Header []byte    `json:"hdrs"`
			Data   []byte    `json:"data"`
			Time   time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &resp); err != nil {
		return nil, fmt.Errorf("bus: get from %s: answer: %w", stream, err)
	}
	switch {
	case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, ErrNoMessage
	case resp.Error != nil && resp.Error.Code == http.StatusNotFound:
		return nil, fmt.Errorf("bus: get from %s: %w", stream, jetstream.ErrStreamNotFound)
	case resp.Error != nil:
		return nil, fmt.Errorf("bus: get from %s: %w", stream, resp.Error)
	case resp.Message == nil:
		return nil, fmt.Errorf("bus: get from %s: empty answer", stream)
	}
	sm := resp.Message
	return &storedMessage{Message: Message{Seq: sm.Seq, Time: sm.Time, Data: sm.Data}, Header: sm.Header}, nil
}
