package logic_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
)

// faultyStore asks before each call of one conversation whether it may go on.
type faultyStore struct {
	store.Store
	gate atomic.Pointer[func(ctx context.Context, c store.Conversation) error]
}

func (s *faultyStore) set(gate func(ctx context.Context, c store.Conversation) error) {
	s.gate.Store(&gate)
}

func (s *faultyStore) ask(ctx context.Context, c store.Conversation) error {
	if gate := s.gate.Load(); gate != nil && *gate != nil {
		return (*gate)(ctx, c)
	}
	return nil
}

func (s *faultyStore) Range(ctx context.Context, c store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error) {
	if err := s.ask(ctx, c); err != nil {
		return nil, err
	}
	return s.Store.Range(ctx, c, from, to, limit, newest)
}

func (s *faultyStore) Members(ctx context.Context, c store.Conversation) ([]store.Member, error) {
	if err := s.ask(ctx, c); err != nil {
		return nil, err
	}
	return s.Store.Members(ctx, c)
}

func (s *faultyStore) SetCursors(ctx context.Context, c store.Conversation, cursors []store.Cursor) error {
	if err := s.ask(ctx, c); err != nil {
		return err
	}
	return s.Store.SetCursors(ctx, c, cursors)
}

var errDown = errors.New("the store is down")

func (w *world) faulty() *faultyStore {
	s := &faultyStore{Store: w.store}
	w.store = s
	return s
}

// sibling is another 1:1 of alice's in the same partition.
func sibling(of string, n int) string {
	for i := 0; ; i++ {
		d := protocol.Direct("alice", fmt.Sprintf("peer%d", i))
		if protocol.Partition("main", d, partitions) == protocol.Partition("main", of, partitions) {
			if n--; n < 0 {
				return d
			}
		}
	}
}

// A conversation that cannot be read now takes the heads of no other with it; asked for alone, it is an error.
func TestHeadsAreToldWithoutTheOneThatCannotBe(t *testing.T) {
	w := newWorld(t)
	st := w.faulty()
	w.ready("n1")
	alice := w.comet().connect(w, "alice", "a")
	warm, cold := protocol.Direct("alice", "bob"), protocol.Direct("alice", "carol")
	alice.say(warm, "1", 0, "x")
	st.set(func(_ context.Context, c store.Conversation) error {
		if c.ID == cold {
			return errors.New("not today")
		}
		return nil
	})
	ask := func(ids ...string) *envelopev1.Frame {
		return alice.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_HEADS, body: &conversationv1.HeadsRequest{Conversations: ids}})
	}
	reply := &conversationv1.HeadsReply{}
	if f := ask(warm, cold, "d:bob:carol"); f.Error != nil || reply.UnmarshalVT(f.Body) != nil {
		t.Fatal(f)
	}
	if len(reply.Heads) != 1 || reply.Heads[0].Conversation != warm || fmt.Sprint(reply.Unanswered) != "["+cold+"]" {
		t.Errorf("%v", reply)
	}
	if f := ask(cold); f.Error.GetCode() != string(protocol.CodeRetry) {
		t.Errorf("%v", f)
	}
	st.set(nil)
	reply = &conversationv1.HeadsReply{}
	if f := ask(warm, cold); f.Error != nil || reply.UnmarshalVT(f.Body) != nil || len(reply.Unanswered) != 0 {
		t.Errorf("%v", f)
	}
}

func TestAConversationThatIsLoadedHoldsBackOnlyItself(t *testing.T) {
	w := newWorld(t)
	st := w.faulty()
	w.ready("n1")
	alice := w.comet().connect(w, "alice", "a")
	slow := protocol.Direct("alice", "bob")
	hot, cold := sibling(slow, 0), sibling(slow, 1)
	alice.say(hot, "warm", 0, "x")

	open := make(chan struct{})
	st.set(func(ctx context.Context, c store.Conversation) error {
		if c.ID != slow {
			return nil
		}
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	send := func(id, after string) <-chan *envelopev1.Frame {
		return alice.send(request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: slow, clientID: id, after: after, body: text(id)})
	}
	one, two, three := send("s1", ""), send("s2", "s1"), send("s3", "s2")
	for i := range 5 { // Meanwhile the others of the partition go on, a cold one too.
		alice.say(hot, fmt.Sprint("h", i), uint64(i+1), "x")
	}
	alice.say(cold, "c", 0, "x")
	select {
	case f := <-one:
		t.Fatalf("answered before it could be known: %v", f)
	default:
	}
	close(open)
	for i, ch := range []<-chan *envelopev1.Frame{one, two, three} {
		if ack := decodeAck(t, <-ch); ack.Seq != uint64(i+1) {
			t.Fatalf("held message %d acked as %v", i, ack)
		}
	}
}

func TestWithoutTheStoreWhatIsInMemoryGoesOn(t *testing.T) {
	w := newWorld(t)
	st := w.faulty()
	w.ready("n1")
	c := w.comet()
	alice, bob := c.connect(w, "alice", "a"), c.connect(w, "bob", "b")
	hot := protocol.Direct("alice", "bob")
	for i := range 5 {
		alice.say(hot, fmt.Sprint("h", i), uint64(i), "x")
	}
	st.set(func(context.Context, store.Conversation) error { return errDown })
	if ack := alice.say(hot, "h5", 5, "x"); ack.Seq != 6 {
		t.Fatalf("acked as %v", ack)
	}
	if h := bob.history(hot, 2); len(h.Records) != 4 || h.Records[0].Seq != 3 {
		t.Fatalf("recent history: %v", h)
	}
	cold := sibling(hot, 0)
	for range 3 {
		alice.refused(protocol.CodeRetry, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: cold, clientID: "c", body: text("x")})
	}
	st.set(nil)
	if ack := alice.say(cold, "c", 0, "x"); ack.Seq != 1 || ack.Duplicate {
		t.Fatalf("acked as %v", ack)
	}
}

