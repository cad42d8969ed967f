package partition

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// An owner dies between the log's word and its own: the sender asks again, and the next owner knows the write.
func TestAnOwnerThatDiesBetweenCommitAndAckWasHeardAllTheSame(t *testing.T) {
	l := newLab(t, 64<<20)
	p := l.partition("first")
	committed, end := make(chan struct{}), make(chan struct{})
	p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
		seq, err := p.Log.Append(ctx, block, user, last)
		if last >= 2 { // The fence and a first message went before.
			close(committed)
			<-end // What the log said is never heard.
		}
		return seq, err
	}
	first := l.rule(p, false)
	t.Cleanup(func() { close(end) })
	acked(t, l.node.ask(first.inbox, send("alice", chat, "one", "", 0)))
	lost := l.node.ask(first.inbox, send("alice", chat, "two", "", 1))
	<-committed
	second := l.rule(l.partition("second"), true)
	if ack := acked(t, l.node.ask(second.inbox, send("alice", chat, "two", "", 1))); ack.Seq != 2 || !ack.Duplicate {
		t.Fatalf("the retry is acked as %v", ack)
	}
	select {
	case f := <-lost:
		t.Fatalf("the dead owner answers %v", f)
	default:
	}
	if got := len(l.audit()[chat]); got != 2 {
		t.Fatalf("%d records", got)
	}
}

// Times and ids rise with every record, whatever the clock of the owner does.
func TestTimesRiseThoughTheClockStepsBack(t *testing.T) {
	l := newLab(t, 64<<20)
	for i, step := range []time.Duration{0, -time.Hour, 10 * time.Minute, -10 * time.Hour} {
		p := l.partition(fmt.Sprint("n", i))
		p.Now = func() time.Time { return time.Now().Add(step) }
		r := l.rule(p, true)
		for k := range 3 {
			if ack := acked(t, l.node.ask(r.inbox, send("alice", chat, fmt.Sprint(i, "-", k), "", uint64(3*i+k)))); ack.Seq != uint64(3*i+k+1) {
				t.Fatalf("acked as %v", ack)
			}
		}
		// Reads are answered by the monotonic clock.
		f := receive(t, l.node.ask(r.inbox, link.Request{User: "alice", Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, Conversation: chat}))
		if f.Error != nil {
			t.Fatalf("a read is refused: %v", protocol.FromWire(f.Error))
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(l.audit()[chat]); got != 12 {
		t.Fatalf("%d records", got)
	}
}
