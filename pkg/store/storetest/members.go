package storetest

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

var memberStories = []story{
	{"who joins, leaves and comes again has intervals", joinLeaveRejoin},
	{"joins and leaves in any order end the same", membershipInAnyOrder},
	{"members of a large group, ordered by user", largeGroup},
	{"a cursor only rises", cursorOnlyRises},
	{"a cursor alone makes no member", cursorAloneMakesNoMember},
	{"cursors raised by many at once end at the highest", cursorsRaisedAtOnce},
}

// change is a record that only joins and leaves.
func change(c store.Conversation, seq uint64, joined, left []string) *logv1.Record {
	r := record(c, seq)
	r.Joined, r.Left = joined, left
	return r
}

func mustMembers(t *testing.T, s store.Store, c store.Conversation) []store.Member {
	t.Helper()
	ms, err := s.Members(t.Context(), c)
	if err != nil {
		t.Fatalf("members of %s: %v", c.ID, err)
	}
	return ms
}

func joinLeaveRejoin(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:team"}
	steps := []struct {
		r    *logv1.Record
		want []store.Interval // Of bob.
	}{
		{change(c, 1, []string{"alice"}, nil), nil},
		{change(c, 5, []string{"bob"}, nil), []store.Interval{{From: 5}}},
		{change(c, 9, []string{"carol"}, []string{"bob"}), []store.Interval{{From: 5, To: 9}}},
		{change(c, 4100, []string{"bob"}, nil), []store.Interval{{From: 5, To: 9}, {From: 4100}}},
		{change(c, 4101, nil, []string{"bob", "carol"}), []store.Interval{{From: 5, To: 9}, {From: 4100, To: 4101}}},
	}
	for _, step := range steps {
		mustAppend(t, ctx, s, []*logv1.Record{step.r})
		got, err := s.Intervals(ctx, c, "bob")
		if err != nil {
			t.Fatalf("intervals after %d: %v", step.r.Seq, err)
		}
		same(t, fmt.Sprintf("bob after %d", step.r.Seq), step.want, got)
	}
	same(t, "members", []store.Member{
		{User: "alice", Intervals: []store.Interval{{From: 1}}},
		{User: "bob", Intervals: []store.Interval{{From: 5, To: 9}, {From: 4100, To: 4101}}},
		{User: "carol", Intervals: []store.Interval{{From: 9, To: 4101}}},
	}, mustMembers(t, s, c))
	// Another conversation knows nobody.
	same(t, "members elsewhere", []store.Member(nil), mustMembers(t, s, store.Conversation{App: app, ID: "g:tea"}))
}

func membershipInAnyOrder(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	c := store.Conversation{App: app, ID: "g:shuffled"}
	var rs []*logv1.Record
	for i := range uint64(20) {
		rs = append(rs, change(c, 1+10*i, []string{"bob", "carol"}, nil), change(c, 4+10*i, nil, []string{"bob"}), change(c, 6+10*i, nil, []string{"carol"}))
	}
	rs = append(rs, rs...)
	rng.Shuffle(len(rs), func(a, b int) { rs[a], rs[b] = rs[b], rs[a] })
	for chunk := range slices.Chunk(rs, 7) {
		mustAppend(t, ctx, s, chunk)
	}
	want := []store.Member{{User: "bob"}, {User: "carol"}}
	for i := range uint64(20) {
		want[0].Intervals = append(want[0].Intervals, store.Interval{From: 1 + 10*i, To: 4 + 10*i})
		want[1].Intervals = append(want[1].Intervals, store.Interval{From: 1 + 10*i, To: 6 + 10*i})
	}
	same(t, "members", want, mustMembers(t, s, c))
}

