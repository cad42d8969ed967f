package partition

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

const chat = "d:alice:bob"

func TestAnOwnerThatWasReplacedWithoutKnowingWritesNothingMore(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), false)
	for i := range 3 {
		if ack := acked(t, l.node.ask(first.inbox, send("alice", chat, fmt.Sprintf("a%d", i), "", uint64(i)))); ack.Seq != uint64(i+1) {
			t.Fatalf("message %d acked as %v", i, ack)
		}
	}
	second := l.rule(l.partition("second"), true) // Once the first one's lease has run out.
	// It still believes to be the owner. Reads it does not dare any more; what it writes is not accepted.
	refusedAs(t, l.node.ask(first.inbox, link.Request{
		User: "alice", Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: chat,
	}), protocol.CodeRetry)
	one, two := l.node.ask(first.inbox, send("alice", chat, "late", "", 3)), l.node.ask(first.inbox, send("bob", "d:bob:carol", "late", "", 0))
	refusedAs(t, one, protocol.CodeRetry)
	refusedAs(t, two, protocol.CodeRetry)
	if err := <-first.ended; !errors.Is(err, errDeposed) {
		t.Fatalf("the first owner ended with %v", err)
	}
	refusedAs(t, l.node.ask(first.inbox, send("alice", chat, "later", "", 3)), protocol.CodeRetry)
	if ack := acked(t, l.node.ask(second.inbox, send("alice", chat, "late", "", 3))); ack.Seq != 4 || ack.Duplicate {
		t.Fatalf("the second owner acked %v", ack)
	}
	if ack := acked(t, l.node.ask(second.inbox, send("alice", chat, "a1", "", 1))); ack.Seq != 2 || !ack.Duplicate {
		t.Fatalf("a retry of the second message acked as %v", ack)
	}
	if got := len(l.audit()[chat]); got != 4 {
		t.Fatalf("%d records", got)
	}
}

// One that is only read from hears of no refused append; yet its answers are of an epoch that is over.
func TestAnOwnerThatWasReplacedWithoutKnowingEndsThoughNobodyWrites(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), false)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "a", "", 0)))
	l.rule(l.partition("second"), true)
	select {
	case err := <-first.ended:
		if !errors.Is(err, errDeposed) {
			t.Fatalf("the first owner ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the first owner still believes that it is one")
	}
}

// A takeover that loses its lease on the way deposes nobody.
func TestATakeoverThatIsTooLateWritesNoFence(t *testing.T) {
	l := newLab(t, 64<<20)
	late := l.partition("late")
	held, err := acquire(t.Context(), late.Leases, 0, late.Node, late.Logger)
	if err != nil {
		t.Fatal(err)
	}
	c := late.Candidate()
	c.o.reign = held
	held.gone <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	served := func(bool) {
		t.Error("it serves")
		cancel()
	}
	if err := c.o.rule(ctx, served); !errors.Is(err, errTooLate) {
		t.Errorf("%v", err)
	}
	if state, err := late.Log.State(t.Context()); err != nil || state.Last != 0 {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestAnOwnerThatLostItsKeyGoesOnUnlessAnotherHasWritten(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	first := l.rule(p, true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "a", "", 0)))
	value, err := l.leases.Get(t.Context(), leaseKey(0))
	if err != nil || value == nil {
		t.Fatal(value, err)
	}
	stolen, err := l.leases.Acquire(t.Context(), leaseKey(0), value) // Ours by its value.
	if err == nil {
		err = l.leases.Release(t.Context(), stolen)
	}
	if err != nil {
		t.Fatal(err)
	}
	bustest.Until(t, "the key is there again", func() bool {
		again, err := l.leases.Get(t.Context(), leaseKey(0))
		return err == nil && again != nil
	})
	bustest.Until(t, "it reads again", func() bool {
		f := receive(t, l.node.ask(first.inbox, link.Request{
			User: "alice", Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: chat,
		}))
		return f.Error == nil
	})
	if ack := acked(t, l.node.ask(first.inbox, send("alice", chat, "b", "", 1))); ack.Seq != 2 {
		t.Fatalf("acked as %v", ack)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	l.audit()
}

func TestALostAckOfTheLogDoublesNothing(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	lose := 0
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		seq, err := p.Log.Append(ctx, block, user, last)
		if lose > 0 && err == nil {
			lose--
			return 0, errors.New("the answer was lost")
		}
		return seq, err
	}
	first := l.rule(p, true)
	for i := range 10 {
		acked(t, l.node.ask(first.inbox, send("alice", chat, fmt.Sprintf("warm%d", i), "", uint64(i))))
		lose = i % 2 // Read by the owner's goroutine only after the next request was queued.
	}
	if got := len(l.audit()[chat]); got != 10 {
		t.Fatalf("%d records of 10", got)
	}
}

