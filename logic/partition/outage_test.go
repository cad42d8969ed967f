package partition

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// metric is the value of one, the sum over its labels.
func (l *lab) metric(name string) float64 {
	l.t.Helper()
	return observetest.Metric(l.t, l.registry, name)
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// fill writes messages of so many bytes until one is refused as busy, and returns how many were written.
func (l *lab) fill(in link.Inbox, size int) int {
	l.t.Helper()
	for i := 0; i < 100_000; i++ {
		r := send("alice", chat, fmt.Sprint("f", i), "", uint64(i))
		r.Body = words(size)
		f := receive(l.t, l.node.ask(in, r))
		if f.Error == nil {
			continue
		}
		if code := protocol.Code(f.Error.Code); code != protocol.CodeBusy {
			l.t.Fatalf("message %d is refused as %s", i, code)
		}
		return i
	}
	l.t.Fatal("nothing is ever full")
	return 0
}

// What is full answers busy and says why; nothing acknowledged is dropped, and once history has caught up it goes on by itself.
func TestAPartitionWhoseLogIsFullIsBusyAndRecovers(t *testing.T) {
	for name, test := range map[string]struct {
		maxBytes int64
		records  int
		size     int
		trim     bool
	}{
		"log":   {maxBytes: 2 << 20, records: 1 << 20, size: 8000, trim: true},
		"index": {maxBytes: 64 << 20, records: 1000, size: 10},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, test.maxBytes)
			l.cfg.TailRecords, l.cfg.TailBytes = test.records, 64<<10
			said := &observetest.Lines{}
			l.logger = said.Logger()
			first := l.rule(l.partition("first"), true)
			n := l.fill(first.inbox, test.size)
			if least := test.records * 8 / 10; !test.trim && (n < least || n > test.records) {
				t.Fatalf("%d records are written before the index is full", n)
			}
			until(t, "the log line of a full log", func() bool { return said.Have("the log is full") })
			if l.metric("halley_logic_partitions_full") != 1 || l.metric("halley_logic_refused_total") == 0 {
				t.Error("it is not counted")
			}
			// What history needs in order to go on is still taken.
			standing, err := (&recordv1.Standing{Conversation: chat, Seq: 1, Member: true, JoinedSeq: 1}).MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			told := link.Request{
				User: "alice", Server: true, Command: protocol.CommandStanding, Conversation: "u:alice", ClientID: "s-1", Since: 1 << 60,
				Body: standing,
			}
			if f := receive(t, l.node.ask(first.inbox, told)); f.Error != nil {
				t.Fatalf("a follower's record is refused: %v", f.Error)
			}
			if got := len(l.audit()[chat]); got != n {
				t.Fatalf("%d of %d acknowledged records are in the log", got, n)
			}
			log := bustest.OpenLog(t, l.conn, 0)
			state, err := log.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			l.floor.Store(state.Last)
			if test.trim {
				if err := log.Trim(t.Context(), state.Last); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "the log line of a log with room", func() bool { return said.Have("the log has room again") })
			if ack := acked(t, l.node.ask(first.inbox, send("alice", chat, "after", "", uint64(n)))); ack.Seq != uint64(n)+1 {
				t.Fatalf("acked as %v", ack)
			}
			if err := first.stop(); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"halley_logic_partitions_full", "halley_logic_tail_bytes", "halley_logic_tail_records"} {
				if v := l.metric(name); v != 0 {
					t.Errorf("after the reign %s says %v", name, v)
				}
			}
		})
	}
}

// slowStore has nothing, and says so late.
type slowStore struct {
	emptyStore
	asked chan struct{}
	open  chan struct{}
}

func (s *slowStore) Range(context.Context, store.Conversation, uint64, uint64, int, bool) ([]*logv1.Record, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.open
	return nil, nil
}