func largeGroup(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	c := store.Conversation{App: app, ID: "g:large"}
	users := make([]string, 2500)
	for i := range users {
		// Of different lengths: a backend that orders by length first would show.
		users[i] = fmt.Sprintf("user-%d", i)
	}
	rng.Shuffle(len(users), func(a, b int) { users[a], users[b] = users[b], users[a] })
	var rs []*logv1.Record
	var cursors []store.Cursor
	for chunk := range slices.Chunk(users, 1000) {
		rs = append(rs, change(c, uint64(len(rs)+1), chunk, nil))
	}
	for i, u := range users {
		if i%2 == 0 {
			cursors = append(cursors, store.Cursor{User: u, Seq: uint64(i + 1), Count: uint64(i)})
		}
	}
	mustAppend(t, ctx, s, rs)
	if err := s.SetCursors(ctx, c, cursors); err != nil {
		t.Fatalf("set %d cursors: %v", len(cursors), err)
	}
	want := make([]store.Member, len(users))
	for i, u := range users {
		want[i] = store.Member{User: u, Intervals: []store.Interval{{From: uint64(i/1000 + 1)}}}
		if i%2 == 0 {
			want[i].Cursor = store.Cursor{User: u, Seq: uint64(i + 1), Count: uint64(i)}
		}
	}
	slices.SortFunc(want, func(a, b store.Member) int {
		if a.User < b.User {
			return -1
		}
		return 1
	})
	same(t, "members", want, mustMembers(t, s, c))
}

func cursorOnlyRises(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:read"}
	want := store.Cursor{}
	for _, seq := range []uint64{0, 5, 3, 5, 4095, 4097, 4096, 1, 1 << 40, 9, math.MaxInt64, 7} {
		cur := store.Cursor{User: "bob", Seq: seq, Count: seq / 2}
		if err := s.SetCursors(ctx, c, []store.Cursor{cur, {User: "carol", Seq: 1, Count: 1}}); err != nil {
			t.Fatalf("set cursor %d: %v", seq, err)
		}
		if seq > want.Seq {
			want = cur
		}
		got, err := s.Cursor(ctx, c, "bob")
		if err != nil {
			t.Fatalf("cursor after %d: %v", seq, err)
		}
		same(t, fmt.Sprintf("cursor after %d", seq), want, got)
	}
	// Two for one user in one call.
	if err := s.SetCursors(ctx, c, []store.Cursor{{User: "dave", Seq: 8, Count: 8}, {User: "dave", Seq: 6, Count: 6}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Cursor(ctx, c, "dave")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the higher of two in one call", store.Cursor{User: "dave", Seq: 8, Count: 8}, got)
}

func cursorAloneMakesNoMember(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "d:alice:bob"}
	if err := s.SetCursors(ctx, c, []store.Cursor{{User: "alice", Seq: 4, Count: 3}, {User: "bob", Seq: 2, Count: 2}}); err != nil {
		t.Fatal(err)
	}
	same(t, "members", []store.Member(nil), mustMembers(t, s, c))
	mustAppend(t, ctx, s, []*logv1.Record{change(c, 7, []string{"bob"}, nil)})
	same(t, "members once bob joined", []store.Member{
		{User: "bob", Intervals: []store.Interval{{From: 7}}, Cursor: store.Cursor{User: "bob", Seq: 2, Count: 2}},
	}, mustMembers(t, s, c))
	none, err := s.Cursor(ctx, c, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "cursor of nobody", store.Cursor{}, none)
}

func cursorsRaisedAtOnce(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	c := store.Conversation{App: app, ID: "g:race"}
	const writers, each = 8, 20
	seqs := rng.Perm(writers * each)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for _, n := range seqs[w*each : (w+1)*each] {
				seq := uint64(n + 1)
				if err := s.SetCursors(ctx, c, []store.Cursor{{User: "bob", Seq: seq, Count: seq}}); err != nil {
					t.Errorf("set cursor %d: %v", seq, err)
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Cursor(ctx, c, "bob")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "cursor", store.Cursor{User: "bob", Seq: writers * each, Count: writers * each}, got)
}
