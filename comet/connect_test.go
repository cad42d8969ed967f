package comet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// each runs a story on every transport and codec.
func each(t *testing.T, story func(t *testing.T, w comettest.Wire)) {
	for name, w := range comettest.AllWires() {
		t.Run(name, func(t *testing.T) { story(t, w) })
	}
}

func connectFrame(c *comettest.Client, token string) *envelopev1.Frame {
	return &envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 9, Body: c.Body(&envelopev1.Connect{Token: token})}
}

func wantClose(t *testing.T, c *comettest.Client, code protocol.CloseCode) *envelopev1.Close {
	t.Helper()
	closing := c.Closed()
	if closing.Code != uint32(code) || closing.Reason != protocol.Closings[code].Reason ||
		closing.Reconnect != protocol.Closings[code].Reconnect {
		t.Fatalf("closed with %v, want %d", closing, code)
	}
	return closing
}

func TestHelloSaysWhoAndWhatIsAllowed(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		cfg := comettest.Config()
		n := comettest.Start(t, cfg)
		h := n.Dial(t, w).Hello("main/alice/phone/1h")
		if h == nil || h.App != "main" || h.User != "alice" || h.Device != "phone" || h.Node != "comet-1" {
			t.Fatalf("hello: %v", h)
		}
		if h.HeartbeatMs != uint32(cfg.HeartbeatMs) || h.Limits.FrameBytes != uint32(cfg.FrameBytes) || h.Limits.FramesPerSecond != 200 {
			t.Errorf("limits: %v", h)
		}
		left := time.Until(time.UnixMicro(h.TokenExpiresUs))
		if left < 50*time.Minute || left > 61*time.Minute {
			t.Errorf("token ends in %v", left)
		}
		e, ok := n.Presence.Entry("main", "alice", "phone")
		if !ok || e.Node != "comet-1" || e.Codec != w.Codec {
			t.Errorf("presence: %+v %v", e, ok)
		}
		if got := n.Metric(t, "halley_comet_connect_seconds"); got != 1 {
			t.Errorf("connects observed: %v", got)
		}
	})
}

func TestATokenThatDoesNotHoldIsToldWhy(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		for token, want := range map[string]struct {
			code  protocol.Code
			close protocol.CloseCode
		}{
			"bad":               {protocol.CodeUnauthenticated, protocol.CloseUnauthorized},
			"main/al ice/phone": {protocol.CodeUnauthenticated, protocol.CloseUnauthorized},
			"later":             {protocol.CodeRetry, protocol.CloseUnavailable},
		} {
			c := n.Dial(t, w)
			c.Send(connectFrame(c, token))
			if f := c.Recv(); f.RequestId != 9 || f.Error.GetCode() != string(want.code) {
				t.Errorf("%q: answered %v", token, f)
			}
			wantClose(t, c, want.close)
		}
		if n.Presence.Len() != 0 {
			t.Error("registered all the same")
		}
	})
}

func TestTheFirstFrameMustBeConnect(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		c := n.Dial(t, w)
		c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING})
		wantClose(t, c, protocol.CloseProtocol)
	})
}

func TestAStrangerMaySendNoLargeFrame(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		c := n.Dial(t, w)
		if _, err := c.Write(c.Header(20_000)); err != nil {
			t.Fatal(err)
		}
		wantClose(t, c, protocol.CloseTooLarge)
		n.Connect(t, w, "main/alice/phone").Ping()
	})
}

// slowAuth verifies when it is told to.
type slowAuth struct{ permit chan struct{} }

// Verify implements comet.Authenticator.
func (a slowAuth) Verify(token string) (comet.Identity, *protocol.Error) {
	<-a.permit
	return comettest.Auth{}.Verify(token)
}

