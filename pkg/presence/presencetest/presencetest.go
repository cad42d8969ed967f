// Package presencetest is the suite that every presence backend passes. It never looks behind the contract.
package presencetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// Harness is one fresh, empty backend.
type Harness struct {
	presence.Registry
	// Other is a second process on the same backend, or the same one again where there is but one.
	Other presence.Registry
	// Advance lets time pass for the backend and both registries.
	Advance func(time.Duration)
	// Staleness is for how long a process may still believe in a lease that has ended.
	Staleness time.Duration
	// Wipe loses all data. nil: the backend cannot.
	Wipe func()
}

// Run runs the suite; fresh is called once for each test.
func Run(t *testing.T, fresh func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"RegisterLookupUnregister", roundTrip},
		{"LookupKeepsTheOrderOfUsersAndReusesDst", lookupOrder},
		{"AppsDoNotMeet", apps},
		{"HigherGenerationWins", generations},
		{"RegistrationRepeated", repeated},
		{"UnregisterNeedsTheGeneration", unregisterStale},
		{"LeaseRunsOut", leaseRunsOut},
		{"LeaseReleased", leaseReleased},
		{"NewEpochMakesOldEntriesAbsent", newEpoch},
		{"DeadNodesEntriesDoNotCount", deadDoesNotCount},
		{"EpochsRise", epochsRise},
		{"LostLeaseIsLostForGood", lostForGood},
		{"AllDataLost", wiped},
		{"RoomsEnteredAndLeft", roomsEnteredAndLeft},
		{"RoomsEndWithTheLease", roomsEndWithTheLease},
		{"ResultsStayAsTheyWere", immutable},
		{"ManyAtOnce", concurrent},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// ---- helpers ---------------------------------------------------------------------------------------------------------

func (h Harness) acquire(t *testing.T, node string) uint64 {
	t.Helper()
	epoch, err := h.Acquire(t.Context(), node)
	if err != nil || epoch == 0 {
		t.Fatalf("Acquire(%s) = %d, %v", node, epoch, err)
	}
	return epoch
}

// renew must succeed.
func (h Harness) renew(t *testing.T, node string, epoch uint64) {
	t.Helper()
	if err := h.Renew(t.Context(), node, epoch); err != nil {
		t.Fatalf("Renew(%s) = %v", node, err)
	}
}

func (h Harness) register(t *testing.T, user string, e presence.Entry) presence.Registration {
	t.Helper()
	regs := []presence.Registration{{User: presence.User{App: "main", User: user}, Entry: e}}
	if err := h.Register(t.Context(), regs); err != nil {
		t.Fatalf("Register: %v", err)
	}
	return regs[0]
}

func entry(device, node string, epoch, conn uint64) presence.Entry {
	return presence.Entry{Device: device, Node: node, Epoch: epoch, Conn: conn, Codec: link.CodecProto}
}

func lookup(t *testing.T, r presence.Registry, users ...string) [][]presence.Entry {
	t.Helper()
	var us []presence.User
	for _, u := range users {
		us = append(us, presence.User{App: "main", User: u})
	}
	got, err := r.Lookup(t.Context(), us, nil)
	for try := 0; errors.Is(err, presence.ErrUnavailable) && try < 20; try++ { // A tenth of a second is not much for a crowded machine.
		<-time.After(50 * time.Millisecond)
		got, err = r.Lookup(t.Context(), us, nil)
	}
	if err != nil || len(got) != len(us) {
		t.Fatalf("Lookup(%v) = %v, %v", users, got, err)
	}
	return got
}

// expect compares what both processes see of one user, whatever the order of devices.
func (h Harness) expect(t *testing.T, user string, want ...presence.Entry) {
	t.Helper()
	byDevice := func(a, b presence.Entry) int { return cmp.Compare(a.Device, b.Device) }
	slices.SortFunc(want, byDevice)
	for i, r := range []presence.Registry{h.Registry, h.Other} {
		got := slices.SortedFunc(slices.Values(lookup(t, r, user)[0]), byDevice)
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("%s as process %d sees it (-want +got):\n%s", user, i+1, diff)
		}
	}
}

