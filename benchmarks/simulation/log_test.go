package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// logServer is a stream of JetStream as its clients see it: one leader that takes a message only where the client expects the
// right last sequence, and never loses what it took. It keeps what was trimmed too, for the oracles.
type logServer struct {
	w    *world
	down faultyUntil

	mu    sync.Mutex
	data  [][]byte       // all blocks there ever were
	block []*logv1.Block // the same, decoded
	at    []time.Time    // when each was stored
	first uint64
	bytes int64
	most  int64
	// What the blocks say: the truth that the oracles hold the product to.
	truth map[string]*truth
}

// truth is one conversation as the log has it.
type truth struct {
	records []*logv1.Record
	joins   map[string][]uint64
	leaves  map[string][]uint64
}

// readable is which of a conversation's records a user may have.
func (t *truth) readable(conversation, user string) []store.Interval {
	if t == nil {
		return nil
	}
	return store.Intervals(slices.Clone(t.joins[user]), slices.Clone(t.leaves[user]))
}

func within(intervals []store.Interval, seq uint64) bool {
	for _, i := range intervals {
		if i.From <= seq && (i.To == 0 || seq <= i.To) {
			return true
		}
	}
	return false
}

func (t *truth) head() uint64 {
	if t == nil {
		return 0
	}
	return uint64(len(t.records))
}

func (t *truth) all() []*logv1.Record {
	if t == nil {
		return nil
	}
	return t.records
}

func (s *logServer) append(proc string, data []byte, last uint64) (uint64, error) {
	if s.down.is() {
		return 0, errRefused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case uint64(len(s.data)) != last:
		s.w.step("log: block of %s expecting %d refused, the last is %d", proc, last, len(s.data))
		return 0, bus.ErrMoved
	case s.bytes+int64(len(data)) > s.most:
		s.w.step("log: full, block of %s refused", proc)
		s.w.count(func(c *counts) { c.full++ })
		return 0, bus.ErrFull
	}
	b := &logv1.Block{}
	if err := logblock.Decode(data, b); err != nil {
		s.w.violated("log", "block %d cannot be decoded: %v", last+1, err)
	}
	s.data, s.block, s.at = append(s.data, data), append(s.block, b), append(s.at, time.Now())
	s.bytes += int64(len(data))
	for _, r := range b.Records {
		s.note(r)
	}
	s.w.step("log: block %d of %s, %v, epoch %d, %d records", len(s.data), proc, b.Kind, b.Epoch, len(b.Records))
	return uint64(len(s.data)), nil
}

// note checks a record's place as it is written.
func (s *logServer) note(r *logv1.Record) {
	t := s.truth[r.Conversation]
	if t == nil {
		t = &truth{joins: map[string][]uint64{}, leaves: map[string][]uint64{}}
		s.truth[r.Conversation] = t
	}
	s.w.step("log: %s %d is %s/%s %s", r.Conversation, r.Seq, r.Sender, r.Device, r.ClientId)
	if r.Seq != t.head()+1 {
		s.w.violated("contiguous", "%s: seq %d follows %d", r.Conversation, r.Seq, t.head())
	}
	for _, have := range t.records {
		if have.Sender == r.Sender && have.Device == r.Device && have.ClientId == r.ClientId {
			s.w.violated("once", "%s: %s/%s %s stands at %d and at %d", r.Conversation, r.Sender, r.Device, r.ClientId, have.Seq, r.Seq)
		}
	}
	t.records = append(t.records, r)
	for _, u := range r.Joined {
		t.joins[u] = append(t.joins[u], r.Seq)
	}
	for _, u := range r.Left {
		t.leaves[u] = append(t.leaves[u], r.Seq)
	}
}

// committed returns the record at a place; nil if the log has none.
func (s *logServer) committed(conversation string, seq uint64) *logv1.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.truth[conversation]
	if seq == 0 || seq > t.head() {
		return nil
	}
	return t.records[seq-1]
}

