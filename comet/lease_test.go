package comet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func wantResync(t *testing.T, c *comettest.Client) {
	t.Helper()
	if f := c.Recv(); f.Command != envelopev1.Command_COMMAND_RESYNC {
		t.Fatalf("got %v", f)
	}
}

func TestWithoutPresenceSessionsLiveAndAreRegisteredLater(t *testing.T) {
	p := comettest.NewPresence()
	p.SetDown(true)
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	if err := n.Ready(); err != nil {
		t.Errorf("not ready without presence: %v", err)
	}
	c := n.Connect(t, comettest.TCP(), "main/alice/phone")
	c.Send(send(1, "g:x"))
	if f := c.Recv(); f.Error != nil {
		t.Fatalf("answer: %v", f)
	}
	if n.Metric(t, "halley_comet_presence_up") != 0 {
		t.Error("presence seems up")
	}
	if !n.Lines.Have("level=WARN", "presence does not answer; sessions go on unregistered") {
		t.Error("no log line names the cause")
	}
	p.SetDown(false)
	wantResync(t, c)
	if _, ok := p.Entry("main", "alice", "phone"); !ok {
		t.Error("not registered")
	}
	if n.Metric(t, "halley_comet_presence_up") != 1 {
		t.Error("presence seems down")
	}
}

func TestPresenceThatFailsForAWhileMissesNobody(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	w := comettest.TCP()
	before := n.Connect(t, w, "main/before/phone")
	leaver := n.Connect(t, w, "main/leaver/phone")
	p.SetDown(true)
	during := n.Connect(t, w, "main/during/phone")
	_ = leaver.Close()
	comettest.Eventually(t, "the leaver is gone", func() bool { return n.Metric(t, "halley_comet_connections") == 2 })
	p.SetDown(false)
	wantResync(t, during)
	before.Ping() // its registration stood all the time: no resync
	comettest.Eventually(t, "presence has the two that are here", func() bool {
		_, a := p.Entry("main", "before", "phone")
		_, b := p.Entry("main", "during", "phone")
		return a && b
	})
	comettest.Eventually(t, "the leaver's entry is gone", func() bool {
		_, ok := p.Entry("main", "leaver", "phone")
		return !ok
	})
}

func TestPresenceThatLostItsDataIsFilledAgain(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	var clients []*comettest.Client
	for i := range 30 {
		clients = append(clients, n.Connect(t, comettest.TCP(), fmt.Sprintf("main/user%d/phone", i)))
	}
	was, _ := p.Entry("main", "user0", "phone")
	p.Wipe()
	for _, c := range clients {
		wantResync(t, c)
	}
	is, _ := p.Entry("main", "user0", "phone")
	if p.Len() != 30 || is.Epoch <= was.Epoch || is.Generation != was.Generation {
		t.Errorf("%d entries; was %+v, is %+v", p.Len(), was, is)
	}
}

func TestARenewalThatComesTooLateIsANewLease(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, func(c *comet.Comet) {
		// Every renewal is later than this time to live, although the registry takes it.
		c.SetLease(300*time.Millisecond, 400*time.Millisecond)
	})
	c := n.Connect(t, comettest.TCP(), "main/alice/phone")
	was, _ := p.Entry("main", "alice", "phone")
	wantResync(t, c)
	comettest.Eventually(t, "the entry stands under a new epoch", func() bool {
		is, ok := p.Entry("main", "alice", "phone")
		return ok && is.Epoch > was.Epoch
	})
}
