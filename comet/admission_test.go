package comet_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// countingAuth counts the tokens that it is asked to verify.
type countingAuth struct{ asked *atomic.Int64 }

// Verify implements comet.Authenticator.
func (a countingAuth) Verify(token string) (comet.Identity, *protocol.Error) {
	a.asked.Add(1)
	return comettest.Auth{}.Verify(token)
}

func TestAFloodFromOneAddressIsRefusedAndLeavesNothingBehind(t *testing.T) {
	cfg := comettest.Config()
	cfg.ConnectionsPerAddress = 5
	var asked atomic.Int64
	n := comettest.StartWith(t, cfg, comettest.NewPresence(), countingAuth{&asked})
	w := comettest.TCP()
	var inside []*comettest.Client
	for i := range 5 {
		inside = append(inside, n.Connect(t, w, fmt.Sprintf("main/user%d/phone", i)))
	}
	const flood = 600 // more than are refused politely
	var wg sync.WaitGroup
	for i := range flood {
		wg.Go(func() {
			c, err := n.TryDial(t, w)
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := c.Write(c.Bytes(connectFrame(c, fmt.Sprintf("main/flood%d/phone", i)))); err != nil {
				return // refused before it spoke
			}
			if f, err := c.TryRecv(); err == nil && f.Command != 5 {
				t.Errorf("the flood got in: %v", f)
			}
		})
	}
	// Others get in meanwhile.
	other := n.DialFrom(t, w, "127.0.0.2")
	if other.Hello("main/other/phone") == nil {
		t.Error("nobody else gets in")
	}
	wg.Wait()
	for _, c := range inside {
		c.Ping() // those who were there notice nothing
	}
	if got := n.Metric(t, "halley_comet_accepts_total", "result=address"); got != flood {
		t.Errorf("counted %v refusals of %d", got, flood)
	}
	if asked.Load() != 6 {
		t.Errorf("%d tokens were verified; those of the flood must not be", asked.Load())
	}
	for _, c := range append(inside, other) {
		_ = c.Close()
	}
	comettest.Eventually(t, "nothing is left", func() bool {
		return n.Addresses() == 0 && n.Refusals() == 0 && n.Metric(t, "halley_comet_connections") == 0 && n.Presence.Len() == 0
	})
	n.Connect(t, w, "main/user0/phone").Ping()
}

func TestARefusalForTheAddressSaysSoAndWhenToComeBack(t *testing.T) {
	cfg := comettest.Config()
	cfg.ConnectionsPerAddress = 1
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	n.Connect(t, w, "main/alice/phone")
	c := n.Dial(t, w)
	c.Send(connectFrame(c, "main/bob/phone"))
	if closing := wantClose(t, c, protocol.CloseRateLimited); closing.RetryAfterMs < 2000 {
		t.Errorf("come back after %d ms", closing.RetryAfterMs)
	}
	_, err := n.TryDial(t, comettest.WebSocket(link.CodecJSON))
	if err == nil || err.Error() != "opening refused: HTTP/1.1 429 Too Many Requests\r\n" {
		t.Errorf("websocket: %v", err)
	}
}

func TestConnectionsBeyondTheAcceptRateAreToldToComeLater(t *testing.T) {
	cfg := comettest.Config()
	cfg.AcceptRate, cfg.AcceptBurst = 1, 3
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	delays, refused := make(map[uint32]bool), 0
	for i := range 20 {
		c := n.Dial(t, w)
		c.Send(connectFrame(c, fmt.Sprintf("main/user%d/phone", i)))
		f := c.Recv()
		if f.Command != 5 {
			continue
		}
		refused++
		var closing envelopev1.Close
		c.OpenBody(f, &closing)
		if closing.Code != uint32(protocol.CloseOverloaded) || closing.RetryAfterMs < 2000 {
			t.Errorf("refused with %v", &closing)
		}
		delays[closing.RetryAfterMs] = true
	}
	if refused == 0 || refused > 17 || len(delays) < refused/2 {
		t.Errorf("%d of 20 refused, with %d different delays; the first three come in", refused, len(delays))
	}
	if got := n.Metric(t, "halley_comet_accepts_total", "result=accept_rate"); got != float64(refused) {
		t.Errorf("counted %v of %d", got, refused)
	}
	if got := n.Metric(t, "halley_comet_connections"); got != float64(20-refused) {
		t.Errorf("%v connections", got)
	}
}

