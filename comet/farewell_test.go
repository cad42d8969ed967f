package comet_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// crowd connects devices that report how they were closed.
func crowd(t *testing.T, n *comettest.Node, size int) <-chan protocol.CloseCode {
	closed := make(chan protocol.CloseCode, size)
	for i := range size {
		c := n.Connect(t, comettest.TCP(), fmt.Sprintf("main/user%d/phone", i))
		go func() {
			code := protocol.CloseCode(0)
			for {
				f, err := c.TryRecv()
				if err != nil {
					_ = c.Close()
					closed <- code
					return
				}
				if f.Command == 5 {
					var closing envelopev1.Close
					c.OpenBody(f, &closing)
					code = protocol.CloseCode(closing.Code)
				}
			}
		}()
	}
	return closed
}

func TestAnOperatorsDrainEmptiesTheNodeAndUndrainTakesItBack(t *testing.T) {
	cfg := comettest.Config()
	cfg.DrainRate = 100
	n := comettest.Start(t, cfg)
	const sessions = 30
	closed := crowd(t, n, sessions)
	n.Drain()
	if n.Ready() == nil {
		t.Error("ready while draining")
	}
	n.Drain() // asking again changes nothing
	for range sessions {
		if code := <-closed; code != protocol.CloseDraining {
			t.Errorf("closed with %d", code)
		}
	}
	comettest.Eventually(t, "all are gone", func() bool { return n.Pacing().Connections == 0 })
	if p := n.Pacing(); !p.Draining || p.Rate != 100 {
		t.Errorf("after the drain: %+v", p)
	}
	late := n.Dial(t, comettest.TCP())
	late.Send(connectFrame(late, "main/late/phone"))
	wantClose(t, late, protocol.CloseDraining)
	if err := n.Undrain(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(); err != nil {
		t.Errorf("after undrain: %v", err)
	}
	n.Connect(t, comettest.TCP(), "main/late/phone").Ping()
}

func TestUndrainKeepsTheSessionsThatAreLeft(t *testing.T) {
	cfg := comettest.Config()
	cfg.DrainRate = 2
	n := comettest.Start(t, cfg)
	const sessions = 40
	closed := crowd(t, n, sessions)
	n.Drain()
	<-closed
	if err := n.Undrain(); err != nil {
		t.Fatal(err)
	}
	n.Connect(t, comettest.TCP(), "main/back/phone").Ping()
	gone := 1
	for len(closed) > 0 {
		<-closed
		gone++
	}
	if gone > sessions/2 {
		t.Errorf("%d of %d sessions were closed before the undrain", gone, sessions)
	}
	settled := n.Metric(t, "halley_comet_disconnects_total", "code=draining")
	n.Connect(t, comettest.TCP(), "main/user1/tablet").Ping()
	ticks := n.Ticks()
	comettest.Eventually(t, "several ticks pass", func() bool { return n.Ticks() > ticks+30 })
	if got := n.Metric(t, "halley_comet_disconnects_total", "code=draining"); got > settled+1 {
		t.Errorf("the drain goes on after the undrain: %v, then %v closed", settled, got)
	}
}

func TestSessionsOfADrainingNodeStillResync(t *testing.T) {
	cfg := comettest.Config()
	cfg.DrainRate, cfg.ResyncSpreadMs = 1, 0
	n := comettest.Start(t, cfg)
	clients := make([]*comettest.Client, 20)
	for i := range clients {
		clients[i] = n.Connect(t, comettest.TCP(), fmt.Sprintf("main/user%d/phone", i))
	}
	n.Drain()
	n.Lost()
	comettest.Eventually(t, "those who are left are told", func() bool { return n.Metric(t, "halley_comet_resyncs_total") >= 10 })
}

func TestRebalancingClosesAsManyAsAskedAndLetsThemComeBack(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	const sessions, share = 60, 23
	closed := crowd(t, n, sessions)
	n.Rebalance(share)
	for range share {
		if code := <-closed; code != protocol.CloseRebalanced {
			t.Fatalf("closed with %d", code)
		}
	}
	comettest.Eventually(t, "it is over", func() bool {
		p := n.Pacing()
		return p.Moving == 0 && p.Connections == sessions-share
	})
	if err := n.Ready(); err != nil {
		t.Errorf("a node that rebalances takes new connections: %v", err)
	}
	back := n.Connect(t, comettest.TCP(), "main/back/phone")
	ticks := n.Ticks()
	comettest.Eventually(t, "several ticks pass", func() bool { return n.Ticks() > ticks+5 })
	back.Ping()
	if got := n.Metric(t, "halley_comet_disconnects_total", "code=rebalanced"); got != share {
		t.Errorf("%v sessions were moved, want %d", got, share)
	}
}

func TestRebalancingMoreThanThereAreEnds(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Rebalance(5)
	if p := n.Pacing(); p.Moving != 0 {
		t.Errorf("nobody is there to be moved: %+v", p)
	}
	closed := crowd(t, n, 8)
	n.Rebalance(1000)
	for range 8 {
		<-closed
	}
	comettest.Eventually(t, "it is over", func() bool { return n.Pacing().Moving == 0 })
	n.Connect(t, comettest.TCP(), "main/late/phone").Ping()
}

func TestAnEndingProcessIsNotTakenBack(t *testing.T) {
	cfg := comettest.Config()
	cfg.DrainNoticeMs = 500
	n := comettest.Start(t, cfg)
	n.Cancel()
	comettest.Eventually(t, "the node is not ready", func() bool { return n.Ready() != nil })
	if err := n.Undrain(); !errors.Is(err, comet.ErrLeaving) {
		t.Errorf("undrain: %v", err)
	}
	if n.Ready() == nil {
		t.Error("ready again")
	}
}

func TestSessionsDoNotGrowOlderThanAllowed(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		cfg := comettest.Config()
		cfg.MaxConnectionAgeMs = 1000
		n := comettest.Start(t, cfg)
		c := n.Connect(t, w, "main/alice/phone")
		c.Ping()
		if closing := wantClose(t, c, protocol.CloseRebalanced); closing.RetryAfterMs > 1000 {
			t.Errorf("come back after %d ms", closing.RetryAfterMs)
		}
		n.Connect(t, w, "main/alice/phone").Ping()
	})
}