func TestFramesBeforeHelloAreRefusedAFewTimes(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		auth := slowAuth{make(chan struct{})}
		defer close(auth.permit)
		n := comettest.StartWith(t, comettest.Config(), comettest.NewPresence(), auth)
		hasty, patient := n.Dial(t, w), n.Dial(t, w)
		patient.Send(connectFrame(patient, "main/bob/phone"))
		hasty.Send(connectFrame(hasty, "main/alice/phone"))
		for id := range uint64(17) {
			hasty.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: id + 100})
		}
		for id := range uint64(16) {
			if f := hasty.Recv(); f.RequestId != id+100 || f.Error.GetCode() != string(protocol.CodeRetry) {
				t.Fatalf("early frame answered with %v", f)
			}
		}
		wantClose(t, hasty, protocol.CloseProtocol)
		auth.permit <- struct{}{}
		auth.permit <- struct{}{}
		if f := patient.Recv(); f.Command != envelopev1.Command_COMMAND_CONNECT || f.Error != nil {
			t.Fatalf("the patient one got %v", f)
		}
		comettest.Eventually(t, "the hasty one is not registered", func() bool {
			_, ok := n.Presence.Entry("main", "alice", "phone")
			return !ok && n.Presence.Len() == 1
		})
	})
}

func TestTheSameDeviceAgainReplacesItsSession(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		first := n.Connect(t, w, "main/alice/phone")
		other := n.Connect(t, w, "main/alice/tablet")
		second := n.Connect(t, w, "main/alice/phone")
		wantClose(t, first, protocol.CloseReplaced)
		second.Ping()
		other.Ping()
		comettest.Eventually(t, "presence has the second", func() bool {
			_, ok := n.Presence.Entry("main", "alice", "phone")
			return ok && n.Metric(t, "halley_comet_connections") == 2
		})
	})
}

func TestASessionOnAnotherNodeIsKicked(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Presence.Plant(presence.User{App: "main", User: "alice"},
		presence.Entry{Device: "phone", Node: "comet-2", Epoch: 77, Conn: 4711, Generation: 5})
	n.Connect(t, comettest.TCP(), "main/alice/phone")
	select {
	case k := <-n.Kicked:
		d := k.Batch.Deliveries[0]
		if k.Node != "comet-2" || d.Conn != 4711 || d.Close != protocol.CloseReplaced || d.Generation != 5 {
			t.Errorf("kick: %+v", k)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no kick")
	}
}

// A device gave up a connection to a slow node, which lets it in when the device is connected elsewhere, and then finds that it is gone. The
// entry of the living session is lost with it, so that one must come again.
func TestASessionThatLostItsEntryToOneThatLeftComesAgain(t *testing.T) {
	auth := slowAuth{make(chan struct{}, 1)}
	defer close(auth.permit)
	n := comettest.StartWith(t, comettest.Config(), comettest.NewPresence(), auth)
	w := comettest.TCP()
	auth.permit <- struct{}{}
	living := n.Connect(t, w, "main/alice/phone")
	gone := n.Dial(t, w)
	gone.Send(connectFrame(gone, "main/alice/phone"))
	for id := range uint64(17) { // More than are answered before the hello.
		gone.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: id + 100})
	}
	for range 16 {
		gone.Recv()
	}
	wantClose(t, gone, protocol.CloseProtocol)
	auth.permit <- struct{}{}
	if f := wantClose(t, living, protocol.CloseUnavailable); f.Reconnect != envelopev1.Reconnect_RECONNECT_YES {
		t.Errorf("told %v", f)
	}
	auth.permit <- struct{}{}
	n.Connect(t, w, "main/alice/phone").Ping()
	comettest.Eventually(t, "presence has the device", func() bool {
		_, ok := n.Presence.Entry("main", "alice", "phone")
		return ok
	})
}

