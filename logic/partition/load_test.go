package partition

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/pkg/link"
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

// TestWhatWasNeverWrittenTakesOneRead: each device that connects has the log of its user looked at, which for most is empty, and all
// devices may come back at once.
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
	for range 3 {
		if f := receive(t, l.node.ask(first.inbox, r)); f.Error != nil {
			t.Fatal(f.Error)
		}
		if s.ranges.Load() != 1 || s.others.Load() != 0 {
			t.Fatalf("%d reads of records and %d of what follows from them, want 1 and 0", s.ranges.Load(), s.others.Load())
		}
	}
	// A new conversation is like it.
	acked(t, l.node.ask(first.inbox, send("alice", chat, "m1", "", 0)))
	if s.ranges.Load() != 2 || s.others.Load() != 0 {
		t.Errorf("%d reads of records and %d of what follows from them, want 2 and 0", s.ranges.Load(), s.others.Load())
	}
}

// TestWhatCameToBeIsNotTakenForAbsent: an id is remembered as that of nothing while it has no cell, and never again once there is a record.
func TestWhatCameToBeIsNotTakenForAbsent(t *testing.T) {
	o, requests := hot(t, 1)
	r := &requests[0]
	k := key{r.App, r.Conversation}
	clear(o.cells)
	o.absent.add(k)
	events := func() {
		_, fns, _ := o.queue.take(nil, nil)
		for _, fn := range fns {
			fn()
		}
	}

	refused := *r
	refused.Since = 1 // Nobody can have seen it.
	if err := o.work(t.Context(), []link.Request{refused}); err != nil {
		t.Fatal(err)
	}
	if c := o.cells[k]; c == nil || !c.loaded || c.Exists() {
		t.Fatal("the store is asked of what is known to be absent, or something was written")
	}
	events()
	if len(o.cells) > 0 || !o.absent.take(k) {
		t.Fatal("what is still absent has a cell, or is forgotten")
	}

	o.absent.add(k)
	r.ClientID = "m1"
	if err := o.work(t.Context(), []link.Request{*r}); err != nil {
		t.Fatal(err)
	}
	o.noteFloor(o.last) // History has it before the owner comes to forget what is absent.
	events()
	c := o.cells[k]
	if c == nil || c.Head.Seq != 1 {
		t.Fatal("nothing was written, or it was forgotten as absent")
	}
	o.tick += 3
	o.evict(64)
	if len(o.cells) > 0 {
		t.Fatal("the conversation stays in memory though history has all of it: this test shows nothing")
	}
	again, refusal := o.cell(r, &feature.Handler{Kinds: string(protocol.KindDirect), Access: feature.Anyone})
	if refusal != nil {
		t.Fatal(refusal)
	}
	if again.loaded {
		t.Error("a conversation with a record is taken for absent: its first seq would be given again")
	}
}

func TestAbsentIsBounded(t *testing.T) {
	const most = 100
	a := newAbsent(most)
	name := func(i int) key { return key{"main", fmt.Sprint("u:", i)} }
	for i := range 10 * most {
		a.add(name(i))
		if n := len(a.young) + len(a.old); n > most {
			t.Fatalf("%d are remembered, want %d at most", n, most)
		}
	}
	for i := 10*most - most/2; i < 10*most; i++ {
		if !a.take(name(i)) {
			t.Fatalf("%v, one of the last %d, is forgotten", name(i), most/2)
		}
		if a.take(name(i)) {
			t.Fatalf("%v is remembered after it was taken", name(i))
		}
	}
	if a.take(name(0)) || a.take(key{"other", "u:999"}) {
		t.Error("what was forgotten, or never there, is remembered")
	}
	// The same id in both generations is one.
	b := newAbsent(2)
	b.add(name(1))
	b.add(name(2))
	b.add(name(1))
	if !b.take(name(1)) || b.take(name(1)) {
		t.Error("an id is there twice")
	}
}

// patientStore has one record of a chat, and reads members only for one who has patience.
type patientStore struct {
	emptyStore
	first, members, single atomic.Int64 // Nanoseconds that the last reads had.
}

func left(ctx context.Context) int64 {
	end, bounded := ctx.Deadline()
	if !bounded {
		return math.MaxInt64
	}
	return int64(time.Until(end))
}

func (s *patientStore) Range(ctx context.Context, c store.Conversation, _, to uint64, _ int, newest bool) ([]*logv1.Record, error) {
	if !newest || to != store.MaxSeq {
		s.single.Store(left(ctx))
		return nil, nil
	}
	s.first.Store(left(ctx))
	return []*logv1.Record{{App: c.App, Conversation: c.ID, Seq: 1, Count: 1, Id: 1, Sender: "bob", TimeUs: 1, Type: 16}}, nil
}

func (s *patientStore) Members(ctx context.Context, _ store.Conversation) ([]store.Member, error) {
	s.members.Store(left(ctx))
	return nil, nil
}

// TestMembersHaveMoreTimeThanOneRead: those of a large group are many pages, and a load that gives up early begins anew with each request. The
// two of a direct conversation are one, and whoever waits for it wants an answer.
func TestMembersHaveMoreTimeThanOneRead(t *testing.T) {
	l := newLab(t, 1<<20)
	s := &patientStore{}
	l.store = s
	first := l.rule(l.partition("first"), true)
	for _, c := range []struct {
		conversation string
		above, most  time.Duration
	}{
		{chat, 0, readTimeout + alike},
		{protocol.Group("main", "alice", "club"), loadTimeout / 2, loadTimeout},
		{protocol.UserLog("alice"), loadTimeout / 2, loadTimeout},
	} {
		receive(t, l.node.ask(first.inbox, send("alice", c.conversation, "m1", "", 0)))
		if got := time.Duration(s.first.Load()); got <= 0 || got > readTimeout+alike {
			t.Errorf("%s: the first read had %v, want at most %v", c.conversation, got, readTimeout+alike)
		}
		if got := time.Duration(s.members.Load()); got <= c.above || got > c.most {
			t.Errorf("%s: the members had %v, want above %v and at most %v", c.conversation, got, c.above, c.most)
		}
	}
	if got := time.Duration(s.single.Load()); got <= 0 || got > readTimeout {
		t.Errorf("the group's first record had %v, want at most %v: it is one read like any other", got, readTimeout)
	}
}
