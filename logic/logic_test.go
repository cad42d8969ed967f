package logic_test

import (
	"fmt"
	"testing"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func TestTwoPeopleTalk(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice, phone, bob := c.connect(w, "alice", "laptop"), c.connect(w, "alice", "phone"), c.connect(w, "bob", "laptop")
	d := protocol.Direct("bob", "alice")

	for i := 1; i <= 10; i++ {
		sender := alice
		if i%2 == 0 {
			sender = bob
		}
		ack := sender.say(d, fmt.Sprintf("c%d", i), uint64(i-1), fmt.Sprintf("message %d", i))
		if ack.Seq != uint64(i) || ack.Count != uint64(i) || ack.Id == 0 || ack.Duplicate {
			t.Fatalf("message %d acked as %v", i, ack)
		}
	}
	if again := bob.say(d, "c4", 3, "message 4"); again.Seq != 4 || !again.Duplicate {
		t.Fatalf("a retry of message 4 was answered %v", again)
	}
	for who, want := range map[*device]int{alice: 5, bob: 5, phone: 10} {
		eventually(t, func() error {
			if got := len(who.records(d)); got != want {
				return fmt.Errorf("%s on %s has %d records pushed, want %d", who.user, who.device, got, want)
			}
			return nil
		})
	}
	f := phone.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: d, body: &conversationv1.HistoryRequest{AfterSeq: 3, Limit: 4}})
	h := &conversationv1.HistoryReply{}
	if err := h.UnmarshalVT(f.Body); err != nil || f.Error != nil {
		t.Fatal(err, f.Error)
	}
	if len(h.Records) != 4 || h.Records[0].Seq != 4 || !h.More || h.HeadSeq != 10 {
		t.Fatalf("history after 3: %v", h)
	}
	if got := h.Records[0].GetMessage().GetText().GetText(); got != "message 4" {
		t.Fatalf("record 4 says %q", got)
	}
	mallory := c.connect(w, "mallory", "x")
	mallory.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: d, body: &conversationv1.HistoryRequest{}})
	mallory.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: d, clientID: "m1", body: text("hi")})
}

func TestNumberingGoesOnAfterARestart(t *testing.T) {
	w := newWorld(t)
	n := w.ready("n1")
	c := w.comet()
	alice := c.connect(w, "alice", "laptop")
	d := protocol.Direct("alice", "bob")
	for i := range 5 {
		alice.say(d, fmt.Sprintf("c%d", i), uint64(i), "before")
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	w.ready("n2")
	if again := alice.say(d, "c2", 2, "before"); again.Seq != 3 || !again.Duplicate {
		t.Fatalf("a retry of the third message was answered %v", again)
	}
	if ack := alice.say(d, "c5", 5, "after"); ack.Seq != 6 || ack.Duplicate {
		t.Fatalf("the sixth message was answered %v", ack)
	}
}

func TestAGroupBelongsToItsMembers(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice, bob, carol := c.connect(w, "alice", "a"), c.connect(w, "bob", "b"), c.connect(w, "carol", "c")
	g := protocol.Group("main", "alice", "create-1")
	create := request{
		command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "create-1",
		body: &conversationv1.CreateRequest{Name: "friends", Members: []string{"bob"}},
	}
	if ack := alice.ack(create); ack.Seq != 1 || ack.Conversation != g {
		t.Fatalf("created as %v", ack)
	}
	if ack := alice.ack(create); ack.Seq != 1 || !ack.Duplicate {
		t.Fatalf("a retried create was answered %v", ack)
	}
	carol.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: g, clientID: "x", body: text("let me in")})
	bob.refused(protocol.CodeForbidden, request{command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: g, clientID: "x", body: &conversationv1.AddRequest{Members: []string{"carol"}}})
	bob.say(g, "b1", 1, "before carol") // 2
	if ack := alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: g, clientID: "add", since: 2, body: &conversationv1.AddRequest{Members: []string{"carol", "bob"}}}); ack.Seq != 3 {
		t.Fatalf("added as %v", ack)
	}
	bob.say(g, "b2", 3, "with carol") // 4
	if ack := alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_REMOVE, conversation: g, clientID: "rm", since: 4, body: &conversationv1.RemoveRequest{Members: []string{"carol"}}}); ack.Seq != 5 {
		t.Fatalf("removed as %v", ack)
	}
	bob.say(g, "b3", 5, "without carol") // 6
	carol.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: g, clientID: "y", since: 6, body: text("still here?")})

	if h := carol.history(g, 0); len(h.Records) != 3 || h.Records[0].Seq != 3 || h.Records[2].Seq != 5 || h.HeadSeq != 5 {
		t.Fatalf("carol reads %v; her records are 3 to 5", h)
	}
	if h := bob.history(g, 0); len(h.Records) != 6 || h.HeadSeq != 6 {
		t.Fatalf("bob reads %v; his records are 1 to 6", h)
	}
	want := map[*device][]uint64{carol: {3, 4, 5}, bob: {1, 3, 5}, alice: {2, 4, 6}}
	for who, seqs := range want {
		eventually(t, func() error { return who.hasSeqs(g, seqs...) })
	}
	if f := alice.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_LEAVE, conversation: g, clientID: "bye", since: 6, body: &conversationv1.LeaveRequest{}}); f.Error != nil {
		t.Fatal(f.Error)
	}
	alice.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: g, clientID: "no", since: 7, body: &conversationv1.AddRequest{Members: []string{"carol"}}})
}

