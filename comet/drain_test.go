package comet_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

func TestDrainSendsEachSessionAwayAtItsOwnTime(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		cfg := comettest.Config()
		cfg.DrainSpreadMs = 60_000
		n := comettest.Start(t, cfg)
		var clients []*comettest.Client
		for i := range 50 {
			clients = append(clients, n.Connect(t, w, fmt.Sprintf("main/user%d/phone", i)))
		}
		n.Cancel()
		delays := make(map[uint32]bool)
		for _, c := range clients {
			closing := wantClose(t, c, protocol.CloseDraining)
			delays[closing.RetryAfterMs] = true
			if closing.RetryAfterMs > 60_000 {
				t.Errorf("come back after %d ms", closing.RetryAfterMs)
			}
			_ = c.Close()
		}
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		if len(delays) < 40 {
			t.Errorf("only %d different delays for 50 sessions", len(delays))
		}
		if n.Presence.Len() != 0 || n.Presence.Held("comet-1") {
			t.Error("something is left in presence")
		}
		if got := n.Metric(t, "halley_comet_disconnects_total", "code=draining"); got != 50 {
			t.Errorf("draining: %v", got)
		}
	})
}

func TestWithoutSessionsADrainIsOverAtOnce(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	start := time.Now()
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 700*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func TestWhileDrainingTheNodeIsNotReadyAndLetsNobodyIn(t *testing.T) {
	cfg := comettest.Config()
	cfg.DrainNoticeMs, cfg.LingerMs = 300, 3000
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	stays := n.Connect(t, w, "main/alice/phone") // does not read, so it lingers
	if err := n.Ready(); err != nil {
		t.Fatal(err)
	}
	n.Cancel()
	comettest.Eventually(t, "the node is not ready", func() bool { return n.Ready() != nil })
	n.Connect(t, w, "main/bob/phone") // within the notice the balancer may still send some
	comettest.Eventually(t, "nobody is let in any more", func() bool {
		c := n.Dial(t, w)
		if _, err := c.Write(c.Bytes(connectFrame(c, "main/carol/phone"))); err != nil {
			return false
		}
		f, err := c.TryRecv()
		return err == nil && f.Command == 5
	})
	if got := n.Metric(t, "halley_comet_drain_remaining"); got < 1 {
		t.Errorf("remaining: %v", got)
	}
	res, err := http.Get("http://" + n.Addr("websocket").String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || string(text) != "draining\n" {
		t.Errorf("websocket: %v %q %v", res, text, err)
	}
	_ = res.Body.Close()
	wantClose(t, stays, protocol.CloseDraining)
}

func TestADrainDoesNotWaitForeverForADeafDevice(t *testing.T) {
	cfg := comettest.Config()
	cfg.DrainTimeoutMs, cfg.LingerMs = 500, 60_000
	n := comettest.Start(t, cfg)
	n.Connect(t, comettest.WebSocket(link.CodecProto), "main/alice/phone") // never closes its end
	start := time.Now()
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}
