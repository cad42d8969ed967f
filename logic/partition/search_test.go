package partition

import (
	"context"
	"fmt"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// fullStore is a history that has all of one conversation.
type fullStore struct {
	emptyStore
	records []*logv1.Record // by seq-1
}

func (s *fullStore) Range(_ context.Context, c store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error) {
	to = min(to, uint64(len(s.records)))
	if c.ID != chat || from > to {
		return nil, nil
	}
	if n := to - from + 1; n > uint64(limit) && newest {
		from = to - uint64(limit) + 1
	} else if n > uint64(limit) {
		to = from + uint64(limit) - 1
	}
	return s.records[from-1 : to], nil
}

// After an outage everybody repeats what was not answered, and others have written on: much of it lies below the window. One search
// answers them all; if each read history for itself while the conversation waits, those behind would never be reached.
func TestHistoryIsReadOnceForTheRetriesOfMany(t *testing.T) {
	l := newLab(t, 64<<20)
	const written, devices = 3500, 40
	user := func(i int) string {
		if i%2 == 0 {
			return "alice"
		}
		return "bob"
	}
	write := func(in *queue, i int, id string) <-chan *envelopev1.Frame {
		r := send(user(i), chat, id, "", uint64(i))
		r.Device = fmt.Sprint("d", i%devices)
		return l.node.ask(in, r)
	}
	first := l.rule(l.partition("first"), true)
	answers := make([]<-chan *envelopev1.Frame, written)
	for i := range answers {
		answers[i] = write(first.inbox, i, fmt.Sprint("w", i))
	}
	for i := range answers {
		if ack := acked(t, answers[i]); ack.Seq != uint64(i+1) {
			t.Fatalf("message %d is acked as %v", i, ack)
		}
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	l.store = &fullStore{records: l.audit()[chat]}
	state, err := l.partition("looks").Log.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.floor.Store(state.Last)
	l.cfg.RedeliverWithinMs = 1

	second := l.rule(l.partition("second"), true)
	const late = 500
	news := make([]<-chan *envelopev1.Frame, late)
	for i := range answers { // The newest first, so that each names an older head than those before.
		at := written - 1 - i
		answers[at] = write(second.inbox, at, fmt.Sprint("w", at))
		if at < late {
			news[at] = write(second.inbox, at, fmt.Sprint("n", at))
		}
	}
	for i := range answers {
		ack := acked(t, answers[i])
		if want := l.store.(*fullStore).records[i]; ack.Seq != want.Seq || ack.Id != want.Id || ack.Count != want.Count || ack.TimeUs != want.TimeUs || !ack.Duplicate {
			t.Fatalf("the retry of message %d is acked as %v, want %v", i, ack, want)
		}
	}
	for i := range news {
		if ack := acked(t, news[i]); ack.Seq <= written || ack.Duplicate {
			t.Fatalf("new message %d is acked as %v", i, ack)
		}
	}
	if got := len(l.audit()[chat]); got != written+late {
		t.Errorf("%d records, want %d", got, written+late)
	}
	if got := l.metric("halley_logic_retry_searches_total"); got == 0 || got > written/searchPage+2 {
		t.Errorf("history was read %v times", got)
	}
}
