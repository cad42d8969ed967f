package comet_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func record(t *testing.T, w comettest.Wire, id uint64) []byte {
	t.Helper()
	f := &envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Conversation: "g:x", Since: id, Body: []byte(`{}`)}
	data, err := protocol.EncodeFrame(w.Codec == link.CodecJSON, f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestABurstArrivesInOrderAtEverySession(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		const sessions, frames, batches = 20, 50, 4
		clients := make([]*comettest.Client, sessions)
		conns := make([]uint64, sessions)
		for i := range clients {
			clients[i] = n.Connect(t, w, fmt.Sprintf("main/user%d/phone", i))
			e, _ := n.Presence.Entry("main", fmt.Sprintf("user%d", i), "phone")
			conns[i] = e.Conn
		}
		id := uint64(0)
		for range batches {
			var b link.Batch
			for range frames {
				id++
				frame := record(t, w, id)
				for _, conn := range conns {
					b.Deliveries = append(b.Deliveries, link.Delivery{Conn: conn, Frame: frame})
				}
			}
			n.Deliver(&b)
		}
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				for want := range uint64(frames * batches) {
					f, err := c.TryRecv()
					if err != nil || f.Since != want+1 {
						t.Errorf("session %d: %v %v, want %d", i, f, err, want+1)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestALowerEpochIsNotHeard(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	w := comettest.TCP()
	c := n.Connect(t, w, "main/alice/phone")
	e, _ := n.Presence.Entry("main", "alice", "phone")
	deliver := func(partition int, epoch, id uint64) {
		n.Deliver(&link.Batch{Partition: partition, Epoch: epoch, Deliveries: []link.Delivery{{Conn: e.Conn, Frame: record(t, w, id)}}})
	}
	deliver(3, 7, 1)
	deliver(3, 6, 2) // the old owner, too late
	deliver(4, 6, 3) // another partition
	deliver(3, 0, 4) // nobody's word about a partition
	deliver(3, 8, 5)
	for _, want := range []uint64{1, 3, 4, 5} {
		if f := c.Recv(); f.Since != want {
			t.Fatalf("got %d, want %d", f.Since, want)
		}
	}
	if got := n.Metric(t, "halley_comet_deliveries_stale_total"); got != 1 {
		t.Errorf("stale: %v", got)
	}
}

func TestADeliveryForAnotherGenerationOrSessionFindsNobody(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	w := comettest.TCP()
	c := n.Connect(t, w, "main/alice/phone")
	e, _ := n.Presence.Entry("main", "alice", "phone")
	n.Deliver(&link.Batch{Deliveries: []link.Delivery{
		{Conn: e.Conn, Close: protocol.CloseKicked, Generation: e.Generation + 1},
		{Conn: e.Conn ^ 1<<30, Frame: record(t, w, 1)}, // an earlier session of the slot
		{Conn: e.Conn ^ 0xFFFF, Frame: record(t, w, 2)},
		{Conn: ^uint64(0), Frame: record(t, w, 3)},
		{Conn: e.Conn, Frame: record(t, w, 4), Generation: e.Generation},
	}})
	if f := c.Recv(); f.Since != 4 {
		t.Fatalf("got %v", f)
	}
	c.Ping()
}

func TestADeliveryMayCloseAfterItsFrame(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		c := n.Connect(t, w, "main/alice/phone")
		e, _ := n.Presence.Entry("main", "alice", "phone")
		n.Deliver(&link.Batch{Deliveries: []link.Delivery{
			{Conn: e.Conn, Frame: record(t, w, 1)},
			{Conn: e.Conn, Frame: record(t, w, 2), Close: protocol.CloseKicked, Generation: e.Generation},
			{Conn: e.Conn, Frame: record(t, w, 3)},
		}})
		for want := range uint64(2) {
			if f := c.Recv(); f.Since != want+1 {
				t.Fatalf("got %v", f)
			}
		}
		wantClose(t, c, protocol.CloseKicked)
		comettest.Eventually(t, "presence knows", func() bool { return n.Presence.Len() == 0 })
	})
}

func TestBeyondTheBoundOfALoopSessionsResync(t *testing.T) {
	cfg := comettest.Config()
	cfg.PendingFrames = 1024
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	c := n.Connect(t, w, "main/alice/phone")
	e, _ := n.Presence.Entry("main", "alice", "phone")
	b := link.Batch{Deliveries: make([]link.Delivery, 3000)}
	for i := range b.Deliveries {
		b.Deliveries[i] = link.Delivery{Conn: e.Conn, Frame: record(t, w, uint64(i+1))}
	}
	n.Deliver(&b)
	for want := range uint64(1024) {
		if f := c.Recv(); f.Since != want+1 {
			t.Fatalf("got %v, want %d", f, want+1)
		}
	}
	if f := c.Recv(); f.Command != envelopev1.Command_COMMAND_RESYNC {
		t.Fatalf("got %v", f)
	}
	if got := n.Metric(t, "halley_comet_deliveries_dropped_total"); got != 3000-1024 {
		t.Errorf("dropped: %v", got)
	}
}

func TestAfterALossAllSessionsResyncSpread(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		cfg := comettest.Config()
		cfg.ResyncSpreadMs = 500
		n := comettest.Start(t, cfg)
		delays := make(map[uint32]bool)
		var clients []*comettest.Client
		for i := range 20 {
			clients = append(clients, n.Connect(t, w, fmt.Sprintf("main/user%d/phone", i)))
		}
		n.Lost()
		for _, c := range clients {
			f := c.Recv()
			var r envelopev1.Resync
			c.OpenBody(f, &r)
			if f.Command != envelopev1.Command_COMMAND_RESYNC || f.RequestId != 0 || r.DelayMs > 500 {
				t.Fatalf("got %v %v", f, &r)
			}
			delays[r.DelayMs] = true
		}
		if len(delays) < 10 {
			t.Errorf("only %d different delays for 20 sessions", len(delays))
		}
	})
}

