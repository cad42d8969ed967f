// Package jobtest gives tests of the followers a log to write to, a store that fails on demand and an owner of users' logs.
package jobtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// App is the app of all records.
const App = "main"

// Start is the time of the first block unless a test says otherwise.
var Start = time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)

// Context bounds a test.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*bustest.Wait)
	t.Cleanup(cancel)
	return ctx
}

// Writer appends blocks as the owner of a partition does.
type Writer struct {
	t    testing.TB
	Log  *bus.Log
	Last uint64
	Time time.Time // of the next block
}

// NewWriter writes to an empty log.
func NewWriter(t testing.TB, c *bus.Conn, partition int) *Writer {
	t.Helper()
	return &Writer{t: t, Log: bustest.OpenLog(t, c, partition), Time: Start}
}

// Block appends records, with the user mark if anything follows from them for users, and returns the block's sequence.
func (w *Writer) Block(records ...*logv1.Record) uint64 {
	w.t.Helper()
	user := false
	for _, r := range records {
		r.App, r.TimeUs = App, w.Time.UnixMicro()
		user = user || len(r.Joined)+len(r.Left)+len(r.Active) > 0 || protocol.KindOf(r.Conversation) == protocol.KindUser
	}
	return w.block(logv1.Kind_KIND_DATA, user, records)
}

// Standing appends what an owner makes of a notice: a record of the user's log.
func (w *Writer) Standing(n Notice) uint64 {
	w.t.Helper()
	return w.Standings(n)
}

// Standings appends several in one block.
func (w *Writer) Standings(notices ...Notice) uint64 {
	w.t.Helper()
	var records []*logv1.Record
	for _, n := range notices {
		body, err := n.Standing.MarshalVT()
		if err != nil {
			w.t.Fatal(err)
		}
		records = append(records, &logv1.Record{
			Conversation: protocol.UserLog(n.User), Seq: 1, Sender: n.User, ClientId: n.ClientID, Type: protocol.TypeStanding, Body: body,
		})
	}
	return w.Block(records...)
}

// Fence appends a fence.
func (w *Writer) Fence() uint64 {
	w.t.Helper()
	return w.block(logv1.Kind_KIND_FENCE, false, nil)
}

func (w *Writer) block(kind logv1.Kind, user bool, records []*logv1.Record) uint64 {
	w.t.Helper()
	data, err := logblock.Encode(&logv1.Block{Kind: kind, Epoch: 1, TimeUs: w.Time.UnixMicro(), Records: records})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Time = w.Time.Add(time.Microsecond)
	return w.Raw(data, user)
}

// Raw appends any bytes.
func (w *Writer) Raw(data []byte, user bool) uint64 {
	w.t.Helper()
	seq, err := w.Log.Append(Context(w.t), data, user, w.Last)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Last = seq
	return seq
}

// Message is a record of a conversation.
func Message(conversation string, seq uint64) *logv1.Record {
	return &logv1.Record{Conversation: conversation, Seq: seq, Count: seq, Sender: "alice", Type: 16, Body: []byte("hello")}
}

// Key names a record.
type Key struct {
	Conversation string
	Seq          uint64
}

// Row names a row of a user's list.
type Row struct{ User, Conversation string }

// ErrDown is what the store answers while it is down.
var ErrDown = errors.New("jobtest: store is down")

// Store keeps in memory what the followers write, and nothing that they do not need.
type Store struct {
	store.Store // nil: what is not implemented here is not called

	mu        sync.Mutex
	down      bool
	writes    map[Key]int
	intervals map[Row][]store.Interval
	standings map[Row]store.Standing
	touched   map[Row]int64
	appends   int
	// OnAppend, if set before use, runs before each Append.
	OnAppend func()
	// OnPut, if set before use, may refuse a PutStandings.
	OnPut func([]store.UserStanding) error
}

// NewStore is empty.
func NewStore() *Store {
	return &Store{writes: map[Key]int{}, intervals: map[Row][]store.Interval{}, standings: map[Row]store.Standing{}, touched: map[Row]int64{}}
}

// SetDown makes everything fail, or work again.
func (s *Store) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *Store) use(fn func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return ErrDown
	}
	fn()
	return nil
}

// Append counts how often each record was written.
func (s *Store) Append(_ context.Context, records []*logv1.Record) error {
	if s.OnAppend != nil {
		s.OnAppend()
	}
	return s.use(func() {
		s.appends++
		for _, r := range records {
			// Names point into memory of the block, which is the caller's again.
			s.writes[Key{string([]byte(r.Conversation)), r.Seq}]++
		}
	})
}

// Writes returns how often each record was written, and in how many calls.
func (s *Store) Writes() (map[Key]int, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.writes), s.appends
}

// SetIntervals is what history would have written of a member.
func (s *Store) SetIntervals(conversation, user string, in ...store.Interval) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intervals[Row{user, conversation}] = in
}

