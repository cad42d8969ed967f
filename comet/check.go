package comet

import (
	"context"
	"slices"

	"github.com/halley-im/halley/pkg/presence"
)

// A word about an entry can be lost for good: the close of a session whose entry another took, on its way between nodes, or the answer to
// the registration that took it. A session that lost its entry so would get nothing, and nobody would know. So each looks its entry up
// now and then.

// checker is where a loop's walk over its sessions stands.
type checker struct {
	next  uint32 // slot
	at    uint32 // tick of the last part
	again uint32 // tick of the next, at the latest
	due   uint64 // slots that are due to be looked at, times the time in which all are, in milliseconds
}

// checkEntries does the part of the walk that is due. What the registrar has no room for waits for the next time.
func (l *eventLoop) checkEntries() {
	every, slots := uint64(l.comet.cfg.PresenceCheckMs), l.sessions.slots()
	c := &l.checker
	passed := l.wheel.now - c.at
	c.at = l.wheel.now
	c.again = never
	if every == 0 || slots == 0 {
		return
	}
	c.due += uint64(slots) * uint64(passed) * uint64(tickLength.Milliseconds())
	n := min(c.due/every, registrarBatch, uint64(slots))
	if n >= minStep { // One question for many.
		c.due = min(c.due-n*every, every*registrarBatch)
		l.checkSome(n)
	}
	perTick := uint64(slots) * uint64(tickLength.Milliseconds())
	left := max(minStep*every, c.due) - c.due
	c.again = l.wheel.now + uint32(min(max(left+perTick-1, perTick)/perTick, 1<<31))
}

// checkSome has the next n sessions looked up.
func (l *eventLoop) checkSome(n uint64) {
	c, slots := &l.checker, l.sessions.slots()
	var regs []presence.Registration
	for range n {
		if c.next++; c.next >= slots {
			c.next = 0
		}
		if s := l.sessions.at(c.next); s.phase == phaseLive && s.is(flagRegistered) {
			regs = append(regs, l.comet.registration(s))
		}
	}
	if len(regs) > 0 {
		l.comet.registrar.check(regs)
	}
}

// check queues a look at entries.
func (r *registrar) check(regs []presence.Registration) { r.tasks.push(&task{check: regs}) }

// checkAll looks entries up and tells the loop, for all are of one, which are not there. Where presence does not answer the keeper of the
// lease finds out.
func (r *registrar) checkAll(ctx context.Context, regs []presence.Registration) {
	if !r.up.Load() {
		return
	}
	users := make([]presence.User, len(regs))
	for i := range regs {
		users[i] = regs[i].User
	}
	found, err := r.comet.presence.Lookup(ctx, users, nil)
	if err != nil {
		return
	}
	var strays []presence.Entry
	for i := range regs {
		mine := regs[i].Entry
		if !slices.ContainsFunc(found[i], func(e presence.Entry) bool {
			return e.Node == mine.Node && e.Conn == mine.Conn && e.Generation == mine.Generation
		}) {
			strays = append(strays, mine)
		}
	}
	if len(strays) == 0 {
		return
	}
	r.comet.log.Warn("presence has lost entries; their sessions register again", "sessions", len(strays))
	r.comet.loops[loopOf(strays[0].Conn)].post(func(in *inbox) bool {
		in.strays = append(in.strays, strays...)
		return true
	})
}

// registerStrays has sessions that presence does not know register again, if no other has done so meanwhile. Of one whose device is
// connected elsewhere that is the end.
func (l *eventLoop) registerStrays(strays []presence.Entry) {
	for i := range strays {
		s := l.sessions.get(strays[i].Conn)
		if s == nil || s.phase != phaseLive || !s.is(flagRegistered) || s.generation != strays[i].Generation {
			continue
		}
		s.flags &^= flagRegistered
		l.stats.strays.add(1)
		l.registerAgain(s)
	}
}
