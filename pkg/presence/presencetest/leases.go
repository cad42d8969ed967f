package presencetest

import (
	"errors"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/presence"
)

func leaseRunsOut(t *testing.T, h Harness) {
	e1, e2 := h.acquire(t, "comet-1"), h.acquire(t, "comet-2")
	phone := h.register(t, "alice", entry("phone", "comet-1", e1, 1))
	tablet := h.register(t, "alice", entry("tablet", "comet-2", e2, 2))
	h.expect(t, "alice", phone.Entry, tablet.Entry)
	for range 5 { // For 20 s only comet-2 renews.
		h.Advance(presence.RenewEvery)
		h.renew(t, "comet-2", e2)
	}
	h.expect(t, "alice", tablet.Entry)
	if err := h.Renew(t.Context(), "comet-1", e1); !errors.Is(err, presence.ErrLost) {
		t.Fatalf("Renew of a lease that ran out = %v, want ErrLost", err)
	}
	if presence.TTL+h.Staleness > 15*time.Second {
		t.Fatalf("a dead node may count for %v: promise P5 says 15 s", presence.TTL+h.Staleness)
	}
}

func leaseReleased(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	phone := h.register(t, "alice", entry("phone", "comet-1", epoch, 1))
	h.expect(t, "alice", phone.Entry)
	if err := h.Release(t.Context(), "comet-1", epoch+1); err != nil {
		t.Fatalf("Release of an epoch that is not held = %v", err)
	}
	h.Advance(h.Staleness)
	h.expect(t, "alice", phone.Entry)
	if err := h.Release(t.Context(), "comet-1", epoch); err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, h.Registry, "alice")[0]; len(got) != 0 {
		t.Fatalf("the process that released the lease still sees %+v", got)
	}
	h.Advance(h.Staleness)
	h.expect(t, "alice")
	if err := h.Renew(t.Context(), "comet-1", epoch); !errors.Is(err, presence.ErrLost) {
		t.Fatalf("Renew after Release = %v, want ErrLost", err)
	}
}

func newEpoch(t *testing.T, h Harness) {
	first := h.acquire(t, "comet-1")
	phone := h.register(t, "alice", entry("phone", "comet-1", first, 1))
	h.expect(t, "alice", phone.Entry)
	second := h.acquire(t, "comet-1")
	if second <= first {
		t.Fatalf("epoch %d follows %d", second, first)
	}
	if err := h.Renew(t.Context(), "comet-1", first); !errors.Is(err, presence.ErrLost) {
		t.Fatalf("Renew of an older epoch = %v, want ErrLost", err)
	}
	h.Advance(h.Staleness)
	h.expect(t, "alice")
	// An entry under the new epoch is seen at once, also by who remembers the old one.
	tablet := h.register(t, "alice", entry("tablet", "comet-1", second, 2))
	h.expect(t, "alice", tablet.Entry)
	third := h.acquire(t, "comet-1")
	phone = h.register(t, "alice", entry("phone", "comet-1", third, 3))
	h.Advance(h.Staleness)
	h.renew(t, "comet-1", third)
	h.expect(t, "alice", phone.Entry)
}

// deadDoesNotCount: an entry of a dead node neither stands in the way of an older session nor is anything to close.
func deadDoesNotCount(t *testing.T, h Harness) {
	e1, e2 := h.acquire(t, "comet-1"), h.acquire(t, "comet-2")
	old := h.register(t, "alice", entry("phone", "comet-1", e1, 1))
	h.register(t, "alice", entry("phone", "comet-2", e2, 2))
	for range 5 { // comet-2 dies.
		h.Advance(presence.RenewEvery)
		h.renew(t, "comet-1", e1)
	}
	got := h.register(t, "alice", old.Entry)
	if got.Stale || got.Replaced != nil {
		t.Fatalf("a dead entry stands in the way: %+v", got)
	}
	h.expect(t, "alice", old.Entry)
	e3 := h.acquire(t, "comet-3")
	h.Advance(presence.RenewEvery)
	h.Advance(presence.RenewEvery)
	h.renew(t, "comet-3", e3)
	h.Advance(presence.RenewEvery + h.Staleness) // Now comet-1 is dead too.
	if got := h.register(t, "alice", entry("phone", "comet-3", e3, 3)); got.Replaced != nil || got.Stale {
		t.Fatalf("a dead session is to be closed: %+v", got)
	}
}

func epochsRise(t *testing.T, h Harness) {
	last := uint64(0)
	for i := range 6 {
		epoch := h.acquire(t, "comet-1")
		if epoch <= last {
			t.Fatalf("epoch %d follows %d", epoch, last)
		}
		last = epoch
		switch i % 3 {
		case 1:
			if err := h.Release(t.Context(), "comet-1", epoch); err != nil {
				t.Fatal(err)
			}
		case 2:
			h.Advance(2 * presence.TTL)
		}
	}
}

func lostForGood(t *testing.T, h Harness) {
	epoch := h.acquire(t, "comet-1")
	h.register(t, "alice", entry("phone", "comet-1", epoch, 1))
	h.Advance(presence.TTL + h.Staleness)
	for range 2 {
		if err := h.Renew(t.Context(), "comet-1", epoch); !errors.Is(err, presence.ErrLost) {
			t.Fatalf("Renew = %v, want ErrLost", err)
		}
		h.expect(t, "alice")
	}
}

// wiped plays a loss of all data: it is noticed, and repaired from what the nodes remember.
func wiped(t *testing.T, h Harness) {
	before := incarnation(t, h.Registry)
	if again := incarnation(t, h.Other); again != before {
		t.Fatalf("two processes see the incarnations %q and %q", before, again)
	}
	if h.Wipe == nil {
		return
	}
	epoch := h.acquire(t, "comet-1")
	phone := h.register(t, "alice", entry("phone", "comet-1", epoch, 1))
	h.Wipe()
	after := incarnation(t, h.Registry)
	if after == before {
		t.Fatalf("all data is lost and the incarnation is still %q", before)
	}
	if again := incarnation(t, h.Other); again != after {
		t.Fatalf("after the loss two processes see the incarnations %q and %q", after, again)
	}
	h.expect(t, "alice")
	if err := h.Renew(t.Context(), "comet-1", epoch); !errors.Is(err, presence.ErrLost) {
		t.Fatalf("Renew after the loss = %v, want ErrLost", err)
	}
	again := h.acquire(t, "comet-1")
	if again <= epoch {
		t.Fatalf("after the loss epoch %d follows %d", again, epoch)
	}
	e := phone.Entry
	e.Epoch = again
	if got := h.register(t, "alice", e); got.Stale || got.Entry.Generation != phone.Entry.Generation {
		t.Fatalf("registered again: %+v", got)
	}
	h.expect(t, "alice", e)
	if young := h.register(t, "alice", entry("phone", "comet-1", again, 2)); young.Entry.Generation <= e.Generation {
		t.Fatalf("after the loss generation %d follows %d", young.Entry.Generation, e.Generation)
	}
}

func incarnation(t *testing.T, r presence.Registry) string {
	t.Helper()
	s, err := r.Incarnation(t.Context())
	if err != nil || s == "" {
		t.Fatalf("Incarnation = %q, %v", s, err)
	}
	return s
}
