package lastknown

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/pkg/presence/presencetest"
)

// While the registry behind it answers, nobody can tell that there is a memory in front.
func TestSuite(t *testing.T) {
	presencetest.Run(t, func(*testing.T) presencetest.Harness {
		var mu sync.Mutex
		now := time.Now()
		r := New(memory.New(func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}), 4)
		return presencetest.Harness{Registry: r, Other: r, Advance: func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(d)
		}}
	})
}

// failing is a registry that can be taken away.
type failing struct {
	presence.Registry
	down bool
}

func (f *failing) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	if f.down {
		return nil, presence.ErrUnavailable
	}
	return f.Registry.Lookup(ctx, users, dst)
}

func (f *failing) RoomNodes(ctx context.Context, rooms []presence.RoomID, dst [][]presence.RoomNode) ([][]presence.RoomNode, error) {
	if f.down {
		return nil, presence.ErrUnavailable
	}
	return f.Registry.RoomNodes(ctx, rooms, dst)
}

func TestWhatWasSaidLastIsSaidAgain(t *testing.T) {
	ctx := t.Context()
	behind := &failing{Registry: memory.New(time.Now)}
	r := New(behind, 10)
	epoch, err := r.Acquire(ctx, "comet-1")
	if err != nil {
		t.Fatal(err)
	}
	alice, bob, room := presence.User{App: "a", User: "alice"}, presence.User{App: "a", User: "bob"}, presence.RoomID{App: "a", Conversation: "g:1"}
	regs := []presence.Registration{{User: alice, Entry: presence.Entry{Device: "phone", Node: "comet-1", Epoch: epoch, Conn: 1}}}
	if err := r.Register(ctx, regs); err != nil {
		t.Fatal(err)
	}
	if err := r.EnterRoom(ctx, []presence.Room{{RoomID: room, Node: "comet-1", Epoch: epoch}}); err != nil {
		t.Fatal(err)
	}
	users, rooms := []presence.User{bob, alice}, []presence.RoomID{room}
	want, err := r.Lookup(ctx, users, nil)
	if err != nil || len(want[1]) != 1 {
		t.Fatalf("Lookup = %v, %v", want, err)
	}
	if _, err := r.RoomNodes(ctx, rooms, nil); err != nil {
		t.Fatal(err)
	}

	behind.down = true
	got, err := r.Lookup(ctx, users, nil)
	if !errors.Is(err, presence.ErrStale) || !errors.Is(err, presence.ErrUnavailable) {
		t.Fatalf("err = %v", err)
	}
	if len(got) != 2 || len(got[0]) != 0 || !slices.Equal(got[1], want[1]) {
		t.Fatalf("while it is away: %v, want %v", got, want)
	}
	if nodes, err := r.RoomNodes(ctx, rooms, nil); !errors.Is(err, presence.ErrStale) || len(nodes[0]) != 1 {
		t.Fatalf("RoomNodes = %v, %v", nodes, err)
	}

	// Who is known to have gone is not sent to when it goes away again.
	behind.down = false
	if err := r.Unregister(ctx, regs); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lookup(ctx, users, nil); err != nil {
		t.Fatal(err)
	}
	behind.down = true
	if got, _ := r.Lookup(ctx, users, nil); len(got[1]) != 0 {
		t.Fatalf("a device that left is said again: %v", got[1])
	}
}

// At least the newest limit keys are there, never more than twice as many, and what is said is always what was put last.
func TestRecallIsBoundedAndTrue(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const limit = 20
	m := newRecall[string, int](limit)
	last := map[string][]int{}
	var recent []string // distinct, newest last
	for range 20_000 {
		k := fmt.Sprint(rnd.IntN(100))
		vs := make([]int, rnd.IntN(3))
		for i := range vs {
			vs[i] = rnd.IntN(3)
		}
		m.put(k, vs)
		last[k] = slices.Clone(vs)
		recent = slices.DeleteFunc(recent, func(other string) bool { return other == k })
		recent = append(recent, k)
		for i := range vs { // The caller's slice is the caller's.
			vs[i] = -1
		}
		if len(m.young) > limit || len(m.old) > limit {
			t.Fatalf("%d and %d keys are remembered", len(m.young), len(m.old))
		}
		for i, k := range recent {
			got := m.get(k)
			if len(got) == 0 && i < len(recent)-limit {
				continue
			}
			if !slices.Equal(got, last[k]) {
				t.Fatalf("%s: %v, want %v", k, got, last[k])
			}
		}
	}
}
