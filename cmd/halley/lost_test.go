package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/lastknown"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// moody is presence that is slow, or gone, for a share of the questions.
type moody struct {
	presence.Registry
	slow, gone atomic.Int64 // of a hundred
}

func (m *moody) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	n := rand.Int64N(100)
	if n < m.slow.Load() {
		<-time.After(10 * time.Millisecond)
	}
	if n < m.gone.Load() {
		return nil, presence.ErrUnavailable
	}
	return m.Registry.Lookup(ctx, users, dst)
}

// Deliveries are lost behind the commit, for want of room and for want of presence, and no message follows that would show the gap.
// Each device is complete within seconds all the same, though it asks for nothing but when it is told to. (Losses on the way to nodes,
// and before their loops, are made in the tests of the link and of comet.)
func TestDevicesAreCompleteThoughPushesAreLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	mood := &moody{}
	w := startWire(t, seed, func(s *wireSettings) {
		s.presence = func(r presence.Registry) presence.Registry {
			mood.Registry = r
			return lastknown.New(mood, 1000)
		}
		s.logic.Partition.DeliveryParcels = 1
		s.comet.ResyncSpreadMs = 500
	})
	const users = 60
	names := make([]string, users)
	for i := range names {
		names[i] = fmt.Sprintf("user%03d", i)
	}
	w.group = protocol.Group("main", "owner", "w1")
	created := w.mustWrite(envelopev1.Command_COMMAND_CONVERSATION_CREATE, &conversationv1.CreateRequest{Name: "lost", Members: names})
	devices := make([]*wireDevice, users)
	for i, user := range names {
		w.intervals[user] = memberIntervals{{created, 0}}
		devices[i] = &wireDevice{w: w, user: user, name: "phone", pushed: map[uint64]bool{}, have: map[uint64]bool{}}
		devices[i].connect()
	}
	lost := func(name string, least float64) {
		t.Helper()
		before := w.counter(w.registry, name)
		stop := sync.OnceFunc(w.talk(8))
		defer stop()
		w.wait(name, func() error {
			if n := w.counter(w.registry, name) - before; n < least {
				return fmt.Errorf("%.0f", n)
			}
			return nil
		})
		stop()
	}
	complete := func() {
		t.Helper()
		w.acked.Lock()
		head := w.last
		w.acked.Unlock()
		for _, d := range devices {
			w.wait(fmt.Sprintf("%s, head %d", d.user, head), func() error { return d.lacks(head) })
		}
	}
	mood.slow.Store(30)
	lost("halley_logic_delivery_blocks_dropped_total", 20)
	complete()
	mood.slow.Store(0)
	mood.gone.Store(100)
	for _, d := range devices { // To another node, most of them: where they were last is no place to send to.
		d.disconnect()
		d.connect()
	}
	lost("halley_logic_presence_failures_total", 20)
	complete()
	resyncs, pushed := 0, 0
	for _, d := range devices {
		d.disconnect()
		resyncs += d.resyncs
		pushed += len(d.pushed)
	}
	t.Logf("%d pushed to %d devices, %d resyncs", pushed, users, resyncs)
}
