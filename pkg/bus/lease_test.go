package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

func leases(t testing.TB, c *bus.Conn, ttl time.Duration) *bus.Leases {
	t.Helper()
	s, err := bus.OpenLeases(testContext(t), c, "leases", ttl, 1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func acquire(t testing.TB, s *bus.Leases, key, value string) *bus.Lease {
	t.Helper()
	l, err := s.Acquire(testContext(t), key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeaseHasOneHolder(t *testing.T) {
	s := leases(t, bustest.Connect(t, bustest.StartEmbedded(t)), time.Minute)
	ctx := testContext(t)
	before := time.Now()
	a := acquire(t, s, "p.0", "a")
	if a.Renewed.Before(before) || a.Renewed.After(time.Now()) {
		t.Fatalf("renewed at %v, before the call or after it", a.Renewed)
	}
	if _, err := s.Acquire(ctx, "p.0", []byte("b")); !errors.Is(err, bus.ErrHeld) {
		t.Fatalf("got %v, want ErrHeld", err)
	}
	acquire(t, s, "p.1", "b")
	held, err := s.List(ctx)
	if err != nil || len(held) != 2 || string(held["p.0"]) != "a" || string(held["p.1"]) != "b" {
		t.Fatalf("got %q, %v", held, err)
	}
	first := a.Renewed
	if err := s.Renew(ctx, a); err != nil || !a.Renewed.After(first) {
		t.Fatalf("renew: %v, renewed at %v", err, a.Renewed)
	}
	if err := s.Release(ctx, a); err != nil {
		t.Fatal(err)
	}
	b := acquire(t, s, "p.0", "b")
	if err := s.Renew(ctx, a); !errors.Is(err, bus.ErrGone) {
		t.Fatalf("renewing what another holds: got %v, want ErrGone", err)
	}
	if err := s.Release(ctx, a); !errors.Is(err, bus.ErrGone) {
		t.Fatalf("releasing what another holds: got %v, want ErrGone", err)
	}
	if v, err := s.Get(ctx, "p.0"); err != nil || string(v) != "b" {
		t.Fatalf("got %q, %v, want b", v, err)
	}
	_ = b
}

func TestLeaseRunsOutUnlessRenewed(t *testing.T) {
	const ttl = time.Second
	s := leases(t, bustest.Connect(t, bustest.StartEmbedded(t)), ttl)
	ctx := testContext(t)
	kept, left := acquire(t, s, "kept", "a"), acquire(t, s, "left", "a")
	bustest.Until(t, "the lease that is not renewed runs out", func() bool {
		if err := s.Renew(ctx, kept); err != nil {
			t.Fatal(err)
		}
		v, err := s.Get(ctx, "left")
		if err != nil {
			t.Fatal(err)
		}
		return v == nil
	})
	if lived := time.Since(left.Renewed); lived < ttl {
		t.Fatalf("ran out after %v", lived)
	}
	// Several times the first TTL: an update must not have lost it, and must not have kept the first.
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); <-time.After(ttl / 10) {
		if err := s.Renew(ctx, kept); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Until(t, "the lease runs out after its last renewal", func() bool {
		v, err := s.Get(ctx, "kept")
		return err == nil && v == nil
	})
	if err := s.Renew(ctx, kept); !errors.Is(err, bus.ErrGone) {
		t.Fatalf("got %v, want ErrGone", err)
	}
	acquire(t, s, "kept", "b")
}

// The answer to a renewal is lost: the holder's revision is old, but the lease is its own.
func TestLeaseIsKnownAgainAfterALostAnswer(t *testing.T) {
	s := leases(t, bustest.Connect(t, bustest.StartEmbedded(t)), time.Minute)
	ctx := testContext(t)
	l := acquire(t, s, "p.0", "a/1")
	stale, older := *l, *l
	if err := s.Renew(ctx, l); err != nil {
		t.Fatal(err)
	}
	if err := s.Renew(ctx, &stale); err != nil {
		t.Fatalf("renew with the revision of before: %v", err)
	}
	if err := s.Release(ctx, &older); err != nil {
		t.Fatalf("release with the revision of before: %v", err)
	}
	if err := s.Release(ctx, &stale); !errors.Is(err, bus.ErrGone) {
		t.Fatalf("released twice: got %v, want ErrGone", err)
	}
	acquire(t, s, "p.0", "a/1")
	again, err := s.Acquire(ctx, "p.0", []byte("a/1")) // the answer to the first Acquire was lost
	if err != nil || again.Renewed.IsZero() {
		t.Fatalf("got %+v, %v", again, err)
	}
	if _, err := s.Acquire(ctx, "p.0", []byte("a/2")); !errors.Is(err, bus.ErrHeld) {
		t.Fatalf("the same node, started again: got %v, want ErrHeld", err)
	}
}

func TestLeasesOpenedWithAnotherTTLAreRefused(t *testing.T) {
	c := bustest.Connect(t, bustest.StartEmbedded(t))
	leases(t, c, time.Minute)
	if _, err := bus.OpenLeases(testContext(t), c, "leases", time.Second, 1); err == nil {
		t.Fatal("opened")
	}
}

func TestWatchReportsHoldersReleasesAndExpiry(t *testing.T) {
	s := leases(t, bustest.Connect(t, bustest.StartEmbedded(t)), time.Second)
	ctx, cancel := context.WithCancel(testContext(t))
	acquire(t, s, "before", "a")
	var mu sync.Mutex
	var events []string
	done := make(chan error)
	go func() {
		done <- s.Watch(ctx, func(key string, value []byte) {
			mu.Lock()
			defer mu.Unlock()
			if value == nil {
				value = []byte("gone")
			}
			events = append(events, fmt.Sprintf("%s=%s", key, value))
		})
	}()
	saw := func(event string) {
		t.Helper()
		bustest.Until(t, event, func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range events {
				if e == event {
					return true
				}
			}
			return false
		})
	}
	saw("before=a")
	l := acquire(t, s, "after", "b")
	saw("after=b")
	if err := s.Renew(ctx, l); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(ctx, l); err != nil {
		t.Fatal(err)
	}
	saw("after=gone")
	saw("before=gone") // nobody renewed it
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if len(events) != 4 {
		t.Fatalf("got %v, want each once: a renewal is no change", events)
	}
}

// In an outage of all servers the leases run out and the watch is forgotten. Whoever takes a lease afterwards is seen all the same
// by one who watches again whenever a watch breaks.
func TestWatchOutlivesAnOutageInWhichEveryLeaseRanOut(t *testing.T) {
	cl := bustest.StartCluster(t, 3)
	const ttl = time.Second
	watching, err := bus.OpenLeases(testContext(t), cl.Connect(), "leases", ttl, 3)
	if err != nil {
		t.Fatal(err)
	}
	acquire(t, watching, "before", "a")
	seen := make(chan string, 100)
	ctx, cancel := context.WithCancel(testContext(t))
	var watches sync.WaitGroup
	watches.Go(func() {
		for ctx.Err() == nil {
			_ = watching.Watch(ctx, func(key string, value []byte) {
				if value != nil {
					seen <- key
				}
			})
		}
	})
	defer watches.Wait()
	defer cancel()
	until := func(key string) {
		t.Helper()
		for deadline := time.After(time.Minute); ; {
			select {
			case k := <-seen:
				if k == key {
					return
				}
			case <-deadline:
				t.Fatalf("nobody told of %s", key)
			}
		}
	}
	until("before")
	for i := range 3 {
		cl.Kill(i)
	}
	for i := range 3 {
		cl.Start(i)
	}
	// All that was held before must be seen to be gone first: only then is there nothing left to miss.
	other, err := bus.OpenLeases(testContext(t), cl.Connect(), "leases", ttl, 3)
	if err != nil {
		t.Fatal(err)
	}
	gone := time.After(4 * ttl)
	<-gone
	var held *bus.Lease
	bustest.Until(t, "a lease is taken again", func() bool {
		held, err = other.Acquire(ctx, "after", []byte("b"))
		return err == nil
	})
	watches.Go(func() { // Its holder renews it, as holders do; a watch that was forgotten hears nothing of that.
		for ctx.Err() == nil {
			_ = other.Renew(ctx, held)
			select {
			case <-ctx.Done():
			case <-time.After(ttl / 4):
			}
		}
	})
	until("after")
}
