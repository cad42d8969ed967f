package comet

import (
	"context"
	"testing"

	"github.com/halley-im/halley/pkg/link"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// step moves the coarse clock and has the loop notice, as the clock's goroutine does.
func step(t *testing.T, c *Comet, by uint32) {
	t.Helper()
	c.clock.now.Add(by)
	c.loops[0].tick()
}

func TestTheFirstConnectionOfALoopDoesNotInheritItsIdleTime(t *testing.T) {
	c, _, _ := idle(t, 0, "tcp")
	c.clock.now.Store(1_000_000) // days without a connection
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

// run moves the clock on tick by tick, ticks the loop whenever the clock would, and counts how often.
func run(c *Comet, ticks int) (ticked int) {
	l := c.loops[0]
	for range ticks {
		c.tickLoops(c.clock.now.Add(1), false)
		if due := l.inbox.tick; due {
			_ = l.Run(context.Background())
			ticked++
		}
		l.woken = false
	}
	return ticked
}

func TestALoopWhoseDevicesOnlyPingRests(t *testing.T) {
	c, _, conns := idle(t, 500, "tcp")
	ping, err := (&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	ping = append([]byte{0, 0, 0, byte(len(ping))}, ping...)
	hear := func(conn *fakeConn) {
		conn.in = append([]byte(nil), ping...)
		c.Traffic(conn)
	}
	for _, conn := range conns { // Their deadlines are spread as connects are.
		hear(conn)
		c.loops[0].watch(conn.context.(*session))
		run(c, 1)
	}
	ticked := 0
	const minutes = 8
	for i := range minutes * 600 {
		hear(conns[i%len(conns)])
		ticked += run(c, 1)
	}
	if most := minutes * 60 * 11 / 10; ticked > most {
		t.Errorf("ticked %d times in %d minutes, want %d at most", ticked, minutes, most)
	}
	for _, conn := range conns {
		if s := conn.context.(*session); s.phase != phaseLive {
			t.Fatalf("phase %d", s.phase)
		}
	}
}

// What is due for one session while the loop rests does not wait until it has rested.
func TestARestingLoopMissesNoDeadline(t *testing.T) {
	for offset := range int(restTicks) + 1 {
		c, _, _ := idle(t, 1, "tcp")
		run(c, 20+offset)
		conn := new(fakeConn)
		c.Open(0, 0, conn)
		s := conn.context.(*session)
		run(c, int(c.helloTicks)-1)
		if s.phase != phaseOpening {
			t.Fatalf("offset %d: phase %d before the hello timeout", offset, s.phase)
		}
		if run(c, 1); s.phase != phaseClosing {
			t.Fatalf("offset %d: phase %d after the hello timeout", offset, s.phase)
		}
	}
}