func TestTheLastBlockThatFittedIsNotCalledRefused(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	tries := 0
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		if last < 2 {
			return p.Log.Append(ctx, block, user, last)
		}
		if tries++; tries == 1 {
			if _, err := p.Log.Append(ctx, block, user, last); err != nil {
				return 0, err
			}
			return 0, errors.New("the answer was lost")
		}
		return 0, bus.ErrFull
	}
	first := l.rule(p, true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "a", "", 0)))
	if ack := acked(t, l.node.ask(first.inbox, send("alice", chat, "b", "", 1))); ack.Seq != 2 {
		t.Fatalf("acked as %v", ack)
	}
	refusedAs(t, l.node.ask(first.inbox, send("alice", chat, "c", "", 2)), protocol.CodeBusy)
	if got := len(l.audit()[chat]); got != 2 {
		t.Fatalf("%d records", got)
	}
}

// A block was given up for want of room while a try of it was still on its way: it must not arrive after all, for its writers may be told
// something else by then, and its owner would not know of it.
func TestABlockThatWasGivenUpIsFencedOff(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	var late func() error
	tries := 0
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		if last < 2 {
			return p.Log.Append(ctx, block, user, last)
		}
		switch tries++; tries {
		case 1:
			held := append([]byte(nil), block...)
			late = func() error {
				_, err := p.Log.Append(context.Background(), held, user, last)
				return err
			}
			return 0, errors.New("no answer")
		case 2:
			return 0, bus.ErrFull
		default:
			return p.Log.Append(ctx, block, user, last)
		}
	}
	first := l.rule(p, true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "a", "", 0)))
	refusedAs(t, l.node.ask(first.inbox, send("alice", chat, "b", "", 1)), protocol.CodeBusy)
	if err := late(); !errors.Is(err, bus.ErrMoved) {
		t.Errorf("the late try: %v", err)
	}
	if got := len(l.audit()[chat]); got != 1 {
		t.Errorf("%d records", got)
	}
	select {
	case err := <-first.ended:
		t.Errorf("the owner ended: %v", err)
	default:
	}
}

func TestABlockThatDidNotFitLeavesNoHole(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	full := false
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		if full {
			full = false
			return 0, bus.ErrFull
		}
		return p.Log.Append(ctx, block, user, last)
	}
	first := l.rule(p, true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "a", "", 0)))
	full = true // Read by the owner's goroutine only after the next request was queued.
	refusedAs(t, l.node.ask(first.inbox, send("alice", chat, "b", "", 1)), protocol.CodeBusy)
	bustest.Until(t, "the owner has looked and found room", func() bool {
		f := receive(t, l.node.ask(first.inbox, send("alice", chat, "b", "", 1)))
		return f.Error == nil
	})
	if ack := acked(t, l.node.ask(first.inbox, send("alice", chat, "b", "", 1))); ack.Seq != 2 || !ack.Duplicate {
		t.Fatalf("acked as %v", ack)
	}
	l.audit()
}

