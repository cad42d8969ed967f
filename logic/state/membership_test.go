package state_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// drawRecords makes a group's records: who joins is no member, who leaves is one.
func drawRecords(t *rapid.T, users []string) []*logv1.Record {
	member := map[string]bool{}
	var out []*logv1.Record
	n := rapid.Uint64Range(1, 30).Draw(t, "records")
	for seq := uint64(1); seq <= n; seq++ {
		r := &logv1.Record{Seq: seq}
		for _, user := range users {
			if seq > 1 && rapid.IntRange(0, 3).Draw(t, "stays") > 0 {
				continue
			}
			if member[user] {
				r.Left = append(r.Left, user)
			} else {
				r.Joined = append(r.Joined, user)
			}
			member[user] = !member[user]
		}
		out = append(out, r)
	}
	return out
}

// membersOf is what a store answers that was given these records, in whatever order.
func membersOf(users []string, records []*logv1.Record) []store.Member {
	var out []store.Member
	for _, user := range users {
		var joins, leaves []uint64
		for _, r := range records {
			if slices.Contains(r.Joined, user) {
				joins = append(joins, r.Seq)
			}
			if slices.Contains(r.Left, user) {
				leaves = append(leaves, r.Seq)
			}
		}
		if in := store.Intervals(joins, leaves); in != nil {
			out = append(out, store.Member{User: user, Intervals: in})
		}
	}
	return out
}

func describe(c *state.Conversation, users []string, head uint64) string {
	out := fmt.Sprint("active ", c.Active())
	for _, user := range users {
		out += fmt.Sprint(" ", user, c.Member(user).Active(), c.Readable(user))
		for seq := uint64(1); seq <= head; seq++ {
			if c.May(user, seq) {
				out += fmt.Sprint(" ", seq)
			}
		}
	}
	return out
}

// The store has everything up to history's floor and, above it, whatever job's nodes wrote so far, in any order. With the
// log's records from the floor on, the intervals are those of one who saw every record as it was committed.
func TestMembershipIsTheSameWhereverHistoryStands(t *testing.T) {
	users := []string{"alice", "bob", "carol"}
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t, users)
		live := state.New("main", "g:x")
		for _, r := range records {
			want := map[string]bool{}
			for _, user := range live.Active() {
				want[user] = true
			}
			for _, user := range r.Joined {
				want[user] = true
			}
			if got := live.Recipients(r.Joined); len(got) != len(want) || !slices.IsSorted(got) {
				t.Fatalf("recipients of %v among %v: %v", r, live.Active(), got)
			}
			live.Apply(r, r.Seq)
			if !slices.IsSorted(live.Active()) {
				t.Fatalf("active members are not sorted: %v", live.Active())
			}
		}
		head := uint64(len(records))

		floor := rapid.IntRange(0, len(records)).Draw(t, "floor")
		replayFrom := rapid.IntRange(0, floor).Draw(t, "replay from") // Some below the floor are read again.
		inStore := slices.Clone(records[:floor])
		for _, r := range records[floor:] {
			if rapid.Bool().Draw(t, "stored early") {
				inStore = append(inStore, r)
			}
		}
		loaded := state.New("main", "g:x")
		noted := uint64(0) // the floor as the owner knows it
		for _, r := range records[replayFrom:] {
			loaded.Apply(r, r.Seq)
			switch rapid.IntRange(0, 3).Draw(t, "bound") {
			case 0: // Memory holds no more: the log has it.
				loaded.Evict(rapid.Uint64Range(0, r.Seq).Draw(t, "evict"), noted, true)
			case 1:
				noted = rapid.Uint64Range(noted, uint64(floor)).Draw(t, "noted")
				loaded.Trim(noted, rapid.IntRange(0, 5).Draw(t, "keep"))
			}
		}
		loaded.SetMembers(membersOf(users, inStore))
		if loaded.Head.Seq < head { // Nothing to replay: the head is the store's.
			loaded.Head.Seq = head
		}
		if got, want := describe(loaded, users, head), describe(live, users, head); got != want {
			t.Fatalf("floor %d of %d, replayed from %d\n got %s\nwant %s", floor, head, replayFrom, got, want)
		}
		for _, r := range records[replayFrom:] { // Once more changes nothing.
			loaded.ApplyMembers(r)
		}
		if replayFrom == 0 || floor == len(records) {
			return
		}
		if got, want := fmt.Sprint(loaded.Active()), fmt.Sprint(live.Active()); got != want {
			t.Fatalf("applied twice: %s, want %s", got, want)
		}
	})
}

func TestActiveMembersAreNeverChangedInPlace(t *testing.T) {
	c := state.New("main", "g:x")
	c.Apply(&logv1.Record{Seq: 1, Joined: []string{"b", "d", "f"}}, 1)
	before := c.Active()
	c.Apply(&logv1.Record{Seq: 2, Joined: []string{"a", "e", "g"}, Left: []string{"b", "f"}}, 2)
	if fmt.Sprint(before) != "[b d f]" || fmt.Sprint(c.Active()) != "[a d e g]" {
		t.Fatalf("%v became %v", before, c.Active())
	}
}

func BenchmarkJoinOfALargeGroup(b *testing.B) {
	c := state.New("main", "g:x")
	users := make([]string, 100_000)
	for i := range users {
		users[i] = fmt.Sprintf("user%06d", i)
	}
	c.Apply(&logv1.Record{Seq: 1, Joined: users}, 1)
	b.ReportAllocs()
	for b.Loop() {
		seq := c.Head.Seq
		c.Apply(&logv1.Record{Seq: seq + 1, Joined: []string{"user050000x"}}, seq)
		c.Apply(&logv1.Record{Seq: seq + 2, Left: []string{"user050000x"}}, seq)
		c.Window.Trim(seq, 1)
	}
}