// ---- devices ---------------------------------------------------------------------------------------------------------

func roundTrip(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	h.expect(t, "alice")
	phone := h.register(t, "alice", entry("phone", "comet-1", epoch, 1<<63+5))
	if phone.Entry.Generation == 0 || phone.Replaced != nil || phone.Stale {
		t.Fatalf("first registration: %+v", phone)
	}
	tablet := entry("tablet.2@home_-", "comet-1", epoch, 2)
	tablet.Codec = link.CodecJSON
	second := h.register(t, "alice", tablet)
	h.expect(t, "alice", phone.Entry, second.Entry)
	if err := h.Unregister(t.Context(), []presence.Registration{phone}); err != nil {
		t.Fatal(err)
	}
	h.expect(t, "alice", second.Entry)
	if err := h.Unregister(t.Context(), []presence.Registration{phone, second}); err != nil {
		t.Fatal(err)
	}
	h.expect(t, "alice")
}

func lookupOrder(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	var regs []presence.Registration
	var users []presence.User
	for i := range 300 {
		u := presence.User{App: "main", User: fmt.Sprint("user", i)}
		users = append(users, u)
		if i%3 != 0 {
			regs = append(regs, presence.Registration{User: u, Entry: entry("phone", "comet-1", epoch, uint64(i))})
		}
	}
	if err := h.Register(t.Context(), regs); err != nil {
		t.Fatal(err)
	}
	users = append(users, users[1], users[1]) // A user may be asked for twice.
	dst := make([][]presence.Entry, 1, 400)
	got, err := h.Lookup(t.Context(), users, dst)
	if err != nil || len(got) != len(users) {
		t.Fatalf("Lookup = %d results, %v", len(got), err)
	}
	if &got[0] != &dst[0] {
		t.Error("dst was large enough and is not used")
	}
	for i, entries := range got {
		n := i
		if i >= 300 {
			n = 1
		}
		if n%3 == 0 && len(entries) != 0 || n%3 != 0 && (len(entries) != 1 || entries[0].Conn != uint64(n)) {
			t.Fatalf("result %d is %+v", i, entries)
		}
	}
	if got, err := h.Lookup(t.Context(), nil, nil); err != nil || len(got) != 0 {
		t.Fatalf("Lookup of nobody = %v, %v", got, err)
	}
}