// Presence carries a registration out and does not answer, and the session leaves before it is asked again: its entry must not stay.
func TestASessionInDoubtLeavesNoEntry(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	p.SetMute(true)
	c := n.Connect(t, comettest.TCP(), "main/alice/phone")
	if _, ok := p.Entry("main", "alice", "phone"); !ok {
		t.Fatal("the entry was not written")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	comettest.Eventually(t, "it is gone", func() bool { return n.Metric(t, "halley_comet_connections") == 0 })
	p.SetMute(false)
	p.SetDown(false)
	comettest.Eventually(t, "so is its entry", func() bool { return p.Len() == 0 })
}

// Presence registers a session long after the node has given the call up, and the session has left by then.
func TestASessionThatIsRegisteredTooLateLeavesNoEntry(t *testing.T) {
	const late = 500 * time.Millisecond
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease, func(c *comet.Comet) { c.SetSettle(2 * late) })
	p.SetLate(late)
	c := n.Connect(t, comettest.TCP(), "main/alice/phone")
	if p.Owes() != 1 {
		t.Fatalf("%d registrations are late", p.Owes())
	}
	p.SetLate(0)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	n.Connect(t, comettest.TCP(), "main/bob/phone").Ping() // Nobody's hello waits.
	comettest.Eventually(t, "the registration has been made", func() bool { return p.Owes() == 0 })
	comettest.Eventually(t, "presence has the one who is here, and no other", func() bool {
		_, here := p.Entry("main", "bob", "phone")
		return here && p.Len() == 1
	})
}

func TestAStaleSessionGivesWay(t *testing.T) {
	p := comettest.NewPresence()
	p.SetDown(true)
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	c := n.Connect(t, comettest.TCP(), "main/alice/phone") // lives without presence
	c.Ping()
	p.SetDown(false)
	f := c.Recv() // registered late, so it must compare its heads
	if f.Command != envelopev1.Command_COMMAND_RESYNC {
		t.Fatalf("got %v", f)
	}
	e, ok := p.Entry("main", "alice", "phone")
	if !ok {
		t.Fatal("not registered")
	}
	// The device is elsewhere already, with a higher generation; then this node has to register everything again.
	p.Wipe()
	p.Plant(presence.User{App: "main", User: "alice"},
		presence.Entry{Device: "phone", Node: "comet-2", Epoch: 99, Conn: 1, Generation: e.Generation + 10})
	wantClose(t, c, protocol.CloseReplaced)
}

// A node that was slow has let in a session that its device has given up, while the device's next one registered. That one may not be
// told to stay away: it is the only one that lives.
func TestASessionThatRegistersAsAnotherDoesComesAgain(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	epoch, err := p.Acquire(t.Context(), "comet-2")
	if err != nil {
		t.Fatal(err)
	}
	p.Plant(presence.User{App: "main", User: "alice"}, presence.Entry{Device: "phone", Node: "comet-2", Epoch: epoch, Conn: 1, Generation: 1})
	p.SetBeaten()
	c := n.Dial(t, comettest.TCP())
	c.Send(connectFrame(c, "main/alice/phone"))
	wantClose(t, c, protocol.CloseUnavailable)
	n.Connect(t, comettest.TCP(), "main/alice/phone").Ping()
	if e, ok := p.Entry("main", "alice", "phone"); !ok || e.Node != "comet-1" {
		t.Errorf("presence has %v", e)
	}
}

// Another session of the device takes the entry of one that has not heard yet that it is registered. That one must hear of it all the same:
// without an entry it would get no pushes.
func TestASessionIsClosedThoughItsEntryIsLostBeforeItKnows(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	release := n.Presence.HoldAnswers()
	c := n.Dial(t, comettest.TCP())
	c.Send(connectFrame(c, "main/alice/phone"))
	var e presence.Entry
	comettest.Eventually(t, "it is registered", func() (ok bool) {
		e, ok = n.Presence.Entry("main", "alice", "phone")
		return ok
	})
	n.Comet.Deliver(&link.Batch{Deliveries: []link.Delivery{{Conn: e.Conn, Close: protocol.CloseUnavailable, Generation: e.Generation}}})
	comettest.Eventually(t, "the close is there", func() bool { return n.Metric(t, "halley_comet_deliveries_missed_total") == 1 })
	release()
	wantClose(t, c, protocol.CloseUnavailable)
	n.Connect(t, comettest.TCP(), "main/alice/phone").Ping()
}

