package comet

import (
	"maps"
	"time"
)

// sweepKind says what a walk over all sessions of a loop does to each. Kinds add up.
type sweepKind uint8

const (
	sweepResync      sweepKind = 1 << iota // attach it again, and ask it to compare its heads
	sweepRegister                          // register it with presence if it is not
	sweepRegisterAll                       // register it anew: the lease is new, or presence lost its data
)

// sweep is a walk in progress, a part of the sessions each tick.
type sweep struct {
	kind   sweepKind
	next   uint32 // slot
	step   uint32 // slots per tick
	wanted sweepKind
}

// minStep keeps a short walk from taking the whole spread.
const minStep = 64

// pace is how many questions for rooms a loop may have on their way, those of a walk and those asked again: as many as the owners answer. At a pace
// of its own it would ask more than they can, and an outage of a moment would not end. It grows by an eighth when as many as it allows were answered, and
// is halved when one was not, or was refused.
type pace struct {
	window   int
	answers  int    // since it grew
	narrowed uint32 // tick
}

const (
	startWindow = 64
	leastWindow = 4
	mostWindow  = 4096
)

func newPace() pace { return pace{window: startWindow} }

func (p *pace) answered() {
	if p.answers++; p.answers >= p.window {
		p.window, p.answers = min(p.window+max(p.window/8, 1), mostWindow), 0
	}
}

// refused is counted once for all that were on their way together.
func (p *pace) refused(now uint32) {
	if now-p.narrowed < ticksOf(attachTry) {
		return
	}
	p.window, p.answers, p.narrowed = max(p.window/2, leastWindow), 0, now
}

// mayAsk is for how many more sessions may be asked now, but for those who connect.
func (l *eventLoop) mayAsk() uint32 { return uint32(max(l.pace.window-l.attaching.paced, 0)) }

// sweepAll starts a walk on every loop.
func (c *Comet) sweepAll(kind sweepKind) {
	for _, l := range c.loops {
		l.post(func(in *inbox) bool {
			in.sweeps |= kind
			return true
		})
	}
}

// want asks for a walk after the current one.
func (l *eventLoop) want(kind sweepKind) { l.sweep.wanted |= kind }

// beginSweep starts a walk now, or after the current one: sessions that it has passed already need it too.
func (l *eventLoop) beginSweep(kind sweepKind) {
	if kind&sweepRegisterAll != 0 {
		// All at once, so that no session seems registered under the new lease before the walk comes to it.
		l.forgetRegistrations()
	}
	l.want(kind)
	if l.sweep.kind == 0 {
		l.continueSweep()
	}
}

func (l *eventLoop) forgetRegistrations() {
	for slot := range l.sessions.slots() {
		l.sessions.at(slot).flags &^= flagRegistered
	}
}

func (l *eventLoop) spreadStep() uint32 {
	ticks := max(l.comet.cfg.ResyncSpreadMs/int(tickLength/ms(1)), 1)
	return max(minStep, l.sessions.slots()/uint32(ticks)+1)
}

// continueSweep does a tick's part of the walk.
func (l *eventLoop) continueSweep() {
	w := &l.sweep
	if w.kind == 0 {
		if w.wanted == 0 {
			return
		}
		*w = sweep{kind: w.wanted, step: l.spreadStep()}
	}
	step := w.step
	if w.kind&sweepResync != 0 {
		step = min(step, l.mayAsk())
	}
	for done := uint32(0); done < step; w.next++ {
		if w.next >= l.sessions.slots() {
			w.kind = 0
			return
		}
		if s := l.sessions.at(w.next); s.phase != phaseFree && s.phase != phaseClosing && s.phase != phaseRefused {
			done++
			l.visit(s, w.kind)
		}
	}
}

const (
	// maxOwed bounds the sets of users that wait to be found; beyond it all sessions resync.
	maxOwed = 64
	// seekEvery is how often they are looked for: it takes a look at every session.
	seekEvery = time.Second
)

// tellOwed has the sessions of those resync to whom deliveries were lost.
func (l *eventLoop) tellOwed() {
	if len(l.owed) == 0 || l.wheel.now-l.sought < ticksOf(seekEvery) {
		return
	}
	owed := l.owed[0]
	if len(l.owed) > 1 { // The sets are others' as well.
		owed = maps.Clone(owed)
		for _, users := range l.owed[1:] {
			maps.Copy(owed, users)
		}
	}
	l.owed, l.sought = nil, l.wheel.now
	for slot := range l.sessions.slots() {
		s := l.sessions.at(slot)
		// One that is not live yet reads its heads after this.
		if s.phase == phaseLive && owed.Has(*s.app, s.user()) {
			l.resyncNow(s)
		}
	}
}

// visit does to one session what the walk is for.
func (l *eventLoop) visit(s *session, kind sweepKind) {
	switch {
	case s.phase != phaseLive:
		return // it registers, and reads its heads, after this
	case kind&(sweepRegister|sweepRegisterAll) != 0 && !s.is(flagRegistered):
		l.registerAgain(s)
	case kind&sweepResync != 0:
		l.startAttach(s, nil, true)
	}
	l.reply = l.reply[:0]
}

// registerAgain queues a live session for presence; the resync follows when it is done.
func (l *eventLoop) registerAgain(s *session) {
	a := &admission{id: s.id(), purpose: purposeRegister, codec: s.state.Codec}
	a.registration = l.comet.registration(s)
	if !l.comet.registrar.register(a) {
		l.want(sweepRegister)
	}
}
