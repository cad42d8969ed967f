package benchmarks_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/benchtest"
)

// broadcast has a server write messages to two groups of ten, and devices in processes hear them. done is what follows.
func broadcast(t *testing.T, faults benchtest.Faults, messages int, done func(ctx context.Context, h *benchmarks.Held) error) *benchmarks.Report {
	t.Helper()
	s := benchtest.Start(t, "ws", faults, verify(t))
	cfg := config(t, "ws", s)
	cfg.Processes = 3
	count, members := benchmarks.Groups(cfg.Connections, 10)
	if count != 2 || members != 10 {
		t.Fatalf("%d groups of %d", count, members)
	}
	b := benchmarks.Broadcast{Members: members, Messages: messages, Groups: []benchmarks.BroadcastGroup{
		{Conversation: "g:first", Head: 1}, {Conversation: "g:second", Head: 1},
	}}
	report, err := benchmarks.RunHeld(t.Context(), benchmarks.ConnConfig{Config: cfg}, func(ctx context.Context, h *benchmarks.Held) error {
		if up, err := h.Up(ctx); err != nil || up != int64(cfg.Connections) {
			t.Errorf("%d up, %v", up, err)
		}
		all := map[string][]string{}
		for n := range cfg.Connections {
			id := b.Groups[n/members].Conversation
			all[id] = append(all[id], cfg.User(n))
		}
		for id, users := range all {
			s.Write(id, users, "before it") // Nobody listens.
		}
		if err := h.Expect(ctx, b); err != nil {
			return err
		}
		for n := range messages {
			for id, users := range all {
				s.Write(id, users, benchmarks.BroadcastText(n, time.Now()))
			}
		}
		return done(ctx, h)
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if report.Connections != int64(cfg.Connections) || report.Failed() {
		t.Errorf("%d held, %v", report.Connections, report.Err())
	}
	return report
}

// until asks until it is as wanted.
func until(t *testing.T, ctx context.Context, h *benchmarks.Held, pull bool, good func(benchmarks.Heard) bool) (heard benchmarks.Heard) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		heard, err := h.Heard(ctx, pull)
		if err != nil {
			t.Fatal(err)
		}
		if good(heard) || time.Now().After(end) {
			return heard
		}
	}
}

func TestABroadcastIsHeardByAll(t *testing.T) {
	t.Parallel()
	const messages = 5
	broadcast(t, benchtest.Faults{}, messages, func(ctx context.Context, h *benchmarks.Held) error {
		heard := until(t, ctx, h, false, func(x benchmarks.Heard) bool { return x.Complete == 20 })
		if heard.Devices != 20 || heard.Complete != 20 || heard.Records != 20*messages || heard.Pulled+heard.Redelivered+heard.Strays+heard.Resyncs != 0 {
			t.Errorf("%+v", heard)
		}
		if n := heard.Deliver.TotalCount(); n != 20*messages || heard.Last.IsZero() {
			t.Errorf("%d latencies, last %v", n, heard.Last)
		}
		return nil
	})
}

func TestWhatABroadcastLacksIsSeenAndAskedFor(t *testing.T) {
	t.Parallel()
	const messages = 6
	broadcast(t, benchtest.Faults{DropPush: 7, RepeatPush: 5, Misroute: 11}, messages, func(ctx context.Context, h *benchmarks.Held) error {
		missing := until(t, ctx, h, false, func(x benchmarks.Heard) bool { return x.Redelivered > 0 && x.Records > 80 })
		if missing.Complete == 20 || missing.Records >= 20*messages {
			t.Errorf("pushes were dropped and nobody lacks anything: %+v", missing)
		}
		whole := until(t, ctx, h, true, func(x benchmarks.Heard) bool { return x.Complete == 20 })
		if whole.Complete != 20 || whole.Records != 20*messages || whole.Pulled == 0 || whole.Redelivered == 0 || whole.Strays == 0 {
			t.Errorf("%+v", whole)
		}
		return nil
	})
}

func TestWhatIsDoneMeanwhileMayFail(t *testing.T) {
	t.Parallel()
	s := benchtest.Start(t, "tcp", benchtest.Faults{}, verify(t))
	errMine := errors.New("mine")
	_, err := benchmarks.RunHeld(t.Context(), benchmarks.ConnConfig{Config: config(t, "tcp", s)},
		func(ctx context.Context, h *benchmarks.Held) error {
			if err := h.Expect(ctx, benchmarks.Broadcast{Members: 1, Messages: 33}); err == nil {
				t.Error("33 messages fit into 32 bits")
			}
			return errMine
		}, io.Discard)
	if !errors.Is(err, errMine) {
		t.Error(err)
	}
}