func TestWhomALossDoesNotConcernHearsNothingOfIt(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		phone, pad := n.Connect(t, w, "main/alice/phone"), n.Connect(t, w, "main/alice/pad")
		bob, other := n.Connect(t, w, "main/bob/phone"), n.Connect(t, w, "other/alice/phone")
		before := n.Router.Attaches.Load()
		for range 2 { // Twice at once is one word to each.
			users := link.Users{}
			users.Add("main", "alice")
			users.Add("main", "nobody")
			n.LostTo(users)
		}
		wantResync(t, phone)
		wantResync(t, pad)
		for _, c := range []*comettest.Client{phone, pad, bob, other} {
			c.Ping()
		}
		if asked := n.Router.Attaches.Load() - before; asked != 0 {
			t.Errorf("%d sessions ask for their rooms", asked)
		}
		// As many sets as a node may have waiting, and more.
		for range 1000 {
			n.LostTo(link.Users{})
		}
		wantResync(t, bob)
	})
}

// Those who ask again are as many as are answered, as the walk's are: each second without an answer has half as many ask.
func TestThoseWhoGetNoAnswerDoNotAskTogether(t *testing.T) {
	cfg := comettest.Config()
	cfg.ResyncSpreadMs, cfg.Loops = 0, 1
	n := comettest.Start(t, cfg)
	var clients []*comettest.Client
	for i := range 400 { // As they connect the window grows to twice its first.
		clients = append(clients, n.Connect(t, comettest.TCP(), fmt.Sprintf("main/user%d/phone", i)))
	}
	n.Router.Unattached.Store(true)
	before, seconds := n.Router.Attaches.Load(), int64(7)
	n.Lost()
	<-time.After(time.Duration(seconds) * time.Second)
	if asked := n.Router.Attaches.Load() - before; asked < 64 || asked > 350 {
		t.Errorf("%d questions in %d s without an answer", asked, seconds)
	}
	n.Router.Unattached.Store(false)
	for _, c := range clients {
		if f := c.Recv(); f.Command != envelopev1.Command_COMMAND_RESYNC {
			t.Fatalf("got %v", f)
		}
	}
	comettest.Eventually(t, "all are answered", func() bool { return n.Router.Attaches.Load()-before > 400 })
}

// The owners of users' logs may be able to answer few of those who ask: the walk waits for them, and all get their turn.
func TestAWalkAsksNoMoreThanIsAnswered(t *testing.T) {
	cfg := comettest.Config()
	cfg.ResyncSpreadMs, cfg.Loops = 0, 1
	n := comettest.Start(t, cfg)
	var clients []*comettest.Client
	for i := range 150 { // Whose own questions, as they connect, have the window grow from 64 to 81.
		clients = append(clients, n.Connect(t, comettest.TCP(), fmt.Sprintf("main/user%d/phone", i)))
	}
	n.Router.Unattached.Store(true)
	before, lost := n.Router.Attaches.Load(), time.Now()
	n.Lost()
	comettest.Eventually(t, "some are asked for", func() bool { return n.Router.Attaches.Load()-before >= 64 })
	time.Sleep(300 * time.Millisecond)
	if asked := n.Router.Attaches.Load() - before; time.Since(lost) < 900*time.Millisecond && asked >= 100 {
		t.Errorf("%d sessions are asked for while there is no answer", asked)
	}
	n.Router.Unattached.Store(false)
	for _, c := range clients {
		if f := c.Recv(); f.Command != envelopev1.Command_COMMAND_RESYNC {
			t.Fatalf("got %v", f)
		}
	}
}
