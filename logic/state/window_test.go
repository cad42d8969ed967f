package state_test

import (
	"fmt"
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
		var model naive
		next := rapid.Uint64Range(1, 50).Draw(t, "first")
		block, floor := uint64(1), uint64(0)
		name := rapid.SampledFrom([]string{"a", "b"})
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
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
				for len(model) > keep && model[0].Block <= floor {
					model = model[1:]
				}
			case 4: // What is not next is ignored, unless nothing is held.
				if len(model) > 0 {
					w.Push(state.Entry{Block: block, Record: &logv1.Record{Seq: rapid.Uint64Range(1, next-1).Draw(t, "old")}})
					w.Push(state.Entry{Block: block, Record: &logv1.Record{Seq: next + 1}})
				}
			}
			check(t, &w, model, next, floor)
		}
	})
}

func check(t *rapid.T, w *state.Window, model naive, next, floor uint64) {
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
	above := false
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
