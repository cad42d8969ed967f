package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// diary notes what happens in which order, with the seconds since the start of the bubble.
type diary struct {
	mu    sync.Mutex
	begin time.Time
	lines []string
}

func newDiary() *diary { return &diary{begin: time.Now()} }

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf("%v ", time.Since(d.begin))+fmt.Sprintf(format, args...))
}

func (d *diary) want(t *testing.T, lines ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.lines, lines) {
		t.Errorf("happened:\n%s\nwanted:\n%s", strings.Join(d.lines, "\n"), strings.Join(lines, "\n"))
	}
}

// part is a component that gets ready after warm, and drains for drain.
func (d *diary) part(name string, warm, drain time.Duration) Component {
	ready := make(chan struct{})
	return Component{Name: name, Ready: Closed(ready), Drain: 5 * time.Second, Run: func(ctx context.Context) error {
		d.note("%s starts", name)
		time.Sleep(warm)
		close(ready)
		<-ctx.Done()
		time.Sleep(drain)
		d.note("%s ended", name)
		return nil
	}}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestStartsInOrderAndStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		r := New(Default(), quiet(), d.part("store", 2*time.Second, time.Second), d.part("logic", 3*time.Second, time.Second), d.part("comet", 0, 2*time.Second))
		if err := r.Check(t.Context()); err == nil {
			t.Error("ready before it was started")
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, func() { d.note("stop"); cancel() })
		err := r.Run(ctx, func() {
			d.note("ready")
			if err := r.Check(ctx); err != nil {
				t.Errorf("Check when ready: %v", err)
			}
		})
		if err != nil {
			t.Error(err)
		}
		if err := r.Check(t.Context()); err == nil || err.Error() != "draining" {
			t.Errorf("Check after the end: %v", err)
		}
		d.want(t, "0s store starts", "2s logic starts", "5s comet starts", "5s ready", "10s stop",
			"12s comet ended", "13s logic ended", "14s store ended")
	})
}

func TestFirstFailureStopsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		boom := errors.New("disk is gone")
		bad := Component{Name: "logic", Run: func(context.Context) error { time.Sleep(time.Second); return boom }}
		err := New(Default(), quiet(), d.part("store", 0, 0), bad, d.part("comet", 0, 0)).Run(t.Context(), func() { d.note("ready") })
		if !errors.Is(err, boom) || !strings.Contains(err.Error(), "logic: disk is gone") {
			t.Errorf("got %v", err)
		}
		d.want(t, "0s store starts", "0s comet starts", "0s ready", "1s comet ended", "1s store ended")
	})
}

func TestFailureDuringTheStartLeavesTheRestUnstarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		boom := errors.New("no quorum")
		bad := Component{Name: "logic", Ready: Closed(make(chan struct{})), Run: func(context.Context) error { time.Sleep(time.Second); return boom }}
		err := New(Default(), quiet(), d.part("store", 0, 0), bad, d.part("comet", 0, 0)).Run(t.Context(), func() { d.note("ready") })
		if !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
		d.want(t, "0s store starts", "1s store ended")
	})
}

func TestReturningUnaskedIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := Component{Name: "job", Run: func(context.Context) error { return nil }}
		if err := New(Default(), quiet(), done).Run(t.Context(), func() {}); !errors.Is(err, ErrReturned) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNeverReadyIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		err := New(Config{StartWithinMs: 7000}, quiet(), d.part("bus", time.Minute, 0)).Run(t.Context(), func() { d.note("ready") })
		if !errors.Is(err, ErrNotReady) || !errors.Is(err, ErrOverrun) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(d.begin); took != 12*time.Second {
			t.Errorf("gave up after %v, want 7 s to start and 5 s to stop", took)
		}
		time.Sleep(time.Minute) // It was left behind and ends in its own time.
	})
}

func TestOneThatHangsDoesNotKeepTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := New(Default(), quiet(), d.part("store", 0, 0), d.part("comet", 0, time.Minute)).Run(ctx, func() {})
		if !errors.Is(err, ErrOverrun) || !strings.Contains(err.Error(), "comet") {
			t.Errorf("got %v", err)
		}
		d.want(t, "0s store starts", "0s comet starts", "6s store ended")
		time.Sleep(time.Minute)
	})
}

func TestDrainDelayKeepsWorkingWhileNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		r := New(Config{StartWithinMs: 1000, DrainDelayMs: 4000}, quiet(), d.part("comet", 0, 0))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		time.AfterFunc(2*time.Second, func() { d.note("check: %v", r.Check(ctx)) })
		if err := r.Run(ctx, func() {}); err != nil {
			t.Error(err)
		}
		d.want(t, "0s comet starts", "2s check: draining", "5s comet ended")
	})
}

func TestStopDuringTheStartEndsWhatWasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		err := New(Default(), quiet(), d.part("store", 2*time.Second, 0), d.part("logic", 2*time.Second, 0), d.part("comet", 0, 0)).
			Run(ctx, func() { d.note("ready") })
		if err != nil {
			t.Errorf("stopping while starting is no failure: %v", err)
		}
		d.want(t, "0s store starts", "2s logic starts", "4s logic ended", "4s store ended")
	})
}

func TestErrorOfAStopIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("flush failed")
		c := Component{Name: "store", Run: func(ctx context.Context) error { <-ctx.Done(); return boom }}
		ctx, cancel := context.WithCancel(t.Context())
		if err := New(Default(), quiet(), c).Run(ctx, cancel); !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFirstSignalDrainsAndSecondForces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		forced := false
		ctx, stop := WithSignals(t.Context(), signals, func() { forced = true })
		synctest.Wait()
		if ctx.Err() != nil {
			t.Fatal("ended without a signal")
		}
		signals <- syscall.SIGTERM
		synctest.Wait()
		if ctx.Err() == nil || forced {
			t.Fatalf("after the first signal: ended %v, forced %v", ctx.Err(), forced)
		}
		signals <- syscall.SIGTERM
		synctest.Wait()
		if !forced {
			t.Error("the second signal did nothing")
		}
		stop()
		stop()
	})
}

func TestReadyMayBeACheckAndItsReasonIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		why := errors.New("2 of 4 partitions are served")
		after := func(d time.Duration) func() error {
			return func() error {
				if time.Since(begin) < d {
					return why
				}
				return nil
			}
		}
		wait := func(ctx context.Context) error { <-ctx.Done(); return nil }
		ctx, cancel := context.WithCancel(t.Context())
		first := Component{Name: "logic", Run: wait, Ready: Holds(after(3 * time.Second))}
		if err := New(Default(), quiet(), first).Run(ctx, cancel); err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		never := Component{Name: "logic", Run: wait, Ready: Holds(after(time.Hour))}
		if err := New(Default(), quiet(), never).Run(t.Context(), func() {}); !errors.Is(err, ErrNotReady) || !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
}
