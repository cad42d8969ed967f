package partition

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// countingStore counts the reads of a history in which nothing was stored.
type countingStore struct {
	emptyStore
	ranges, others atomic.Int64
}

func (s *countingStore) Range(context.Context, store.Conversation, uint64, uint64, int, bool) ([]*logv1.Record, error) {
	s.ranges.Add(1)
	return nil, nil
}

func (s *countingStore) Members(context.Context, store.Conversation) ([]store.Member, error) {
	s.others.Add(1)
	return nil, nil
}

func (s *countingStore) List(context.Context, string, string, func(store.Listing) error) error {
	s.others.Add(1)
	return nil
}

// TestWhatWasNeverWrittenTakesOneRead: each device that connects has the log of its user looked at, which for most is empty.
func TestWhatWasNeverWrittenTakesOneRead(t *testing.T) {
	l := newLab(t, 1<<20)
	s := &countingStore{}
	l.store = s
	first := l.rule(l.partition("first"), true)
	body, err := (&linkv1.AttachRequest{}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	r := send("alice", protocol.UserLog("alice"), "", "", 0)
	r.Command, r.Server, r.Body = protocol.CommandAttach, true, body
	if f := receive(t, l.node.ask(first.inbox, r)); f.Error != nil {
		t.Fatal(f.Error)
	}
	if s.ranges.Load() != 1 || s.others.Load() != 0 {
		t.Errorf("%d reads of records and %d of what follows from them, want 1 and 0", s.ranges.Load(), s.others.Load())
	}
	// A new conversation is like it.
	acked(t, l.node.ask(first.inbox, send("alice", chat, "m1", "", 0)))
	if s.ranges.Load() != 2 || s.others.Load() != 0 {
		t.Errorf("%d reads of records and %d of what follows from them, want 2 and 0", s.ranges.Load(), s.others.Load())
	}
}