// A network that was cut delivers late. Carol's write is told to be refused, for she had left; an earlier copy of it comes when she is back.
func TestAWriteRefusedToOneWhoLeftIsNotWrittenWhenSheIsBack(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice, carol := c.connect(w, "alice", "a"), c.connect(w, "carol", "c")
	g := protocol.Group("main", "alice", "create-1")
	alice.ack(request{
		command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "create-1",
		body: &conversationv1.CreateRequest{Name: "friends", Members: []string{"carol"}},
	})
	carol.say(g, "c1", 1, "before") // 2
	late := request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: g, clientID: "c2", since: 2, body: text("late")}
	alice.ack(request{
		command: envelopev1.Command_COMMAND_CONVERSATION_REMOVE, conversation: g, clientID: "rm", since: 2,
		body: &conversationv1.RemoveRequest{Members: []string{"carol"}},
	}) // 3
	carol.refused(protocol.CodeNotFound, late)
	alice.ack(request{
		command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: g, clientID: "add", since: 3,
		body: &conversationv1.AddRequest{Members: []string{"carol"}},
	}) // 4
	carol.refused(protocol.CodeNotFound, late)
	if ack := carol.say(g, "c3", 4, "back"); ack.Seq != 5 {
		t.Errorf("what she writes now was answered %v", ack)
	}
	if ack := carol.say(g, "c1", 1, "before"); ack.Seq != 2 || !ack.Duplicate {
		t.Errorf("what she wrote before she left was answered %v", ack)
	}
}

func TestADevicesOwnOrderIsKept(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	alice := w.comet().connect(w, "alice", "a")
	d := protocol.Direct("alice", "bob")
	send := func(id, after string) request {
		return request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: d, clientID: id, after: after, body: text(id)}
	}
	alice.refused(protocol.CodeResend, send("two", "one"))
	// In one burst: the first is new, the others follow each other, and a retry of the second joins its waiters.
	var answers []<-chan *envelopev1.Frame
	for _, r := range []request{send("one", ""), send("two", "one"), send("three", "two"), send("two", "one")} {
		answers = append(answers, alice.send(r))
	}
	for i, want := range []uint64{1, 2, 3, 2} {
		if ack := decodeAck(t, <-answers[i]); ack.Seq != want || ack.Duplicate != (i == 3) {
			t.Fatalf("send %d acked as %v, want seq %d", i, ack, want)
		}
	}
	alice.refused(protocol.CodeResend, send("five", "four"))
	alice.refused(protocol.CodeInvalid, request{command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: d, clientID: "no spaces", body: text("x")})
}

func TestARetryIsFoundInHistoryOrRefusedAsExpired(t *testing.T) {
	w := newWorld(t)
	n := w.ready("n1")
	alice := w.comet().connect(w, "alice", "a")
	d := protocol.Direct("alice", "bob")
	for i := range 100 {
		alice.say(d, fmt.Sprintf("c%d", i), uint64(i), "x")
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	w.storeLog() // Everything is in the store now, nothing above its floor.
	w.ready("n2")
	if ack := alice.say(d, "c3", 3, "x"); ack.Seq != 4 || !ack.Duplicate {
		t.Fatalf("a retry of the fourth message was answered %v", ack)
	}
	if ack := alice.say(d, "new", 10, "x"); ack.Seq != 101 || ack.Duplicate {
		t.Fatalf("a late first transmission was answered %v", ack)
	}
}

func TestPartitionsMoveToANodeThatJoinsAndBackWhenItGoes(t *testing.T) {
	w := newWorld(t)
	n1 := w.ready("n1")
	c := w.comet()
	const pairs, messages = 8, 150
	failed := make(chan error, pairs)
	bobs := make([]*device, pairs)
	for p := range pairs {
		a := c.connect(w, fmt.Sprintf("alice%d", p), "a")
		bobs[p] = c.connect(w, fmt.Sprintf("bob%d", p), "b")
		go func() {
			d := protocol.Direct(a.user, bobs[p].user)
			for i := range messages {
				if ack := a.say(d, fmt.Sprintf("c%d", i), uint64(i), fmt.Sprint(i)); ack.Seq != uint64(i+1) {
					failed <- fmt.Errorf("%s: message %d acked as %v", d, i, ack)
					return
				}
			}
			failed <- nil
		}()
	}
	eventually(t, func() error { return bobs[0].hasAtLeast(protocol.Direct("alice0", "bob0"), 5) })
	n2 := w.start("n2")
	eventually(t, n2.Ready)
	eventually(t, n1.Ready)
	eventually(t, func() error { return bobs[0].hasAtLeast(protocol.Direct("alice0", "bob0"), 40) })
	if err := n1.stop(); err != nil {
		t.Fatal(err)
	}
	for range pairs {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	for p, bob := range bobs {
		seqs := make([]uint64, messages)
		for i := range seqs {
			seqs[i] = uint64(i + 1)
		}
		d := protocol.Direct(fmt.Sprintf("alice%d", p), bob.user)
		eventually(t, func() error { return bob.hasSeqs(d, seqs...) })
		for i, r := range bob.records(d) {
			if got := r.GetMessage().GetText().GetText(); got != fmt.Sprint(i) {
				t.Fatalf("%s: record %d says %q, want %d", d, r.Seq, got, i)
			}
		}
	}
}
