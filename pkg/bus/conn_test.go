package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

func subscribe(t testing.TB, c *bus.Conn, subject string, queue int, fn func(bus.Msg)) *bus.Subscription {
	t.Helper()
	s, err := c.Subscribe(subject, queue, fn)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPublishArrivesInOrderAndCloseDrains(t *testing.T) {
	e := bustest.StartEmbedded(t)
	from, to := bustest.Connect(t, e), bustest.Connect(t, e)
	var got atomic.Int64
	sub := subscribe(t, to, "a.*", 10_000, func(m bus.Msg) {
		if want := fmt.Sprint(got.Add(1)); string(m.Data) != want || m.Subject != "a.b" || m.NoResponders {
			t.Errorf("got %+v, want %s", m, want)
		}
	})
	ctx := testContext(t)
	if err := to.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 1000; i++ {
		if err := from.Publish("a.b", "", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(from.Flush(ctx), to.Flush(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	if got.Load() != 1000 {
		t.Fatalf("%d messages were seen before Close returned, want 1000", got.Load())
	}
}

func TestNobodyThereComesBackToTheReplySubject(t *testing.T) {
	c := bustest.Connect(t, bustest.StartEmbedded(t))
	back := make(chan bus.Msg, 1)
	sub := subscribe(t, c, "comet.n1.>", 10, func(m bus.Msg) { back <- m })
	defer func() { _ = sub.Close() }()
	if err := c.Publish("logic.p.7", "comet.n1.7", []byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-back:
		if !m.NoResponders || m.Subject != "comet.n1.7" {
			t.Fatalf("got %+v", m)
		}
	case <-time.After(bustest.Wait):
		t.Fatal("nothing came back")
	}
	if _, err := c.Request(testContext(t), "logic.s.7", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Fatalf("got %v, want ErrNoResponders", err)
	}
}

func TestRequestIsAnswered(t *testing.T) {
	c := bustest.Connect(t, bustest.StartEmbedded(t))
	sub := subscribe(t, c, "echo", 10, func(m bus.Msg) {
		if err := c.Publish(m.Reply, "", append(m.Data, '!')); err != nil {
			t.Error(err)
		}
	})
	defer func() { _ = sub.Close() }()
	got, err := c.Request(testContext(t), "echo", []byte("hello"))
	if err != nil || string(got) != "hello!" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestFullQueueDropsCountsAndReports(t *testing.T) {
	e := bustest.StartEmbedded(t)
	var reported atomic.Int64
	c := bustest.Open(t, bus.Config{Embedded: e, OnDrop: func(subject string, n int) {
		if subject == "slow" {
			reported.Store(int64(n))
		}
	}})
	release := make(chan struct{})
	sub := subscribe(t, c, "slow", 5, func(bus.Msg) { <-release })
	for range 50 {
		if err := c.Publish("slow", "", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Until(t, "drops are counted", func() bool { return sub.Dropped() >= 40 })
	bustest.Until(t, "drops are reported", func() bool { return reported.Load() > 0 })
	close(release)
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPayloadBeyondTheLimitIsRefused(t *testing.T) {
	c := bustest.Logs(t, 1)
	big := make([]byte, c.MaxPayload()+1)
	if err := c.Publish("x", "", big); !errors.Is(err, bus.ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
	if _, err := bustest.OpenLog(t, c, 0).Append(testContext(t), big, false, 0); !errors.Is(err, bus.ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := bus.Connect(ctx, bus.Config{URLs: []string{"nats://127.0.0.1:1"}}, bustest.Log(t))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if _, err := bus.Connect(ctx, bus.Config{}, bustest.Log(t)); err == nil {
		t.Fatal("connected to nothing")
	}
}