func TestAFullLogRefusesAndServesAgainAfterATrim(t *testing.T) {
	l := newLab(t, 1<<20)
	p := l.partition("first")
	first := l.rule(p, true)
	big := func(id string, since uint64) link.Request {
		r := send("alice", chat, id, "", since)
		r.Body = words(15_000)
		return r
	}
	var last uint64
	full := false
	for i := range 100 {
		f := receive(t, l.node.ask(first.inbox, big(fmt.Sprint("m", i), last)))
		if f.Error != nil {
			if protocol.Code(f.Error.Code) != protocol.CodeBusy {
				t.Fatalf("message %d: %v", i, f.Error)
			}
			full = true
			break
		}
		last++
	}
	if !full || last < 50 {
		t.Fatalf("%d messages of 15 kB went into a log of 1 MiB, full %v", last, full)
	}
	state, err := p.Log.State(t.Context())
	if err != nil || state.Bytes > state.MaxBytes/100*95 {
		t.Fatalf("%+v, %v: no room is left for fences", state, err)
	}
	if got := uint64(len(l.audit()[chat])); got != last {
		t.Fatalf("%d records, %d acked", got, last)
	}
	// A full log can be taken over.
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	p = l.partition("second")
	var floor uint64
	p.Floor = func(context.Context) (uint64, error) { return floor, nil }
	second := l.rule(p, true)
	refusedAs(t, l.node.ask(second.inbox, big("again", last)), protocol.CodeBusy)
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	if err := bustest.OpenLog(t, l.conn, 0).Trim(t.Context(), state.Last-5); err != nil {
		t.Fatal(err)
	}
	floor = state.Last - 6
	third := l.rule(p, true)
	if ack := acked(t, l.node.ask(third.inbox, big("fits", last))); ack.Seq != last+1 {
		t.Fatalf("acked as %v, want %d", ack, last+1)
	}
}

func TestARetryInTheSameBlockJoinsItsWaiters(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	gate := make(chan struct{})
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		if last >= 2 {
			<-gate
		}
		return p.Log.Append(ctx, block, user, last)
	}
	first := l.rule(p, true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "warm", "", 0)))
	blocked := l.node.ask(first.inbox, send("alice", chat, "blocked", "", 1))
	// These wait in the queue for the next block.
	var retries []<-chan *envelopev1.Frame
	for range 5 {
		retries = append(retries, l.node.ask(first.inbox, send("alice", chat, "same", "blocked", 1)))
	}
	other := l.node.ask(first.inbox, send("bob", chat, "same", "", 1)) // Another user's id is another id.
	close(gate)
	acked(t, blocked)
	for i, ch := range retries {
		if ack := acked(t, ch); ack.Seq != 3 || ack.Duplicate != (i > 0) {
			t.Fatalf("retry %d acked as %v", i, ack)
		}
	}
	if ack := acked(t, other); ack.Seq != 4 {
		t.Fatalf("bob's message acked as %v", ack)
	}
	l.audit()
}

