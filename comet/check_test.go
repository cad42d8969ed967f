package comet_test

import (
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
)

// A word between nodes was lost: nobody told the session that another had its entry.
func TestASessionThatLostItsEntryFindsOut(t *testing.T) {
	alice := presence.User{App: "main", User: "alice"}
	other := presence.Entry{Device: "phone", Node: "comet-2", Epoch: 7, Conn: 5, Generation: 1 << 40}
	cfg := comettest.Config()
	cfg.PresenceCheckMs, cfg.ResyncSpreadMs = 400, 0

	t.Run("to one that is gone", func(t *testing.T) {
		n := comettest.Start(t, cfg)
		c := n.Connect(t, comettest.TCP(), "main/alice/phone")
		was, _ := n.Presence.Entry("main", "alice", "phone")
		n.Presence.Remove(alice, "phone")
		wantResync(t, c) // What was sent meanwhile went to nobody.
		if is, ok := n.Presence.Entry("main", "alice", "phone"); !ok || is != was {
			t.Errorf("was %+v, is %+v", was, is)
		}
		if got := n.Metric(t, "halley_comet_presence_repairs_total"); got != 1 {
			t.Errorf("%v repairs", got)
		}
	})
	t.Run("to one that lives", func(t *testing.T) {
		n := comettest.Start(t, cfg)
		c := n.Connect(t, comettest.TCP(), "main/alice/phone")
		n.Presence.Plant(alice, other)
		wantClose(t, c, protocol.CloseReplaced)
		if is, _ := n.Presence.Entry("main", "alice", "phone"); is != other {
			t.Errorf("is %+v", is)
		}
	})
	t.Run("while presence is away", func(t *testing.T) {
		n := comettest.StartWith(t, cfg, comettest.NewPresence(), comettest.Auth{}, shortLease)
		c := n.Connect(t, comettest.TCP(), "main/alice/phone")
		n.Presence.SetDown(true)
		comettest.Eventually(t, "presence is known to be away", func() bool { return n.Metric(t, "halley_comet_presence_up") == 0 })
		n.Presence.Remove(alice, "phone")
		n.Presence.SetDown(false)
		wantResync(t, c)
	})
}

// Sessions whose entries stand are left alone.
func TestAnEntryThatStandsIsLeftAlone(t *testing.T) {
	cfg := comettest.Config()
	cfg.PresenceCheckMs = 200
	n := comettest.Start(t, cfg)
	var clients []*comettest.Client
	for range 20 {
		clients = append(clients, n.Connect(t, comettest.TCP(), "main/user"+string(rune('a'+len(clients)))+"/phone"))
	}
	before := n.Presence.Lookups()
	comettest.Eventually(t, "all were looked up many times", func() bool { return n.Presence.Lookups() > before+200 })
	for _, c := range clients {
		c.Ping() // Nothing came before the answer.
	}
	if got := n.Metric(t, "halley_comet_presence_repairs_total"); got != 0 {
		t.Errorf("%v repairs", got)
	}
}