func TestANewOwnerDeliversTheLastSecondsAgainWithoutAStormOfResyncs(t *testing.T) {
	w := newWorld(t)
	n := w.ready("n1")
	c := w.comet()
	alice := c.connect(w, "alice", "a")
	const conversations = 1500 // More than the delivery stage has places for blocks.
	var waiting []<-chan *envelopev1.Frame
	for i := range conversations {
		waiting = append(waiting, alice.send(request{
			command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: protocol.Direct("alice", fmt.Sprintf("p%d", i)), clientID: "m", body: text("x"),
		}))
	}
	for _, ch := range waiting {
		decodeAck(t, <-ch)
	}
	g := protocol.Group("main", "alice", "g")
	alice.ack(request{
		command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "g",
		body: &conversationv1.CreateRequest{Members: []string{"late"}},
	})
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	// Nobody of these was connected when it was written; their devices have read no heads since, as if they had been lost.
	late := c.connect(w, "late", "l")
	var peers []*device
	for i := range conversations {
		peers = append(peers, c.connect(w, fmt.Sprintf("p%d", i), "x"))
	}
	st := w.faulty()
	failing := atomic.Bool{}
	failing.Store(true)
	st.set(func(context.Context, store.Conversation) error {
		if failing.Load() {
			return errDown
		}
		return nil
	})
	w.ready("n2")
	for i, p := range peers {
		eventually(t, func() error { return p.hasSeqs(protocol.Direct("alice", fmt.Sprintf("p%d", i)), 1) })
	}
	failing.Store(false) // A group's members are in the store; it is delivered again once that answers.
	eventually(t, func() error { return late.hasSeqs(g, 1) })
	if n := c.lost.Load(); n > 0 {
		t.Errorf("nodes were told to resync %d times", n)
	}
}

