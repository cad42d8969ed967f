package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/halley-im/halley/pkg/bus"
)

// unheard carries out what it is asked, and loses its first answers. One lease is all it has.
type unheard struct {
	lost      int // answers still to be lost
	unsettled int // and after these, so many times another write is under way
	holds     string
}

func (u *unheard) TTL() time.Duration { return 30 * time.Second }

// answer is err, or nothing, which takes as long as the caller waits.
func (u *unheard) answer(ctx context.Context, err error) error {
	if u.lost > 0 {
		u.lost--
		<-ctx.Done()
		return ctx.Err()
	}
	if u.unsettled > 0 {
		u.unsettled--
		return fmt.Errorf("acquire: %w", bus.ErrUnsettled)
	}
	return err
}

func (u *unheard) Acquire(ctx context.Context, key string, value []byte) (*bus.Lease, error) {
	if u.holds != "" && u.holds != string(value) {
		return nil, u.answer(ctx, bus.ErrHeld)
	}
	u.holds = string(value)
	return &bus.Lease{Key: key, Value: value, Renewed: time.Now()}, u.answer(ctx, nil)
}

func (u *unheard) Renew(context.Context, *bus.Lease) error { return nil }

func (u *unheard) Release(ctx context.Context, l *bus.Lease) error {
	if u.holds != string(l.Value) {
		return u.answer(ctx, bus.ErrGone)
	}
	u.holds = ""
	return u.answer(ctx, nil)
}

// An answer that is lost costs an attempt, not the time in which a lease runs out.
func TestALostAnswerIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases, began := &unheard{lost: 1, unsettled: 3}, time.Now()
		r, err := acquire(t.Context(), leases, 0, "n1", slog.New(slog.DiscardHandler))
		if err != nil || leases.holds == "" {
			t.Fatalf("%v, held by %q", err, leases.holds)
		}
		leases.lost = 1
		r.release()
		if leases.holds != "" {
			t.Errorf("still held by %q", leases.holds)
		}
		if took := time.Since(began); took > 2*leaseTry {
			t.Errorf("it took %v", took)
		}
	})
}

func TestNobodyInsistsOnALeaseThatAnotherHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if _, err := acquire(t.Context(), &unheard{holds: "other"}, 0, "n1", slog.New(slog.DiscardHandler)); !errors.Is(err, bus.ErrHeld) {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// Where no answer comes at all, the doubt is told in time, and a process that ends is not held up.
func TestInsistingHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases, began := &unheard{lost: 1000}, time.Now()
		if _, err := acquire(t.Context(), leases, 0, "n1", slog.New(slog.DiscardHandler)); err == nil {
			t.Fatal("acquired without an answer")
		}
		if took := time.Since(began); took > leases.TTL()/4 {
			t.Errorf("the doubt was told after %v", took)
		}
		began = time.Now()
		(&reign{leases: leases, log: slog.New(slog.DiscardHandler), ttl: leases.TTL(), lease: new(bus.Lease)}).release()
		if took := time.Since(began); took > maxRelease {
			t.Errorf("gave up the release after %v", took)
		}
	})
}
