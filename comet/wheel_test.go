package comet

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestWheelAgainstAMap drives the wheel and a plain map of deadlines with the same random calls.
func TestWheelAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Uint32Range(0, 1<<20).Draw(t, "start")
		w, model := wheel{now: start}, map[uint32]uint32{}
		id := rapid.Uint32Range(0, 40)
		// Around now, around a turn of the wheel, and far beyond it.
		ahead := rapid.OneOf(rapid.Uint32Range(0, 20), rapid.Uint32Range(wheelSlots-5, wheelSlots+5), rapid.Uint32Range(0, 4*wheelSlots))
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				i, due := id.Draw(t, "id"), w.now+ahead.Draw(t, "ahead")
				w.set(i, due)
				model[i] = max(due, w.now+1)
			},
			"cancel": func(t *rapid.T) {
				i := id.Draw(t, "id")
				w.cancel(i)
				delete(model, i)
			},
			"advance": func(t *rapid.T) {
				now := w.now + ahead.Draw(t, "by")
				// What fires may set its own deadline again, as sessions do.
				again := rapid.Uint32Range(0, 3*wheelSlots).Draw(t, "again")
				var fired []uint32
				w.advance(now, func(i uint32) {
					if model[i] != w.now {
						t.Fatalf("%d fired at %d, is due at %d", i, w.now, model[i])
					}
					fired = append(fired, i)
					delete(model, i)
					if again > 0 && i%2 == 0 {
						w.set(i, w.now+again)
						model[i] = w.now + again
					}
				})
				for i, due := range model {
					if due <= now {
						t.Fatalf("%d, due at %d, did not fire up to %d", i, due, now)
					}
				}
			},
			"pass": func(t *rapid.T) {
				// What lies ahead is known once the next has been looked for, and from then on.
				if rapid.Bool().Draw(t, "look") {
					w.next(rapid.Uint32Range(1, 20).Draw(t, "most"))
				}
				before := w.now
				w.pass(w.now + ahead.Draw(t, "by"))
				for i, due := range model {
					if due <= w.now {
						t.Fatalf("passed %d, due at %d, from %d to %d", i, due, before, w.now)
					}
				}
			},
			"": func(t *rapid.T) {
				var set []uint32
				for i, n := range w.nodes {
					if n.due != 0 {
						set = append(set, uint32(i))
					}
				}
				if want := slices.Sorted(maps.Keys(model)); !slices.Equal(set, want) {
					t.Fatalf("deadlines of %v, want %v", set, want)
				}
			},
		})
	})
}
