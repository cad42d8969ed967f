package comet

import (
	"testing"

	"pgregory.net/rapid"
)

// An idle session may cost this much; raise it only with a measurement of what the node then needs.
const sessionBudget = 112

func TestSessionIsSmall(t *testing.T) {
	if SessionBytes > sessionBudget {
		t.Errorf("a session takes %d bytes, the budget is %d", SessionBytes, sessionBudget)
	}
	t.Logf("%d bytes", SessionBytes)
}

func TestSessionNames(t *testing.T) {
	app := "main"
	var s session
	s.name(&app, "alice", "phone")
	if s.user() != "alice" || s.device() != "phone" || s.userLog() != "u:alice" {
		t.Errorf("%q %q %q", s.user(), s.device(), s.userLog())
	}
}

// TestRegistryAgainstAMap: an id finds its session while that lives, and nobody after.
func TestRegistryAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := registry{loop: 3}
		live, dead := map[uint64]*session{}, map[uint64]bool{}
		pick := func(t *rapid.T) uint64 {
			for id := range live {
				return id
			}
			return 0
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 300).Draw(t, "n") {
					s := r.add()
					if live[s.id()] != nil || dead[s.id()] || s.id() == 0 || loopOf(s.id()) != 3 {
						t.Fatalf("id %x is not new", s.id())
					}
					live[s.id()] = s
				}
			},
			"remove": func(t *rapid.T) {
				for range rapid.IntRange(1, 300).Draw(t, "n") {
					id := pick(t)
					if id == 0 {
						return
					}
					r.remove(live[id])
					delete(live, id)
					dead[id] = true
				}
			},
			"": func(t *rapid.T) {
				if r.live != len(live) {
					t.Fatalf("%d live, want %d", r.live, len(live))
				}
				for id, s := range live {
					if r.get(id) != s {
						t.Fatalf("%x not found", id)
					}
				}
				for id := range dead {
					if r.get(id) != nil {
						t.Fatalf("%x found although gone", id)
					}
				}
			},
		})
	})
}
