package comet

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/loop"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// eventLoop is what one event loop owns of the comet. Nothing of it is touched from elsewhere but the inbox and the counters.
type eventLoop struct {
	comet *Comet
	index int

	// Owned by the loop.
	sessions   registry
	wheel      wheel
	fire       func(slot uint32)
	reply      []byte // what the current callback has to write to its session
	scratch    []byte // one encoded frame
	frame      envelopev1.Frame
	touched    []touch
	chain      []uint32
	out        []byte
	last       lastWritten
	spare      inbox
	backlogged []uint64 // ids of sessions whose socket did not take everything
	apps       map[string]*string
	sweep      sweep
	owed       []link.Users // whose sessions are to resync; found together, now and then
	sought     uint32       // tick of the last time
	pace       pace
	checker    checker
	away       uint32 // slot that sendAway came to
	turned     uint32 // slots that the rebalancing under way has passed
	rooms      map[presence.RoomID]*room
	memberOf   map[uint32][]*room // slot → rooms
	attaching  attaches
	lastAttach uint64     // the last question asked
	doubt      uint32     // rises when words about rooms may have been lost: no member is sure until it is attached again
	untold     []roomTask // found no room in the keeper's queue
	expanded   []delivery
	closes     map[uint64]early // by session
	waits      waits

	roomCount atomic.Int64  // of rooms; written by the loop
	moving    atomic.Int64  // sessions still to be moved
	due       atomic.Uint32 // the tick at which it has something to do; written by the loop

	mu    sync.Mutex
	alive bool // the loop had a connection, so the engine can wake it
	woken bool
	inbox inbox

	stats stats
}

// inbox is what other goroutines have for a loop. It is bounded: deliveries by the configuration, results by the connects in
// flight.
type inbox struct {
	deliveries []delivery
	bytes      int
	results    []*admission
	entered    []enteredRoom
	strays     []presence.Entry
	sweeps     sweepKind
	owed       []link.Users
	tick       bool
	ticked     time.Duration // when the tick came, since the clock began
}

func newEventLoop(c *Comet, index int) *eventLoop {
	l := &eventLoop{
		comet: c, index: index, apps: make(map[string]*string), rooms: make(map[presence.RoomID]*room),
		memberOf: make(map[uint32][]*room), closes: make(map[uint64]early), attaching: newAttaches(),
		// Other than the numbers of an earlier process of the same name, whose answers may still be under way.
		lastAttach: rand.Uint64() >> 1, pace: newPace(),
	}
	l.sessions.loop = uint8(index)
	l.due.Store(never)
	l.fire = l.deadline
	return l
}

// post changes the inbox and wakes the loop if nobody did. fill says whether it put something in. On a loop that never had a
// connection nothing waits for anything, so there is nothing to post.
func (l *eventLoop) post(fill func(*inbox) bool) {
	l.mu.Lock()
	if !l.alive || !fill(&l.inbox) {
		l.mu.Unlock()
		return
	}
	l.wakeLocked()
}

// wakeLocked wakes the loop unless it is woken already; it unlocks.
func (l *eventLoop) wakeLocked() {
	first := !l.woken
	l.woken = true
	l.mu.Unlock()
	if first {
		l.comet.engine.Wake(l.index, l)
	}
}

var _ loop.Runner = (*eventLoop)(nil)

// Run implements loop.Runner: it works the inbox off, on the loop.
func (l *eventLoop) Run(context.Context) error {
	l.mu.Lock()
	work := l.inbox
	l.inbox, l.spare = l.spare, inbox{}
	l.woken = false
	l.mu.Unlock()

	l.catchUp()
	if work.sweeps&(sweepResync|sweepRegisterAll) != 0 {
		l.doubt++
	}
	for _, a := range work.results {
		l.admitted(a)
	}
	l.enteredRooms(work.entered)
	if len(work.deliveries) > 0 {
		l.deliver(work.deliveries)
	}
	l.registerStrays(work.strays)
	if work.sweeps != 0 {
		l.beginSweep(work.sweeps)
	}
	if l.owed = append(l.owed, work.owed...); len(l.owed) > maxOwed {
		l.owed = nil
		l.beginSweep(sweepResync)
	}
	if work.tick {
		l.tick()
	}
	l.tellClock()
	l.recycle(&work)
	return nil
}

// maxKept bounds what a burst leaves behind in buffers that are kept.
const maxKept = 1 << 16

func (l *eventLoop) recycle(work *inbox) {
	if cap(work.deliveries) <= maxKept {
		clear(work.deliveries)
		l.spare.deliveries = work.deliveries[:0]
	}
	if cap(work.results) <= maxKept {
		clear(work.results)
		l.spare.results = work.results[:0]
	}
}

// measureBacklog sums up what waits for slow readers, for the metric, and forgets those that caught up.
func (l *eventLoop) measureBacklog() {
	var sum int
	kept := l.backlogged[:0]
	for _, id := range l.backlogged {
		s := l.sessions.get(id)
		if s == nil {
			continue
		}
		n := s.conn.OutboundBuffered()
		if n == 0 {
			s.flags &^= flagBacklogged
			continue
		}
		sum += n
		kept = append(kept, id)
	}
	l.backlogged = kept
	l.stats.outbox.Store(int64(sum))
}

func (l *eventLoop) protocol(s *session) transport.Protocol {
	return l.comet.transports[s.listener].Protocol
}

// intern keeps one copy of each app's name per loop. Apps come from verified tokens, so they are few.
func (l *eventLoop) intern(app string) *string {
	if p, ok := l.apps[app]; ok {
		return p
	}
	p := &app
	l.apps[app] = p
	return p
}

// write sends the reply gathered for s, if any. It reports whether the session is still there: a failed write ends it, and so
// does a reader too slow for its outbox.
func (l *eventLoop) write(s *session) bool {
	if len(l.reply) == 0 {
		return s.phase != phaseFree
	}
	ok := l.send(s, l.reply)
	if cap(l.reply) > maxKept {
		l.reply = nil
	}
	l.reply = l.reply[:0]
	return ok
}

// send writes p to s, like write.
func (l *eventLoop) send(s *session, p []byte) bool {
	conn := s.conn
	l.stats.bytesSent.add(len(p))
	if _, err := l.comet.engine.Send(conn, p); err != nil || s.phase == phaseFree {
		return false
	}
	waiting := conn.OutboundBuffered()
	if waiting == 0 {
		return true
	}
	if !s.is(flagBacklogged) {
		s.flags |= flagBacklogged
		l.backlogged = append(l.backlogged, s.id())
	}
	if waiting > l.comet.cfg.OutboxBytes && s.phase != phaseClosing {
		l.reply = l.reply[:0]
		l.endSlow(s)
		return false
	}
	return true
}
