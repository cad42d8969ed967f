package state_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/halley-im/halley/logic/state"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// naive is a window as one would write it down: a slice, and no index arithmetic.
type naive []state.Entry

func (n naive) find(user, device, clientID string, since uint64) *logv1.Record {
	for i := len(n) - 1; i >= 0; i-- {
		if r := n[i]; r.Seq > since && r.Sender == user && r.Device == device && r.ClientId == clientID {
			return r.Record
		}
	}
	return nil
}

func (n naive) between(from, to uint64) (out []uint64) {
	for _, e := range n {
		if from <= e.Seq && e.Seq <= to {
			out = append(out, e.Seq)
		}
	}
	return out
}

func TestWindowIsASliceThatForgetsFromTheFront(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w state.Window
		var model, evicted naive
		next := rapid.Uint64Range(1, 50).Draw(t, "first")
		block, floor := uint64(1), uint64(0)
		name := rapid.SampledFrom([]string{"a", "b"})
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1, 2:
				for range rapid.IntRange(1, 40).Draw(t, "burst") {
					e := state.Entry{Block: block, Record: &logv1.Record{
						Seq: next, Sender: name.Draw(t, "user"), Device: name.Draw(t, "device"), ClientId: fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "id")),
					}}
					next++
					w.Push(e)
					model = append(model, e)
				}
				block++
			case 3:
				floor = rapid.Uint64Range(floor, block).Draw(t, "floor")
				keep := rapid.IntRange(0, 20).Draw(t, "keep")
				w.Trim(floor, keep)
				for len(evicted) > 0 && evicted[0].Block <= floor {
					evicted = evicted[1:]
				}
				for len(evicted) == 0 && len(model) > keep && model[0].Block <= floor {
					model = model[1:]
				}
			case 6:
				var gone []uint64
				upTo := rapid.Uint64Range(0, block).Draw(t, "evict")
				w.Evict(upTo, floor, func(r *logv1.Record) { gone = append(gone, r.Seq) })
				for len(model) > 0 && model[0].Block <= upTo {
					if model[0].Block > floor {
						if evicted = append(evicted, model[0]); gone[0] != model[0].Seq {
							t.Fatalf("%v go, want %d", gone, model[0].Seq)
						}
						gone = gone[1:]
					}
					model = model[1:]
				}
				if len(gone) > 0 {
					t.Fatalf("%v go as well", gone)
				}
			case 4: // What is not next is ignored, unless nothing is held.
				if len(model)+len(evicted) > 0 {
					w.Push(state.Entry{Block: block, Record: &logv1.Record{Seq: rapid.Uint64Range(1, next-1).Draw(t, "old")}})
					w.Push(state.Entry{Block: block, Record: &logv1.Record{Seq: next + 1}})
				}
			}
			check(t, &w, model, evicted, next, floor)
		}
	})
}

func check(t *rapid.T, w *state.Window, model, evicted naive, next, floor uint64) {
	checkIndex(t, w, model, evicted, next)
	if w.Len() != len(model) {
		t.Fatalf("%d records, want %d", w.Len(), len(model))
	}
	var first uint64
	if len(model) > 0 {
		first = model[0].Seq
	}
	if w.First() != first {
		t.Fatalf("first %d, want %d", w.First(), first)
	}
	above := len(model) == 0 && len(evicted) > 0 && evicted[len(evicted)-1].Block > floor
	for i, e := range w.All() {
		if e.Record != model[i].Record {
			t.Fatalf("record %d is %v, want %v", i, e, model[i])
		}
		above = above || e.Block > floor
	}
	if w.Above(floor) != above {
		t.Fatalf("above %d: %v", floor, !above)
	}
	since := rapid.Uint64Range(0, next+1).Draw(t, "since")
	for _, user := range []string{"a", "b"} {
		id := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "looked for"))
		if got, want := w.Find(user, "a", id, since), model.find(user, "a", id, since); got != want {
			t.Fatalf("find %s above %d: %v, want %v", id, since, got, want)
		}
	}
	from, to := rapid.Uint64Range(0, next+2).Draw(t, "from"), rapid.Uint64Range(0, next+2).Draw(t, "to")
	var got []uint64
	for _, e := range w.Range(from, to) {
		got = append(got, e.Seq)
	}
	if want := model.between(from, to); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("range %d to %d: %v, want %v", from, to, got, want)
	}
}

// checkIndex checks what the window knows of the records that it let go of.
func checkIndex(t *rapid.T, w *state.Window, model, evicted naive, next uint64) {
	var lowest uint64
	if all := slices.Concat(evicted, model); len(all) > 0 {
		lowest = all[0].Seq
	}
	if w.Lowest() != lowest {
		t.Fatalf("lowest %d, want %d", w.Lowest(), lowest)
	}
	from, to := rapid.Uint64Range(0, next+2).Draw(t, "place from"), rapid.Uint64Range(0, next+2).Draw(t, "place to")
	most, newest := rapid.IntRange(0, 30).Draw(t, "most"), rapid.Bool().Draw(t, "newest")
	var want []state.Place
	for _, e := range evicted {
		if at := w.Place(e.Seq); at != (state.Place{Seq: e.Seq, Block: e.Block}) {
			t.Fatalf("place of %d: %v, want block %d", e.Seq, at, e.Block)
		}
		if from <= e.Seq && e.Seq <= to {
			want = append(want, state.Place{Seq: e.Seq, Block: e.Block})
		}
	}
	if n := len(want) - most; n > 0 && newest {
		want = want[n:]
	} else if n > 0 {
		want = want[:most]
	}
	if got := w.Places(from, to, most, newest); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("places %d to %d, at most %d, newest %v: %v, want %v", from, to, most, newest, got, want)
	}
	if at := w.Place(next); at.Block != 0 {
		t.Fatalf("place of what was not written: %v", at)
	}
	since, id := rapid.Uint64Range(0, next).Draw(t, "since"), fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "candidate"))
	var candidates []state.Place
	for i := len(evicted) - 1; i >= 0; i-- {
		if e := evicted[i]; e.Seq > since && e.Sender == "a" && e.Device == "b" && e.ClientId == id {
			candidates = append(candidates, state.Place{Seq: e.Seq, Block: e.Block})
		}
	}
	if got := w.Candidates("a", "b", id, since); fmt.Sprint(got) != fmt.Sprint(candidates) {
		t.Fatalf("candidates for %s above %d: %v, want %v", id, since, got, candidates)
	}
}

func TestAWindowGivesMemoryBack(t *testing.T) {
	var w state.Window
	for seq := uint64(1); seq <= 100_000; seq++ {
		w.Push(state.Entry{Block: seq, Record: &logv1.Record{Seq: seq}})
	}
	w.Trim(100_000, 32)
	if got := cap(w.All()); got > 1000 {
		t.Errorf("32 records are held in room for %d", got)
	}
	if r := w.Range(99_990, 100_000); len(r) != 11 || r[0].Seq != 99_990 {
		t.Errorf("the newest are not there: %v", r)
	}
}
