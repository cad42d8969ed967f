package comet

import (
	"testing"

	"github.com/halley-im/halley/pkg/link"
)

// step moves the coarse clock and has the loop notice, as the clock's goroutine does.
func step(t *testing.T, c *Comet, by uint32) {
	t.Helper()
	c.now.Add(by)
	c.loops[0].tick()
}

func TestTheFirstConnectionOfALoopDoesNotInheritItsIdleTime(t *testing.T) {
	c, _, _ := idle(t, 0, "tcp")
	c.now.Store(1_000_000) // days without a connection
	conn := new(fakeConn)
	c.Open(0, 0, conn)
	step(t, c, c.helloTicks-1)
	if s := conn.context.(*session); s.phase != phaseOpening {
		t.Fatalf("phase %d before the hello timeout", s.phase)
	}
	step(t, c, 1)
	if s := conn.context.(*session); s.phase != phaseClosing {
		t.Fatalf("phase %d after the hello timeout", s.phase)
	}
}

func TestAnyFrameIsLife(t *testing.T) {
	c, _, conns := idle(t, 2, "tcp")
	speaks, mute := conns[0].context.(*session), conns[1].context.(*session)
	wire := message(t, "tcp")
	for range 4 {
		step(t, c, c.silenceTicks/2)
		conns[0].in = append([]byte(nil), wire...)
		c.Traffic(conns[0])
	}
	if speaks.phase != phaseLive || mute.phase != phaseClosing {
		t.Errorf("phases %d and %d", speaks.phase, mute.phase)
	}
}

func TestHalfAFrameIsNoLife(t *testing.T) {
	c, _, conns := idle(t, 1, "tcp")
	wire := message(t, "tcp")
	for i := range 4 {
		step(t, c, c.silenceTicks/2)
		conns[0].in = append([]byte(nil), wire[:10+i]...)
		c.Traffic(conns[0])
	}
	if s := conns[0].context.(*session); s.phase != phaseClosing {
		t.Errorf("phase %d", s.phase)
	}
}

func TestARegistrationOfAnEarlierLeaseIsDoneAgain(t *testing.T) {
	c, _, conns := idle(t, 1, "tcp")
	s, l := conns[0].context.(*session), c.loops[0]
	s.phase = phaseConnecting
	c.lease.epoch.Store(2)
	a := &admission{id: s.id(), codec: link.CodecProto, identity: Identity{App: "main", User: "alice", Device: "phone"}, registered: true}
	a.registration.Entry.Epoch, a.registration.Entry.Generation = 1, 7
	l.admitted(a)
	step(t, c, ticksOf(attachPatience)) // Nobody answers the attach.
	if s.phase != phaseLive || s.is(flagRegistered) {
		t.Fatalf("phase %d, flags %b", s.phase, s.flags)
	}
	step(t, c, 1)
	again := c.registrar.tasks.poll(nil, 10)
	if len(again) != 1 || again[0].admission.purpose != purposeRegister || again[0].admission.registration.Entry.Generation != 7 {
		t.Fatalf("queued: %v", again)
	}
}
