package partition

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/lastknown"
	"github.com/halley-im/halley/pkg/presence/memory"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// flaky is presence that can be taken away.
type flaky struct {
	presence.Registry
	down bool
}

func (f *flaky) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	if f.down {
		return nil, presence.ErrUnavailable
	}
	return f.Registry.Lookup(ctx, users, dst)
}

// counted is a sender that counts.
type counted struct {
	mu         sync.Mutex
	deliveries int
	skips      int
}

func (c *counted) Send(_ string, b *link.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deliveries += len(b.Deliveries)
}

func (c *counted) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skips++
}

func (c *counted) want(t *testing.T, deliveries, skips int, when string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deliveries != deliveries || c.skips != skips {
		t.Fatalf("%s: %d deliveries and %d skips, want %d and %d", when, c.deliveries, c.skips, deliveries, skips)
	}
}

// While presence does not answer, who was known gets pushes as before; all are told every few seconds to compare heads, and once
// more when it is back.
func TestDeliveriesGoOnWithoutPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := &flaky{Registry: memory.New(time.Now)}
		ctx := t.Context()
		epoch, err := behind.Acquire(ctx, "comet-1")
		if err != nil {
			t.Fatal(err)
		}
		err = behind.Register(ctx, []presence.Registration{{
			User:  presence.User{App: "a", User: "alice"},
			Entry: presence.Entry{Device: "phone", Node: "comet-1", Epoch: epoch, Conn: 1, Codec: link.CodecProto},
		}})
		if err != nil {
			t.Fatal(err)
		}
		sender := &counted{}
		metrics, lines := prometheus.NewRegistry(), &observetest.Lines{}
		s := newStage(New(0, 1, Default(), Deps{
			Presence: lastknown.New(behind, 10), Sender: sender, Logger: lines.Logger(), Metrics: NewMetrics(metrics),
		}))
		seq := uint64(0)
		deliver := func() {
			seq++
			s.deliver(&parcel{deliveries: []delivery{{
				app: "a", conversation: "d:alice:bob", users: []string{"alice", "bob"},
				record: &logv1.Record{App: "a", Conversation: "d:alice:bob", Seq: seq},
			}}})
		}
		deliver()
		sender.want(t, 1, 0, "while presence answers")
		behind.down = true
		deliver()
		deliver()
		sender.want(t, 3, 1, "when it has stopped")
		time.Sleep(pollEvery)
		deliver()
		sender.want(t, 4, 2, "a while later")
		if n := observetest.Metric(t, metrics, "halley_logic_presence_failures_total"); n != 3 {
			t.Errorf("%v failures are counted, want 3", n)
		}
		if !lines.Have("level=WARN", "presence look-up failed; nodes resync", presence.ErrUnavailable.Error()) {
			t.Error("no log line names the cause")
		}
		behind.down = false
		deliver()
		deliver()
		sender.want(t, 6, 3, "when it is back")
		if !lines.Have("presence answers again") {
			t.Error("the log does not say that presence is back")
		}
	})
}

// Who has moved while presence does not answer gets nothing, and no later message shows it: nodes are told all the same.
func TestTheLastMessageWithoutPresenceIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := &flaky{Registry: memory.New(time.Now), down: true}
		sender := &counted{}
		s := newStage(New(0, 1, Default(), Deps{
			Presence: lastknown.New(behind, 10), Sender: sender, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
		}))
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.run()
		}()
		for seq := range uint64(2) {
			s.put(parcel{deliveries: []delivery{{
				app: "a", conversation: "d:alice:bob", users: []string{"alice"},
				record: &logv1.Record{App: "a", Conversation: "d:alice:bob", Seq: seq + 1},
			}}})
		}
		synctest.Wait()
		sender.want(t, 0, 1, "at the first failure")
		time.Sleep(10 * pollEvery)
		synctest.Wait()
		sender.want(t, 0, 2, "after the last message")
		close(s.parcels)
		<-done
	})
}