func apps(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	h.register(t, "alice", entry("phone", "comet-1", epoch, 1))
	other := []presence.User{{App: "acme", User: "alice"}, {App: "", User: "alice"}, {App: "main/alice", User: ""}}
	got, err := h.Lookup(t.Context(), other, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, entries := range got {
		if len(entries) != 0 {
			t.Errorf("%+v sees %+v of another app", other[i], entries)
		}
	}
}

func generations(t *testing.T, h Harness) {
	e1, e2 := h.acquire(t, "comet-1"), h.acquire(t, "comet-2")
	old := h.register(t, "alice", entry("phone", "comet-1", e1, 1))
	young := h.register(t, "alice", entry("phone", "comet-2", e2, 1))
	if young.Entry.Generation <= old.Entry.Generation {
		t.Fatalf("generation %d follows %d", young.Entry.Generation, old.Entry.Generation)
	}
	if diff := gocmp.Diff(&old.Entry, young.Replaced); diff != "" {
		t.Fatalf("replaced (-want +got):\n%s", diff)
	}
	again := h.register(t, "alice", old.Entry)
	if !again.Stale || again.Replaced != nil {
		t.Fatalf("an older session registered over a younger: %+v", again)
	}
	h.expect(t, "alice", young.Entry)
	// Both in one call, the older last, on another device.
	regs := []presence.Registration{
		{User: young.User, Entry: presence.Entry{Device: "tv", Node: "comet-2", Epoch: e2, Conn: 9, Generation: 900}},
		{User: young.User, Entry: presence.Entry{Device: "tv", Node: "comet-1", Epoch: e1, Conn: 8, Generation: 800}},
	}
	if err := h.Register(t.Context(), regs); err != nil {
		t.Fatal(err)
	}
	if regs[0].Stale || !regs[1].Stale || regs[0].Replaced != nil {
		t.Fatalf("two sessions of a device in one call: %+v", regs)
	}
}

// repeated is what a node does after a loss of data or with a new epoch: its sessions keep their generations.
func repeated(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	first := h.register(t, "alice", entry("phone", "comet-1", epoch, 1))
	same := h.register(t, "alice", first.Entry)
	if same.Stale || same.Replaced != nil || same.Entry != first.Entry {
		t.Fatalf("the same session again: %+v", same)
	}
	renewed := first.Entry
	renewed.Epoch = h.acquire(t, "comet-1")
	got := h.register(t, "alice", renewed)
	if got.Stale || got.Replaced != nil || got.Entry != renewed {
		t.Fatalf("the same session under a new epoch: %+v", got)
	}
	h.expect(t, "alice", renewed)
	// The same connection with a new generation displaces itself only: nothing to close.
	renewed.Generation = 0
	if got := h.register(t, "alice", renewed); got.Replaced != nil || got.Stale {
		t.Fatalf("the same connection under a new generation: %+v", got)
	}
}

func unregisterStale(t *testing.T, h Harness) {
	e1, e2 := h.acquire(t, "comet-1"), h.acquire(t, "comet-2")
	old := h.register(t, "alice", entry("phone", "comet-1", e1, 1))
	young := h.register(t, "alice", entry("phone", "comet-2", e2, 1))
	if err := h.Unregister(t.Context(), []presence.Registration{old}); err != nil {
		t.Fatal(err)
	}
	h.expect(t, "alice", young.Entry)
	// Without a generation it is the session's own, and no other's.
	unknown := []presence.Registration{old, young, young}
	for i := range unknown {
		unknown[i].Entry.Generation = 0
	}
	unknown[1].Entry.Conn++
	unknown[2].Entry.Epoch++
	if err := h.Unregister(t.Context(), unknown); err != nil {
		t.Fatal(err)
	}
	h.expect(t, "alice", young.Entry)
	young.Entry.Generation = 0
	if err := h.Unregister(t.Context(), []presence.Registration{young}); err != nil {
		t.Fatal(err)
	}
	h.expect(t, "alice")
}

func immutable(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	phone := h.register(t, "alice", entry("phone", "comet-1", epoch, 1))
	before := lookup(t, h.Registry, "alice")[0]
	h.register(t, "alice", entry("phone", "comet-1", epoch, 2))
	h.register(t, "alice", entry("tablet", "comet-1", epoch, 3))
	if len(before) != 1 || before[0] != phone.Entry {
		t.Fatalf("an earlier result changed to %+v", before)
	}
}

func concurrent(t *testing.T, h Harness) {
	const workers, rounds = 4, 60
	epochs := [2]uint64{h.acquire(t, "comet-0"), h.acquire(t, "comet-1")}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			ctx := context.WithoutCancel(t.Context())
			for i := range rounds {
				u := presence.User{App: "main", User: fmt.Sprint("user", i%7)}
				e := entry("phone", fmt.Sprint("comet-", w%2), epochs[w%2], uint64(w*rounds+i))
				regs := []presence.Registration{{User: u, Entry: e}}
				if err := h.Register(ctx, regs); err != nil {
					t.Errorf("Register: %v", err)
				}
				switch got, err := h.Lookup(ctx, []presence.User{u}, nil); {
				case errors.Is(err, presence.ErrUnavailable): // As above.
				case err != nil || len(got[0]) > 1:
					t.Errorf("Lookup = %+v, %v: a device is there once at most", got, err)
				}
				if err := h.Unregister(ctx, regs); err != nil {
					t.Errorf("Unregister: %v", err)
				}
				if w == 0 {
					if err := h.Renew(ctx, "comet-0", epochs[0]); err != nil {
						t.Errorf("Renew: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range 7 {
		h.expect(t, fmt.Sprint("user", i))
	}
}