// reach is the highest record of a conversation that the user may read now, and which those are.
func (s *logServer) reach(conversation, user string) (uint64, []store.Interval) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.truth[conversation]
	may := t.readable(conversation, user)
	if len(may) == 0 {
		return 0, nil
	}
	if to := may[len(may)-1].To; to != 0 {
		return to, may
	}
	return t.head(), may
}

func (s *logServer) trim(below uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	below = min(below, uint64(len(s.data)))
	for s.first < below && time.Since(s.at[s.first-1]) > keepTrimmed {
		s.bytes -= int64(len(s.data[s.first-1]))
		s.first++
	}
}

// keepTrimmed is how long a block stays although history has it: longer than what a new owner delivers again.
const keepTrimmed = 4 * time.Second

// records is how many there are.
func (s *logServer) records() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.truth {
		n += t.head()
	}
	return n
}

// blockAt is a block, also one that was trimmed.
func (s *logServer) blockAt(seq uint64) *logv1.Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.block[seq-1]
}

func (s *logServer) state() bus.LogState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bus.LogState{First: s.first, Last: uint64(len(s.data)), Bytes: s.bytes, MaxBytes: s.most}
}

func (s *logServer) get(seq uint64) (bus.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq < s.first || seq > uint64(len(s.data)) || seq == 0 {
		return bus.Message{}, bus.ErrNoMessage
	}
	return bus.Message{Seq: seq, Data: bytes.Clone(s.data[seq-1])}, nil
}

// logClient is a process's way to the log.
type logClient struct {
	p    *proc
	dice *dice

	mu  sync.Mutex
	out int // appends whose caller waits
}

var _ partition.Log = (*logClient)(nil)

func (l *logClient) Append(ctx context.Context, block []byte, _ bool, last uint64) (uint64, error) {
	s, data, t := l.p.w.log, bytes.Clone(block), l.p.w.trip(l.dice)
	l.mu.Lock()
	if l.out++; l.out > 1 {
		l.p.w.violated("one append in flight", "%s has %d", l.p.name, l.out)
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.out--
	}()
	return call(ctx, l.p, t, func() (uint64, error) { return s.append(l.p.name, data, last) })
}

func (l *logClient) Get(ctx context.Context, seq uint64) (bus.Message, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s := l.p.w.log
	return call(ctx, l.p, l.p.w.trip(l.dice), func() (bus.Message, error) {
		if s.down.is() {
			return bus.Message{}, errRefused
		}
		return s.get(seq)
	})
}

func (l *logClient) State(ctx context.Context) (bus.LogState, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s := l.p.w.log
	return call(ctx, l.p, l.p.w.trip(l.dice), func() (bus.LogState, error) {
		if s.down.is() {
			return bus.LogState{}, errRefused
		}
		return s.state(), nil
	})
}

func (l *logClient) Witness(ctx context.Context, seq uint64) error {
	_, err := l.State(ctx)
	return err
}

// Scan reads in batches; the log may be trimmed between them.
func (l *logClient) Scan(ctx context.Context, from uint64, fn func(bus.Message) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	state, err := l.State(ctx)
	if err != nil {
		return err
	}
	for next := max(from, state.First, 1); next <= state.Last; {
		batch, err := call(ctx, l.p, l.p.w.trip(l.dice), func() ([]bus.Message, error) { return l.p.w.log.batch(next, state.Last) })
		switch {
		case errors.Is(err, bus.ErrTrimmed):
			return err
		case err != nil:
			return fmt.Errorf("scan at %d: %w", next, err)
		}
		for _, m := range batch {
			if err := fn(m); err != nil {
				return err
			}
			next++
		}
	}
	return nil
}

func (s *logServer) batch(from, to uint64) ([]bus.Message, error) {
	if s.down.is() {
		return nil, errRefused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if from < s.first {
		return nil, bus.ErrTrimmed
	}
	var out []bus.Message
	for seq := from; seq <= to && len(out) < 64; seq++ {
		out = append(out, bus.Message{Seq: seq, Data: bytes.Clone(s.data[seq-1])})
	}
	return out, nil
}

// bounded is what pkg/bus does, sooner: no call waits for ever.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, 2*time.Second)
}