func TestGuardsKeepNewConnectionsOutAndLeaveTheOthersAlone(t *testing.T) {
	for _, c := range []struct {
		result string
		short  func(live, limit uint64, cpu float64) (uint64, uint64, float64)
	}{
		{"heap", func(_, limit uint64, cpu float64) (uint64, uint64, float64) { return limit, limit, cpu }},
		{"cpu", func(live, limit uint64, _ float64) (uint64, uint64, float64) { return live, limit, 1 }},
	} {
		t.Run(c.result, func(t *testing.T) {
			cfg := comettest.Config()
			cfg.CPUGuardPercent = 98
			var short atomic.Bool
			n := comettest.StartWith(t, cfg, comettest.NewPresence(), comettest.Auth{}, func(node *comet.Comet) {
				node.SetUsage(func() (uint64, uint64, float64) {
					if short.Load() {
						return c.short(0, 1000, 0)
					}
					return 0, 1000, 0
				})
			})
			w := comettest.TCP()
			alice := n.Connect(t, w, "main/alice/phone")
			short.Store(true)
			comettest.Eventually(t, "the node is not ready", func() bool { return n.Ready() != nil })
			late := n.Dial(t, w)
			late.Send(connectFrame(late, "main/bob/phone"))
			wantClose(t, late, protocol.CloseOverloaded)
			if got := n.Metric(t, "halley_comet_accepts_total", "result="+c.result); got != 1 {
				t.Errorf("counted %v", got)
			}
			alice.Ping()
			short.Store(false)
			comettest.Eventually(t, "the node is ready again", func() bool { return n.Ready() == nil })
			n.Connect(t, w, "main/bob/phone").Ping()
		})
	}
}

// heldAuth answers once it is let go on.
type heldAuth struct{ held <-chan struct{} }

// Verify implements comet.Authenticator.
func (a heldAuth) Verify(token string) (comet.Identity, *protocol.Error) {
	<-a.held
	return comettest.Auth{}.Verify(token)
}

func TestNobodyIsTakenOnWhileConnectsWaitTooLong(t *testing.T) {
	cfg := comettest.Config()
	cfg.Loops, cfg.ConnectWaitMs = 1, 100
	held := make(chan struct{})
	n := comettest.StartWith(t, cfg, comettest.NewPresence(), heldAuth{held})
	w := comettest.TCP()
	waiting := n.Dial(t, w)
	waiting.Send(connectFrame(waiting, "main/alice/phone"))
	comettest.Eventually(t, "another is refused, and told when to come back", func() bool {
		c := n.Dial(t, w)
		defer c.Close()
		c.Send(connectFrame(c, "main/bob/phone"))
		if n.Metric(t, "halley_comet_accepts_total", "result=behind") == 0 {
			return false
		}
		closing := wantClose(t, c, protocol.CloseOverloaded)
		if closing.RetryAfterMs < 2000 || closing.RetryAfterMs > 60_000 {
			t.Errorf("come back after %d ms", closing.RetryAfterMs)
		}
		return true
	})
	_, err := n.TryDial(t, comettest.WebSocket(link.CodecProto))
	if err == nil || err.Error() != "opening refused: HTTP/1.1 503 Service Unavailable\r\n" {
		t.Errorf("websocket: %v", err)
	}
	close(held)
	if f := waiting.Recv(); f.Error != nil || f.Command != envelopev1.Command_COMMAND_CONNECT {
		t.Errorf("who waited gets %v", f)
	}
	comettest.Eventually(t, "another gets in, once all who waited have their answers", func() bool {
		c := n.Dial(t, w)
		c.Send(connectFrame(c, "main/carol/phone"))
		return c.Recv().Command == envelopev1.Command_COMMAND_CONNECT
	})
}

func TestWhoSaysNothingKeepsNobodyOut(t *testing.T) {
	cfg := comettest.Config()
	cfg.ConnectWaitMs = 100
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	for range 50 {
		n.Dial(t, w)
	}
	began := n.Ticks()
	comettest.Eventually(t, "they have been silent for long", func() bool { return n.Ticks() > began+10 })
	n.Connect(t, w, "main/alice/phone").Ping()
	if got := n.Metric(t, "halley_comet_accepts_total", "result=behind"); got != 0 {
		t.Errorf("%v were refused", got)
	}
}

// TestTheDefaultsLetALoadOfOneMachineIn: the load of the README comes from one address, as fast as it can.
func TestTheDefaultsLetALoadOfOneMachineIn(t *testing.T) {
	const readme = 19_000
	if cfg := comet.Default(); cfg.AcceptBurst < 2*readme || cfg.ConnectionsPerAddress < 2*readme {
		t.Errorf("accept_burst %d, connections_per_address %d: less than two loads of %d, one leaving as the next comes",
			cfg.AcceptBurst, cfg.ConnectionsPerAddress, readme)
	}
}