// History may catch up between the moment at which the store was read for a conversation and that at which its owner hears of it.
func TestAConversationForgetsNothingWhileItIsLoaded(t *testing.T) {
	l := newLab(t, 64<<20)
	l.cfg.WindowRecords = 4
	first := l.rule(l.partition("first"), true)
	g := protocol.Group("main", "alice", "g")
	create := &conversationv1.CreateRequest{Members: []string{"bob"}}
	body, err := create.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	acked(t, l.node.ask(first.inbox, link.Request{
		User: "alice", Device: "phone", Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, Conversation: g, ClientID: "g", Body: body,
	}))
	const messages = 30
	for i := range messages {
		acked(t, l.node.ask(first.inbox, send("alice", g, fmt.Sprint("m", i), "", uint64(i+1))))
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	slow := &slowStore{asked: make(chan struct{}, 1), open: make(chan struct{})}
	l.store = slow
	second := l.rule(l.partition("second"), true)
	answer := l.node.ask(second.inbox, send("bob", g, "b", "", messages+1))
	<-slow.asked // Empty: nothing was stored yet.
	until(t, "what waits for history is counted", func() bool { return l.metric("halley_logic_tail_records") > 0 })
	state, err := bustest.OpenLog(t, l.conn, 0).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.floor.Store(state.Last)
	until(t, "the floor is noted", func() bool { return l.metric("halley_logic_tail_records") == 0 })
	close(slow.open)
	if ack := acked(t, answer); ack.Seq != messages+2 {
		t.Fatalf("acked as %v", ack)
	}
	f := receive(t, l.node.ask(second.inbox, link.Request{User: "alice", Command: protocol.CommandHeadOf, Server: true, Conversation: g}))
	head := &conversationv1.Head{}
	if f.Error != nil || head.UnmarshalVT(f.Body) != nil || head.Members != 2 {
		t.Fatalf("the group has %v, %v", head, f.Error)
	}
}

// What was written in the last seconds is more than a new owner may hold: it stays within its bounds, and whoever it cannot deliver to again
// is told to compare heads.
func TestATakeoverOfMoreThanMemoryHoldsHasNodesResync(t *testing.T) {
	l := newLab(t, 64<<20)
	l.cfg.TailBytes = 64 << 10
	said := &observetest.Lines{}
	l.logger = said.Logger()
	first := l.rule(l.partition("first"), true)
	const messages = 100
	write := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			r := send("alice", chat, fmt.Sprint("m", i), "", uint64(i))
			r.Body = words(2000)
			acked(t, l.node.ask(first.inbox, r))
		}
	}
	again := func(name string) {
		t.Helper()
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		first = l.rule(l.partition(name), true)
	}
	write(0, 10)
	again("second")
	if n := l.node.lost.Load(); n != 0 {
		t.Fatalf("nodes are told %d times to resync after a takeover of little", n)
	}
	write(10, messages)
	again("third")
	until(t, "nodes are told", func() bool { return l.node.lost.Load() > 0 })
	if !said.Have("level=WARN", "more was written in the last seconds than is held in memory") {
		t.Error("the log does not say so")
	}
	until(t, "what is held is counted", func() bool { return l.metric("halley_logic_tail_bytes") > 0 })
	if got := l.metric("halley_logic_tail_bytes"); got > float64(l.cfg.TailBytes) {
		t.Errorf("%v bytes are held", got)
	}
	// All of it is there.
	f := receive(t, l.node.ask(first.inbox, link.Request{User: "bob", Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: chat}))
	reply := &conversationv1.HistoryReply{}
	if f.Error != nil || reply.UnmarshalVT(f.Body) != nil || reply.HeadSeq != messages || len(reply.Records) == 0 || reply.Records[0].Seq != 1 {
		t.Fatalf("bob reads %v, %v", reply, f.Error)
	}
}

// One that is to be loaded again for what is delivered again stays the conversation's cell. If requests got another, and the first failed to
// load once more, that one would be forgotten in its place, with records that the store does not have: their seqs would be given anew.
func TestAConversationThatCannotBeLoadedHasOneCell(t *testing.T) {
	l := newLab(t, 64<<20)
	o := l.partition("owner").Candidate().o
	const id = "g:wo4q4d04h6oa191miaego4fa7g"
	why := protocol.Errorf(protocol.CodeRetry, "the history store does not answer")
	first := o.newCell("main", id)
	first.after = []func(){func() {}}
	o.giveUp(first, why)
	if o.cells[key{"main", id}] != first || !slices.Contains(o.later, first) {
		t.Fatal("a cell that is loaded again is forgotten")
	}
	first.after = nil
	o.giveUp(first, why)
	if len(o.cells) > 0 {
		t.Fatal("a cell without anything is kept")
	}
	second := o.newCell("main", id)
	o.giveUp(first, why)
	if o.cells[key{"main", id}] != second {
		t.Error("another cell is forgotten in its place")
	}
}