// Intervals of a member.
func (s *Store) Intervals(_ context.Context, c store.Conversation, user string) (out []store.Interval, err error) {
	err = s.use(func() { out = s.intervals[Row{user, c.ID}] })
	return out, err
}

// PutStandings keeps the newest.
func (s *Store) PutStandings(_ context.Context, _ string, standings []store.UserStanding) error {
	if s.OnPut != nil {
		if err := s.OnPut(standings); err != nil {
			return err
		}
	}
	return s.use(func() {
		for _, st := range standings {
			row := Row{st.User, st.Conversation}
			if st.Seq > s.standings[row].Seq {
				s.standings[row] = st.Standing
			}
			s.touched[row] = max(s.touched[row], st.MinuteUs)
		}
	})
}

// Touch keeps the highest.
func (s *Store) Touch(_ context.Context, _ string, touches []store.Touch) error {
	return s.use(func() {
		for _, t := range touches {
			row := Row{t.User, t.Conversation}
			s.touched[row] = max(s.touched[row], t.MinuteUs)
		}
	})
}

// Standing returns a row of a user's list.
func (s *Store) Standing(user, conversation string) (store.Standing, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := Row{user, conversation}
	return s.standings[row], s.touched[row]
}

// Owner answers for users' logs of some partitions, as logic does.
type Owner struct {
	t    testing.TB
	conn *bus.Conn
	subs []*bus.Subscription

	mu      sync.Mutex
	got     []Notice
	seen    map[string]int // by client id and user
	largest int
	bears   int // requests with more get no answer; 0: none is too large
	// Refuse, if set before use, answers with an error for some.
	Refuse func(Notice) *protocol.Error
}

// Notice is one request that an owner took.
type Notice struct {
	User, ClientID string
	Standing       *recordv1.Standing
}

// NewOwner owns the partitions.
func NewOwner(t testing.TB, c *bus.Conn, refuse func(Notice) *protocol.Error, partitions ...int) *Owner {
	t.Helper()
	o := &Owner{t: t, conn: c, seen: map[string]int{}, Refuse: refuse}
	for _, p := range partitions {
		sub, err := c.Subscribe(protocol.SubjectServer(p), 100, func(m bus.Msg) { o.answer(m) })
		if err != nil {
			t.Fatal(err)
		}
		o.subs = append(o.subs, sub)
	}
	t.Cleanup(o.Close)
	return o
}

// Bear has the owner leave requests of more than most notices without an answer, as one does that is too slow for them.
func (o *Owner) Bear(most int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bears = most
}

// Close stops answering.
func (o *Owner) Close() {
	for _, s := range o.subs {
		_ = s.Close() // the connection may be closed already
	}
	o.subs = nil
}

func (o *Owner) answer(m bus.Msg) {
	var req linkv1.RequestBatch
	if err := req.UnmarshalVT(m.Data); err != nil {
		o.t.Errorf("request: %v", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.largest = max(o.largest, len(req.Requests))
	if o.bears > 0 && len(req.Requests) > o.bears {
		return
	}
	var out linkv1.DeliveryBatch
	for _, r := range req.Requests {
		frame := &envelopev1.Frame{RequestId: r.RequestId, Command: envelopev1.Command(r.Command)}
		var s recordv1.Standing
		switch err := s.UnmarshalVT(r.Body); {
		case err != nil:
			o.t.Errorf("standing: %v", err)
		case r.Command != protocol.CommandStanding || !r.Server || r.Conversation != protocol.UserLog(r.User) || !protocol.ValidClientID(r.ClientId):
			o.t.Errorf("not a request of the follower: %v", r)
		}
		n := Notice{User: r.User, ClientID: r.ClientId, Standing: &s}
		var refused *protocol.Error
		if o.Refuse != nil {
			refused = o.Refuse(n)
		}
		if refused != nil {
			frame.Error = refused.Wire()
		} else {
			if o.seen[n.User+" "+n.ClientID]++; o.seen[n.User+" "+n.ClientID] == 1 {
				o.got = append(o.got, n)
			}
		}
		data, err := frame.MarshalVT()
		if err != nil {
			o.t.Error(err)
		}
		out.Deliveries = append(out.Deliveries, &linkv1.Delivery{Conns: []uint64{r.Conn}, Frame: data})
	}
	data, err := out.MarshalVT()
	if err != nil {
		o.t.Error(err)
	}
	if err := o.conn.Publish(m.Reply, "", data); err != nil {
		o.t.Error(err)
	}
}

// Got returns the notices, each once, in order, and how many came a second time.
func (o *Owner) Got() (got []Notice, repeated int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range o.seen {
		repeated += n - 1
	}
	return slices.Clone(o.got), repeated
}

// Largest is the most that one request asked for.
func (o *Owner) Largest() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.largest
}
