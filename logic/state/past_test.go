package state_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/halley-im/halley/logic/state"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// What was read of the store and what left the window since are one stretch: a write in it is found with its place, whatever is
// trimmed, evicted, read further back or forgotten; and nothing is found that was not written, or not above since.
func TestWhatWasReadOfTheStoreJoinsTheWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := state.New("main", "d:alice:bob")
		w := &c.Window
		var all []*logv1.Record // by seq-1
		push := func(n int) {
			for range n {
				seq := uint64(len(all)) + 1
				r := &logv1.Record{Seq: seq, Count: seq * 2, Id: seq * 3, TimeUs: int64(seq) * 4, Sender: "alice", Device: "phone", ClientId: fmt.Sprint("c", seq)}
				all = append(all, r)
				c.Apply(r, seq)
			}
		}
		push(rapid.IntRange(1, 60).Draw(t, "begin"))
		var floor uint64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			head := uint64(len(all))
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				push(rapid.IntRange(1, 30).Draw(t, "burst"))
			case 2:
				floor = rapid.Uint64Range(floor, head).Draw(t, "floor")
				w.Trim(floor, rapid.IntRange(0, 20).Draw(t, "keep"))
			case 3:
				w.Evict(rapid.Uint64Range(0, head).Draw(t, "evict"), floor, func(*logv1.Record) {})
			case 4:
				known := c.Known()
				from, to := rapid.Uint64Range(1, known).Draw(t, "from"), known-1
				var read []state.Written
				for _, r := range all[from-1 : to] {
					read = append(read, state.WrittenOf(r))
				}
				if rapid.Bool().Draw(t, "meanwhile") { // The window moves on.
					push(rapid.IntRange(0, 3).Draw(t, "more"))
					w.Trim(floor, 0)
				}
				joins := from <= to && c.Known() == known
				if c.Recall(from, to, read) != joins || joins && c.Known() != from {
					t.Fatalf("%d to %d is recalled: %v; known was %d, is %d", from, to, !joins, known, c.Known())
				}
			case 5:
				w.Forget(rapid.Uint64Range(0, head+1).Draw(t, "forget"))
			}
			known := func(seq uint64) bool {
				return seq >= c.Known() && w.Place(seq).Block == 0
			}
			since := rapid.Uint64Range(0, uint64(len(all))).Draw(t, "since")
			for _, r := range all {
				got := w.Find("alice", "phone", r.ClientId, since)
				if (got != nil) != (r.Seq > since && known(r.Seq)) {
					t.Fatalf("%d above %d: %v; known from %d on, and held from %d on", r.Seq, since, got, c.Known(), w.First())
				}
				if got != nil && (got.Seq != r.Seq || got.Count != r.Count || got.Id != r.Id || got.TimeUs != r.TimeUs) {
					t.Fatalf("found %v, want %v", got, r)
				}
			}
			if w.Find("alice", "phone", "never", 0) != nil || w.Find("alice", "tablet", "c1", 0) != nil || w.Find("bob", "phone", "c1", 0) != nil {
				t.Fatal("another's write is found")
			}
		}
	})
}