func TestReadCursors(t *testing.T) {
	w := newWorld(t)
	w.cfg.Partition.CursorFlushMs = 20
	w.cfg.Partition.WindowRecords = 5
	n := w.ready("n1")
	c := w.comet()
	alice, phone, bob := c.connect(w, "alice", "laptop"), c.connect(w, "alice", "phone"), c.connect(w, "bob", "b")
	d := protocol.Direct("alice", "bob")
	for i := range 40 {
		bob.say(d, fmt.Sprint("m", i), uint64(i), "x")
	}
	read := func(who *device, seq uint64) *receiptv1.Cursor {
		t.Helper()
		cursor := &receiptv1.Cursor{}
		eventually(t, func() error {
			f := who.ask(request{command: envelopev1.Command_COMMAND_RECEIPT_READ, conversation: d, body: &receiptv1.ReadRequest{Seq: seq}})
			if f.Error != nil {
				return protocol.FromWire(f.Error)
			}
			return cursor.UnmarshalVT(f.Body)
		})
		return cursor
	}
	wants := func(got *receiptv1.Cursor, seq, count uint64) {
		t.Helper()
		if got.User != "alice" || got.Seq != seq || got.Count != count {
			t.Fatalf("cursor %v, want seq %d, count %d", got, seq, count)
		}
	}
	pushed := func(who *device, seq uint64) error {
		who.mu.Lock()
		defer who.mu.Unlock()
		for _, f := range who.pushes {
			cursor := &receiptv1.Cursor{}
			if f.Command == envelopev1.Command_COMMAND_CURSOR && f.Conversation == d && cursor.UnmarshalVT(f.Body) == nil &&
				cursor.User == "alice" && cursor.Seq == seq && cursor.Count == seq {
				return nil
			}
		}
		return fmt.Errorf("%s on %s was not told of the cursor at %d", who.user, who.device, seq)
	}
	wants(read(alice, 38), 38, 38)
	wants(read(alice, 7), 38, 38) // It never goes back.
	for _, who := range []*device{phone, bob} {
		eventually(t, func() error { return pushed(who, 38) })
	}
	if pushed(alice, 38) == nil {
		t.Error("the session that read is told what it knows")
	}
	wants(read(alice, 4_000_000), 40, 40) // Nor beyond the head.
	c.connect(w, "mallory", "m").refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_RECEIPT_READ, conversation: d, body: &receiptv1.ReadRequest{Seq: 3}})
	eventually(t, func() error {
		cursor, err := w.store.Cursor(t.Context(), store.Conversation{App: "main", ID: d}, "alice")
		if err == nil && (cursor.Seq != 40 || cursor.Count != 40) {
			err = fmt.Errorf("stored: %v", cursor)
		}
		return err
	})
	// One that moves just before the owner goes is not lost, and the count of an old record comes from the store.
	w.storeLog()
	bob.say(d, "more", 40, "x")
	wants(read(alice, 41), 41, 41)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	w.storeLog()
	w.ready("n2")
	wants(read(alice, 1), 41, 41)
	f := bob.ask(request{command: envelopev1.Command_COMMAND_RECEIPT_READ, conversation: d, body: &receiptv1.ReadRequest{Seq: 12}})
	cursor := &receiptv1.Cursor{}
	if f.Error != nil || cursor.UnmarshalVT(f.Body) != nil || cursor.Seq != 12 || cursor.Count != 12 {
		t.Fatalf("bob's cursor: %v", f)
	}
	eventually(t, func() error {
		h := bob.heads(d)
		if len(h) != 1 || h[0].ReadSeq != 12 || h[0].ReadCount != 12 || h[0].Count != 41 {
			return fmt.Errorf("bob's head: %v", h)
		}
		return nil
	})
}

// The follower dies between the record of a user's log and the row in the user's list, history goes on, and the next owner is asked for
// the same record again: it must know it from the log.
func TestANewOwnerKnowsWhatAUsersLogTellsThoughTheListDoesNot(t *testing.T) {
	w := newWorld(t)
	w.cfg.Partition.RedeliverWithinMs = 0
	n1 := w.ready("n1")
	u, p := "u:carol", protocol.Partition("main", "u:carol", partitions)
	carol := w.comet().connect(w, "carol", "c")
	d := ""
	for i := 0; d == "" || protocol.Partition("main", d, partitions) != p; i++ {
		d = protocol.Direct("carol", fmt.Sprint("user", i))
	}
	tell := func(conversation string, seq uint64) {
		t.Helper()
		if codes := w.standingsIn(conversation, p, u, seq); fmt.Sprint(codes) != "[]" {
			t.Fatalf("answered %q", codes)
		}
	}
	tell("g:x", 5)
	carol.say(d, "1", 0, "x")
	w.userlogsTell()
	tell("g:x", 7)
	tell("g:y", 1)            // A log's last record is read from the store.
	carol.say(d, "2", 1, "x") // The last block is read by any new owner.
	w.storeLog()
	if err := n1.stop(); err != nil {
		t.Fatal(err)
	}
	w.ready("n2")
	tell("g:x", 7)
	if h := carol.history(u, 0); len(h.Records) != 3 {
		t.Fatalf("carol's log tells it again: %v", h)
	}
}

func TestAFollowersRequestsAreAnsweredEvenWhenBusy(t *testing.T) {
	w := newWorld(t)
	w.cfg.Reads = 1
	st := w.faulty()
	w.ready("n1")
	alice := w.comet().connect(w, "alice", "a")
	d := protocol.Direct("alice", "bob")
	for i := range 3 {
		alice.say(d, fmt.Sprint(i), uint64(i), "x")
	}
	u := "u:carol"
	p := protocol.Partition("main", u, partitions)
	if codes := w.standings(p, u, 7, 7, 5, 9); fmt.Sprint(codes) != "[   ]" {
		t.Fatalf("answered %q", codes)
	}
	// In one block too: now that the log exists, nothing but their own kind holds these back.
	if codes := w.standings(p, u, 20, 19, 20, 18); fmt.Sprint(codes) != "[   ]" {
		t.Fatalf("answered %q", codes)
	}
	carol := w.comet().connect(w, "carol", "c")
	if h := carol.history(u, 0); len(h.Records) != 3 || h.Records[2].GetStanding().GetSeq() != 20 || h.Records[0].GetStanding().GetSeq() != 7 || h.Records[1].GetStanding().GetSeq() != 9 {
		t.Fatalf("carol's log: %v; what is not newer is dropped", h)
	}
	// The one slot for reads is taken.
	open, entered := make(chan struct{}), make(chan struct{}, 8)
	st.set(func(ctx context.Context, c store.Conversation) error {
		entered <- struct{}{}
		select {
		case <-open:
		case <-ctx.Done():
		}
		return nil
	})
	slow := make(chan struct{})
	go func() {
		defer close(slow)
		w.standings(protocol.Partition("main", "u:dave", partitions), "u:dave", 1)
	}()
	select {
	case <-entered:
	case <-time.After(10 * time.Second):
		t.Fatal("dave's log is not read")
	}
	if codes := w.standings(p, u, 31, 32); fmt.Sprint(codes) != "[busy busy]" {
		t.Fatalf("answered %q", codes)
	}
	close(open)
	<-slow
}