func TestRecipientsAreThoseOfEachRecordInABurst(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	first := l.rule(p, true)
	g := protocol.Group("main", "alice", "create")
	body := func(m protocol.Message) []byte {
		data, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	alice := func(command envelopev1.Command, id string, m protocol.Message) link.Request {
		return link.Request{User: "alice", Device: "phone", Command: command, Conversation: g, ClientID: id, Body: body(m)}
	}
	burst := []link.Request{
		alice(envelopev1.Command_COMMAND_CONVERSATION_CREATE, "create", &conversationv1.CreateRequest{Members: []string{"bob"}}), // 1
		send("bob", g, "b1", "", 0),   // 2
		send("carol", g, "c0", "", 0), // refused: not yet
		alice(envelopev1.Command_COMMAND_CONVERSATION_ADD, "add", &conversationv1.AddRequest{Members: []string{"carol"}}), // 3
		send("carol", g, "c1", "", 0), // 4
		send("bob", g, "b2", "b1", 0), // 5
		alice(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, "rm", &conversationv1.RemoveRequest{Members: []string{"bob"}}), // 6
		send("bob", g, "b3", "b2", 0),   // refused: removed while it was on its way
		send("carol", g, "c2", "c1", 0), // 7
		alice(envelopev1.Command_COMMAND_CONVERSATION_ADD, "back", &conversationv1.AddRequest{Members: []string{"bob"}}), // 8
		send("bob", g, "b4", "", 0),   // 9
		send("bob", g, "b2", "b1", 0), // a retry of 5
	}
	want := []uint64{1, 2, 0, 3, 4, 5, 6, 0, 7, 8, 9, 5}
	var got []<-chan *envelopev1.Frame
	for _, r := range burst {
		got = append(got, l.node.ask(first.inbox, r))
	}
	for i, ch := range got {
		if want[i] == 0 {
			refusedAs(t, ch, protocol.CodeNotFound)
		} else if ack := acked(t, ch); ack.Seq != want[i] {
			t.Fatalf("request %d acked as %v, want seq %d", i, ack, want[i])
		}
	}
	// Who was removed still learns what became of a write, and reads its own stretches only.
	acked(t, l.node.ask(first.inbox, alice(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, "rm2", &conversationv1.RemoveRequest{Members: []string{"bob"}})))
	if ack := acked(t, l.node.ask(first.inbox, send("bob", g, "b4", "", 0))); ack.Seq != 9 || !ack.Duplicate {
		t.Fatalf("a retry after the removal: %v", ack)
	}
	refusedAs(t, l.node.ask(first.inbox, send("bob", g, "b5", "", 10)), protocol.CodeNotFound)
	h := &conversationv1.HistoryReply{}
	f := receive(t, l.node.ask(first.inbox, link.Request{User: "bob", Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: g}))
	if err := h.UnmarshalVT(f.Body); err != nil || f.Error != nil {
		t.Fatal(err, f.Error)
	}
	var seqs []uint64
	for _, r := range h.Records {
		seqs = append(seqs, r.Seq)
	}
	if fmt.Sprint(seqs) != "[1 2 3 4 5 6 8 9 10]" || h.HeadSeq != 10 {
		t.Fatalf("bob reads %v up to %d", seqs, h.HeadSeq)
	}
	l.audit()
}

func TestADeviceCannotAskWhatProcessesAskEachOther(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), true)
	for _, command := range []envelopev1.Command{protocol.CommandHeadOf, protocol.CommandCursorAt, protocol.CommandStanding} {
		for _, conversation := range []string{chat, "u:alice"} {
			refusedAs(t, l.node.ask(first.inbox, link.Request{User: "alice", Device: "phone", Command: command, Conversation: conversation, ClientID: "x"}),
				protocol.CodeUnknownCommand)
		}
	}
	// A process that asks in a user's name has that user's rights.
	refusedAs(t, l.node.ask(first.inbox, link.Request{User: "mallory", Server: true, Command: protocol.CommandHeadOf, Conversation: chat}), protocol.CodeNotFound)
}

func TestStopAnswersEverythingThatWaits(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	p.cfg.AppendPatienceMs, p.cfg.AppendTimeoutMs = 300, 100
	broken := false
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		if last >= 2 {
			broken = true
		}
		if broken {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return p.Log.Append(ctx, block, user, last)
	}
	first := l.rule(p, true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "warm", "", 0)))
	var waiting []<-chan *envelopev1.Frame
	for i := range 50 {
		waiting = append(waiting, l.node.ask(first.inbox, send("alice", fmt.Sprintf("d:alice:u%d", i%7), fmt.Sprint("w", i), "", 0)))
	}
	for _, ch := range waiting {
		refusedAs(t, ch, protocol.CodeRetry)
	}
	select {
	case err := <-first.ended:
		if err == nil {
			t.Fatal("the reign ended as if it had been asked to")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reign goes on")
	}
}

// A reign that ends because another has the lease is over: its caller must not take that for a candidate that only has to wait, and
// let it, queue closed and all, take over once more.
func TestAReignThatAnotherSucceedsIsNotACandidateThatWaits(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), true)
	acked(t, l.node.ask(first.inbox, send("alice", chat, "a", "", 0)))
	key := leaseKey(0)
	for { // As if the first had been paused for long: its key is another's.
		held, err := l.leases.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		mine, err := l.leases.Acquire(t.Context(), key, held)
		if err != nil {
			t.Fatal(err)
		}
		if l.leases.Release(t.Context(), mine) != nil {
			continue // A renewal came between.
		}
		if _, err := l.leases.Acquire(t.Context(), key, []byte("second")); err == nil {
			break
		}
	}
	if err := <-first.ended; err == nil || errors.Is(err, ErrHeld) {
		t.Fatalf("the reign ended with %v", err)
	}
}
