package state

import (
	"fmt"
	"maps"
	"testing"

	"github.com/halley-im/halley/pkg/store"
)

// A roster is what a map of names would be, before and after it becomes one.
func TestARosterIsAMap(t *testing.T) {
	for _, room := range []int{0, 2, 3 * mostFew} {
		r, want := newRoster(room), map[string]*Member{}
		same := func() {
			t.Helper()
			got := map[string]*Member{}
			r.each(func(user string, m *Member) { got[user] = m })
			if !maps.Equal(got, want) || r.empty() != (len(want) == 0) || r.get("nobody") != nil {
				t.Fatalf("room for %d: %v, empty %v, want %v", room, got, r.empty(), want)
			}
			for user, m := range want {
				if r.get(user) != m {
					t.Fatalf("room for %d: %s is %p, want %p", room, user, r.get(user), m)
				}
			}
		}
		same()
		for i := range 2 * mostFew {
			m := &Member{}
			if i%3 > 0 {
				m.Intervals = []store.Interval{{From: uint64(i)}}
			}
			user := fmt.Sprint("user-", i)
			r.add(user, m)
			want[user] = m
			same()
			if i == mostFew/2 || i == 2*mostFew-1 {
				never := func(m *Member) bool { return len(m.Intervals) == 0 }
				r.drop(never)
				maps.DeleteFunc(want, func(_ string, m *Member) bool { return never(m) })
				same()
			}
		}
	}
}

// Of a conversation's standings the highest counts, in whatever order they come: the log's record may be known before the store's row.
func TestTheHighestStandingCounts(t *testing.T) {
	c := New("main", "u:alice")
	for _, s := range []store.Standing{
		{Conversation: "g:b", Seq: 7, Member: true, JoinedSeq: 7, Large: true},
		{Conversation: "g:a", Seq: 3, Member: true, JoinedSeq: 3, Large: true},
		{Conversation: "g:c", Seq: 9, Member: true, JoinedSeq: 2},
		{Conversation: "g:b", Seq: 5, LeftSeq: 5},
		{Conversation: "g:a", Seq: 4, LeftSeq: 4},
		{Conversation: "g:a", Seq: 3, Member: true, JoinedSeq: 3, Large: true},
	} {
		c.NoteStanding(s)
	}
	for conversation, want := range map[string]uint64{"g:a": 4, "g:b": 7, "g:c": 9, "g:d": 0} {
		if got := c.Standing(conversation); got != want {
			t.Errorf("%s: %d, want %d", conversation, got, want)
		}
	}
	if rooms, more := c.RoomsAfter("", 10); len(rooms) != 1 || more || rooms[0] != (Room{"g:b", 7}) {
		t.Errorf("rooms: %v, %v", rooms, more)
	}
}
