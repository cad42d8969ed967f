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