func TestSessionsPerUser(t *testing.T) {
	cfg := comettest.Config()
	cfg.SessionsPerUser = 2
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	first := n.Connect(t, w, "main/alice/a")
	n.Connect(t, w, "main/alice/b")
	c := n.Dial(t, w)
	c.Send(connectFrame(c, "main/alice/c"))
	wantClose(t, c, protocol.CloseTooManySession)
	n.Connect(t, w, "main/bob/a")
	again := n.Connect(t, w, "main/alice/a") // In the place of its first, which has not left.
	wantClose(t, first, protocol.CloseReplaced)
	c = n.Dial(t, w)
	c.Send(connectFrame(c, "main/alice/c"))
	wantClose(t, c, protocol.CloseTooManySession)
	first = again
	comettest.Eventually(t, "those that were closed are gone", func() bool { return n.Metric(t, "halley_comet_connections") == 3 })
	_ = first.Close()
	comettest.Eventually(t, "there is room again", func() bool { return n.Metric(t, "halley_comet_connections") == 2 })
	n.Connect(t, w, "main/alice/c")
}

func TestBeyondTheLimitOfConnections(t *testing.T) {
	cfg := comettest.Config()
	cfg.MaxConnections = 2
	n := comettest.Start(t, cfg)
	w := comettest.TCP()
	n.Connect(t, w, "main/a/1")
	if err := n.Ready(); err != nil {
		t.Errorf("not ready below the limit: %v", err)
	}
	n.Connect(t, w, "main/b/1")
	if n.Ready() == nil {
		t.Error("ready at the limit")
	}
	third := n.Dial(t, w)
	third.Send(connectFrame(third, "main/c/1"))
	if closing := wantClose(t, third, protocol.CloseOverloaded); closing.RetryAfterMs == 0 {
		t.Error("no delay given")
	}
	if _, err := n.TryDial(t, comettest.WebSocket(link.CodecJSON)); err == nil || err.Error() != "opening refused: HTTP/1.1 503 Service Unavailable\r\n" {
		t.Errorf("websocket: %v", err)
	}
	if got := n.Metric(t, "halley_comet_accepts_total", "result=overloaded"); got != 2 {
		t.Errorf("counted %v", got)
	}
}

func TestRefreshProlongsAndExpiryEnds(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		short := n.Connect(t, w, "main/alice/phone/1500ms")
		long := n.Connect(t, w, "main/bob/phone/1500ms")
		refresh := func(token string) *envelopev1.Frame {
			long.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_REFRESH, RequestId: 4, Body: long.Body(&envelopev1.Refresh{Token: token})})
			return long.Recv()
		}
		for token, code := range map[string]protocol.Code{
			"main/alice/phone/1h": protocol.CodeForbidden, "bad": protocol.CodeUnauthenticated,
		} {
			if f := refresh(token); f.Error.GetCode() != string(code) {
				t.Errorf("refresh with %q: %v", token, f)
			}
		}
		f := refresh("main/bob/phone/1h")
		var hello envelopev1.Hello
		long.OpenBody(f, &hello)
		if f.RequestId != 4 || time.Until(time.UnixMicro(hello.TokenExpiresUs)) < time.Minute {
			t.Fatalf("refresh: %v", f)
		}
		wantClose(t, short, protocol.CloseTokenExpired)
		long.Ping()
	})
}

func TestConnectsInAStorm(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	const clients = 300
	errs := make(chan error, clients)
	for i := range clients {
		go func() {
			w := comettest.TCP()
			c, err := n.TryDial(t, w)
			if err == nil {
				_, err = c.Write(c.Bytes(connectFrame(c, fmt.Sprintf("main/user%d/phone", i))))
			}
			if err == nil {
				_, err = c.TryRecv()
			}
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n.Presence.Len() != clients {
		t.Errorf("registered %d", n.Presence.Len())
	}
}

func shortLease(c *comet.Comet) {
	c.SetLease(2*time.Second, 80*time.Millisecond)
	c.SetSettle(80 * time.Millisecond)
}