// Many ask at once for what only few reads may get: all are answered, in their turn, and none has to ask again.
// stored is a conversation of 20 records, of which the next owner has nothing but the newest in memory.
func (w *world) stored() (alice *device, d string) {
	w.t.Helper()
	n := w.ready("n1")
	alice, d = w.comet().connect(w, "alice", "a"), protocol.Direct("alice", "bob")
	for i := range uint64(20) {
		alice.say(d, fmt.Sprint("c", i), i, "x")
	}
	if err := n.stop(); err != nil {
		w.t.Fatal(err)
	}
	w.storeLog()
	return alice, d
}

func TestReadsWaitForTheirTurn(t *testing.T) {
	w := newWorld(t)
	w.cfg.Reads, w.cfg.Partition.WindowRecords = 2, 1
	alice, d := w.stored()
	st := w.faulty()
	var under, most atomic.Int64
	st.set(func(context.Context, store.Conversation) error {
		most.Store(max(most.Load(), under.Add(1)))
		defer under.Add(-1)
		<-time.After(2 * time.Millisecond)
		return nil
	})
	n := w.ready("n2")
	const asked = 200
	var answers []<-chan *envelopev1.Frame
	for range asked {
		answers = append(answers, alice.send(request{
			command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: d, body: &conversationv1.HistoryRequest{AfterSeq: 3, Limit: 5},
		}))
	}
	for i, ch := range answers {
		select {
		case f := <-ch:
			if f.Error != nil {
				t.Fatalf("question %d: %v", i, protocol.FromWire(f.Error))
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("question %d has no answer", i)
		}
	}
	if most.Load() > 4 { // Two reads, and two loads.
		t.Errorf("%d reads of the store at once", most.Load())
	}
	// Those that wait when the owner goes are told so.
	st.set(func(ctx context.Context, _ store.Conversation) error { <-ctx.Done(); return ctx.Err() })
	answers = answers[:0]
	for range 10 {
		answers = append(answers, alice.send(request{
			command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: d, body: &conversationv1.HistoryRequest{AfterSeq: 3, Limit: 5},
		}))
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	for i, ch := range answers {
		select {
		case f := <-ch:
			if f.Error == nil || !f.Error.Retryable {
				t.Fatalf("question %d: %v", i, f)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("question %d has no answer", i)
		}
	}
}

// TestAReadWithoutRoomGetsATurn: one that cannot wait any more is told when to come back, and not all at the same moment.
func TestAReadWithoutRoomGetsATurn(t *testing.T) {
	w := newWorld(t)
	w.cfg.Reads, w.cfg.Partition.WindowRecords, w.cfg.Partition.QueueRequests = 1, 1, 64
	alice, d := w.stored()
	st := w.faulty()
	w.ready("n2")
	alice.say(d, "c20", 20, "x") // The conversation is loaded.
	held := make(chan struct{})
	st.set(func(context.Context, store.Conversation) error { <-held; return nil })
	ask := func() <-chan *envelopev1.Frame {
		return alice.send(request{
			command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: d, body: &conversationv1.HistoryRequest{AfterSeq: 3, Limit: 5},
		})
	}
	answers := []<-chan *envelopev1.Frame{ask()}
	for i := range uint64(64) { // One is under way, and so many wait.
		answers = append(answers, ask())
		if i%16 == 0 { // The owner has taken those before it.
			alice.say(d, fmt.Sprint("more", i), 21+i/16, "x")
		}
	}
	alice.say(d, "last", 25, "x")
	turns := map[uint32]bool{}
	for range 100 {
		f := <-ask()
		if f.Error == nil || f.Error.Code != string(protocol.CodeBusy) || f.Error.RetryAfterMs < 1000 || f.Error.RetryAfterMs > 60_000 {
			t.Fatalf("%v", f)
		}
		turns[f.Error.RetryAfterMs] = true
	}
	if len(turns) < 20 {
		t.Errorf("%d different turns", len(turns))
	}
	close(held)
	if f := <-answers[0]; f.Error != nil {
		t.Errorf("the first of all: %v", protocol.FromWire(f.Error))
	}
}
