package partition

import (
	"fmt"
	"testing"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// group is one of alice and carol, and what alice does with it.
type group struct {
	l  *lab
	id string
}

func newGroup(l *lab, in link.Inbox) *group {
	g := &group{l, protocol.Group("main", "alice", "create")}
	g.alter(in, envelopev1.Command_COMMAND_CONVERSATION_CREATE, "create", &conversationv1.CreateRequest{Name: "friends", Members: []string{"carol"}})
	return g
}

func (g *group) alter(in link.Inbox, command envelopev1.Command, id string, m protocol.Message) {
	g.l.t.Helper()
	acked(g.l.t, g.l.node.ask(in, g.request(command, id, m)))
}

func (g *group) request(command envelopev1.Command, id string, m protocol.Message) link.Request {
	body, err := m.MarshalVT()
	if err != nil {
		g.l.t.Fatal(err)
	}
	return link.Request{User: "alice", Device: "phone", Command: command, Conversation: g.id, ClientID: id, Body: body}
}

func (g *group) remove(in link.Inbox, id string) {
	g.l.t.Helper()
	g.alter(in, envelopev1.Command_COMMAND_CONVERSATION_REMOVE, id, &conversationv1.RemoveRequest{Members: []string{"carol"}})
}

func (g *group) add(in link.Inbox, id string) {
	g.l.t.Helper()
	g.alter(in, envelopev1.Command_COMMAND_CONVERSATION_ADD, id, &conversationv1.AddRequest{Members: []string{"carol"}})
}

// holds reports whether a write of carol's stands in the group.
func (g *group) holds(id string) bool {
	for _, r := range g.l.audit()[g.id] {
		if r.Sender == "carol" && r.ClientId == id {
			return true
		}
	}
	return false
}

// heard is the epoch that the node knows of.
func (l *lab) heard() uint64 { return l.node.epochs.Highest(0) }

func stamped(r link.Request, epoch uint64) link.Request {
	r.Epoch = epoch
	return r
}

func TestALateCopyOfARefusedWriteIsNotWrittenByTheNextOwner(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), true)
	g := newGroup(l, first.inbox)
	g.remove(first.inbox, "rm")
	late := stamped(send("carol", g.id, "late", "", 1), l.heard()) // One copy is held up on its way.
	refusedAs(t, l.node.ask(first.inbox, late), protocol.CodeNotFound)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := l.rule(l.partition("second"), true)
	g.add(second.inbox, "add")
	refusedAs(t, l.node.ask(second.inbox, late), protocol.CodeResend)
	if g.holds("late") {
		t.Error("it is written, and she was told that it is not")
	}
	// What she writes now costs one question more where the node has not heard, and the answer tells it.
	now := send("carol", g.id, "now", "", 1)
	refusedAs(t, l.node.ask(second.inbox, stamped(now, 1)), protocol.CodeResend)
	if ack := acked(t, l.node.ask(second.inbox, stamped(now, l.heard()))); ack.Seq != 4 {
		t.Errorf("acked as %v", ack)
	}
}

// Whatever it was refused for, and though the owner and its memory of the conversation are the same.
func TestALateCopyOfARefusedWriteIsNotWrittenByTheSameOwner(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), true)
	g := newGroup(l, first.inbox)
	again := g.request(envelopev1.Command_COMMAND_CONVERSATION_ADD, "again", &conversationv1.AddRequest{Members: []string{"carol"}})
	refusedAs(t, l.node.ask(first.inbox, again), protocol.CodeConflict) // She is a member.
	g.remove(first.inbox, "rm")
	late := send("carol", g.id, "late", "", 1)
	refusedAs(t, l.node.ask(first.inbox, late), protocol.CodeNotFound)
	refusedAs(t, l.node.ask(first.inbox, again), protocol.CodeConflict)
	g.add(first.inbox, "add")
	refusedAs(t, l.node.ask(first.inbox, late), protocol.CodeNotFound)
	// The same client id elsewhere is another write.
	acked(t, l.node.ask(first.inbox, send("carol", "d:alice:carol", "late", "", 0)))
	if g.holds("late") {
		t.Error("it is written, and she was told that it is not")
	}
	// An app's server repeats what it asked for, and means it.
	served := g.request(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, "served", &conversationv1.RemoveRequest{Members: []string{"dave"}})
	served.User, served.Server = "", true
	refusedAs(t, l.node.ask(first.inbox, served), protocol.CodeConflict)
	g.alter(first.inbox, envelopev1.Command_COMMAND_CONVERSATION_ADD, "dave", &conversationv1.AddRequest{Members: []string{"dave"}})
	acked(t, l.node.ask(first.inbox, served))
}

func TestMoreRefusedWritesThanAreRememberedBeginANewEpoch(t *testing.T) {
	l := newLab(t, 64<<20)
	l.cfg.RefusedWrites = 3
	first := l.rule(l.partition("first"), true)
	g := newGroup(l, first.inbox)
	g.remove(first.inbox, "rm")
	before := l.heard()
	for i := range 10 {
		late := stamped(send("carol", g.id, fmt.Sprint("late", i), "", 1), l.heard())
		refusedAs(t, l.node.ask(first.inbox, late), protocol.CodeNotFound)
	}
	if l.heard() != before+3 {
		t.Errorf("epoch %d, and %d before 10 refusals", l.heard(), before)
	}
	g.add(first.inbox, "add")
	for i := range 10 {
		want := protocol.CodeResend
		if i == 9 {
			want = protocol.CodeNotFound // The only one of this epoch.
		}
		refusedAs(t, l.node.ask(first.inbox, stamped(send("carol", g.id, fmt.Sprint("late", i), "", 1), before+uint64(i/3))), want)
	}
	if ack := acked(t, l.node.ask(first.inbox, stamped(send("carol", g.id, "now", "", 1), l.heard()))); ack.Seq != 4 {
		t.Errorf("acked as %v", ack)
	}
	l.audit()
}

// A refusal is as final as a read is true: not where another may reign already.
func TestAnOwnerThatWasReplacedWithoutKnowingRefusesNothingForGood(t *testing.T) {
	l := newLab(t, 64<<20)
	first := l.rule(l.partition("first"), false)
	refusedAs(t, l.node.ask(first.inbox, send("mallory", chat, "m", "", 0)), protocol.CodeNotFound)
	g := newGroup(l, first.inbox)
	g.remove(first.inbox, "rm")
	second := l.rule(l.partition("second"), true) // Once the first one's lease has run out.
	g.add(second.inbox, "add")
	refusedAs(t, l.node.ask(first.inbox, send("carol", g.id, "c", "", 1)), protocol.CodeRetry)
	acked(t, l.node.ask(second.inbox, send("carol", g.id, "c", "", 1)))
}
