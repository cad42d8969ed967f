package logic_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// said waits for a log line.
func said(t testing.TB, lines *observetest.Lines, words ...string) {
	t.Helper()
	eventually(t, func() error {
		if lines.Have(words...) {
			return nil
		}
		return fmt.Errorf("no log line says %q", words)
	})
}

// pages reads all history of a conversation, forwards or backwards, in pages of so many, and returns the texts by seq.
func (d *device) pages(conversation string, size uint32, backwards bool) map[uint64]string {
	d.w.t.Helper()
	out := map[uint64]string{}
	req := &conversationv1.HistoryRequest{Limit: size}
	if backwards {
		req.BeforeSeq = 1 << 40
	}
	for {
		reply := &conversationv1.HistoryReply{}
		eventually(d.w.t, func() error {
			f := d.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: conversation, body: req})
			if f.Error != nil {
				return protocol.FromWire(f.Error)
			}
			return reply.UnmarshalVT(f.Body)
		})
		for i, r := range reply.Records {
			if i > 0 && r.Seq <= reply.Records[i-1].Seq {
				d.w.t.Fatalf("%s: seq %d behind %d", d.user, r.Seq, reply.Records[i-1].Seq)
			}
			if out[r.Seq] != "" {
				d.w.t.Fatalf("%s: seq %d is in two pages", d.user, r.Seq)
			}
			out[r.Seq] = "."
			if text := r.GetMessage().GetText().GetText(); text != "" {
				out[r.Seq] = text
			}
		}
		if !reply.More {
			return out
		}
		if len(reply.Records) == 0 {
			d.w.t.Fatalf("%s: an empty page, and there is more", d.user)
		}
		if req.AfterSeq = reply.Records[len(reply.Records)-1].Seq; backwards {
			req.AfterSeq, req.BeforeSeq = 0, reply.Records[0].Seq
		}
	}
}

// holds compares what a reader sees with what was written, by seq, and says what is missing or too much.
func holds(t testing.TB, who string, got map[uint64]string, want func(seq uint64) (string, bool), head uint64) {
	t.Helper()
	for seq := uint64(1); seq <= head; seq++ {
		if text, ok := want(seq); ok != (got[seq] != "") || ok && text != "" && got[seq] != text {
			t.Fatalf("%s reads %q at %d, want %q, %v", who, got[seq], seq, text, ok)
		}
	}
	for seq := range got {
		if seq > head {
			t.Fatalf("%s reads %d beyond the head %d", who, seq, head)
		}
	}
}

// While the store is down for long everything is in the log, and little of it in memory; whoever is loaded goes on, and reads all.
func TestAnHourWithoutTheStore(t *testing.T) {
	const tailBytes, messages, size = 64 << 10, 600, 400
	w := newWorld(t)
	lines := &observetest.Lines{}
	w.log = lines.Logger()
	w.cfg.Partition.TailBytes, w.cfg.Partition.BlockRecords = tailBytes, 16
	st := w.faulty()
	n := w.ready("n1")
	c := w.comet()
	alice, bob, carol := c.connect(w, "alice", "a"), c.connect(w, "bob", "b"), c.connect(w, "carol", "c")
	g, d := protocol.Group("main", "alice", "g"), protocol.Direct("alice", "bob")
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "g", body: &conversationv1.CreateRequest{Members: []string{"bob"}}})
	alice.say(d, "d0", 0, "first")
	down := func(context.Context, store.Conversation) error { return errDown }
	st.set(down)

	// Two conversations, far beyond what memory holds; carol is in the group for a part of it.
	written := map[string]map[uint64]string{g: {}, d: {1: "first"}}
	joined, left := uint64(0), uint64(0)
	since := map[string]uint64{g: 1, d: 1}
	change := func(command envelopev1.Command, id string, body protocol.Message) uint64 {
		ack := alice.ack(request{command: command, conversation: g, clientID: id, since: since[g], body: body})
		since[g] = ack.Seq
		return ack.Seq
	}
	for i := range messages {
		switch i {
		case messages / 3:
			joined = change(envelopev1.Command_COMMAND_CONVERSATION_ADD, "add", &conversationv1.AddRequest{Members: []string{"carol"}})
		case messages / 2:
			left = change(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, "rm", &conversationv1.RemoveRequest{Members: []string{"carol"}})
		}
		for _, conversation := range []string{g, d} {
			words := fmt.Sprint(i, " ", strings.Repeat("x", size))
			ack := alice.say(conversation, fmt.Sprint("m", i), since[conversation], words)
			if ack.Duplicate || ack.Seq != since[conversation]+1 {
				t.Fatalf("message %d acked as %v behind %d", i, ack, since[conversation])
			}
			since[conversation], written[conversation][ack.Seq] = ack.Seq, words
		}
	}
	said(t, lines, "history does not keep up")
	eventually(t, func() error { // It is counted each second.
		if got := n.metric(t, "halley_logic_tail_records"); got < 2*messages {
			return fmt.Errorf("%v records are known of", got)
		}
		return nil
	})
	if got, most := n.metric(t, "halley_logic_tail_bytes"), float64(partitions*tailBytes); got == 0 || got > most {
		t.Fatalf("%v bytes are held, at most %v", got, most)
	}

	everything := func(conversation string) func(uint64) (string, bool) {
		return func(seq uint64) (string, bool) { return written[conversation][seq], true }
	}
	check := func() {
		t.Helper()
		for _, backwards := range []bool{false, true} {
			for _, reader := range []*device{alice, bob} {
				for _, conversation := range []string{g, d} {
					holds(t, reader.user, reader.pages(conversation, 200, backwards), everything(conversation), since[conversation])
				}
			}
			holds(t, "carol", carol.pages(g, 7, backwards), func(seq uint64) (string, bool) {
				return written[g][seq], joined <= seq && seq <= left
			}, since[g])
		}
		carol.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: g, clientID: "c", body: text("x")})
		// A retry of what only the log has gets the first answer.
		if ack := alice.say(d, "m3", 4, "again"); !ack.Duplicate || ack.Seq != 5 {
			t.Fatalf("a retry acked as %v", ack)
		}
		if ack := alice.say(g, "new"+fmt.Sprint(since[g]), 2, "new"); ack.Duplicate || ack.Seq != since[g]+1 {
			t.Fatalf("a new write that knew little acked as %v behind %d", ack, since[g])
		}
		since[g]++
		written[g][since[g]] = "new"
	}
	check()
	if n.metric(t, "halley_logic_log_reads_total") == 0 {
		t.Fatal("nothing was read from the log")
	}

	// Another owner has to load what it is asked for, which it cannot; it holds no more in memory than the one before.
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = w.ready("n2")
	alice.refused(protocol.CodeRetry, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: d, clientID: "x", since: since[d], body: text("x")})
	eventually(t, func() error {
		if got := n.metric(t, "halley_logic_tail_bytes"); got == 0 || got > partitions*tailBytes {
			return fmt.Errorf("%v bytes are held", got)
		}
		return nil
	})
	// The store is back, and empty yet: with what the log has that is everything. Then history catches up.
	st.set(nil)
	check()
	w.storeLog()
	eventually(t, func() error {
		if got := n.metric(t, "halley_logic_tail_records"); got != 0 {
			return fmt.Errorf("%v records wait for history", got)
		}
		return nil
	})
	said(t, lines, "history has caught up")
	check()
}
