package comet

import (
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// delivery is a link.Delivery on its way to a loop.
type delivery struct {
	conn       uint64
	frame      []byte
	generation uint64
	close      protocol.CloseCode
	room       *link.Room
}

// touch is a session in the middle of a delivery, with the chain of its deliveries in loop.chain.
type touch struct {
	s          *session
	head, tail int32
}

// lastWritten is the frame that loop.out holds, ready for the wire.
type lastWritten struct {
	frame    *byte
	len      int
	listener uint8
	codec    link.Codec
}

// early is a close of an entry that its session does not know of yet: another of its device took the entry's place while the word that it is
// registered was on its way.
type early struct {
	generation uint64
	code       protocol.CloseCode
}

var _ link.Node = (*Comet)(nil)

// Deliver implements link.Node. It sorts the batch by loop and wakes each loop once.
func (c *Comet) Deliver(b *link.Batch) {
	if !c.epochs.Admit(b.Partition, b.Epoch) {
		c.stale.add(len(b.Deliveries))
		return
	}
	for i := 0; i < len(b.Deliveries); {
		loop := target(&b.Deliveries[i])
		run := i + 1
		for run < len(b.Deliveries) && target(&b.Deliveries[run]) == loop {
			run++
		}
		if loop == everyLoop {
			for _, l := range c.loops {
				// A session enters its rooms before it reads its heads: what a loop without rooms passes over is below them.
				if l.roomCount.Load() > 0 {
					l.enqueue(b.Deliveries[i:run], c.cfg.PendingFrames, c.cfg.PendingBytes)
				}
			}
		} else if loop < len(c.loops) {
			c.loops[loop].enqueue(b.Deliveries[i:run], c.cfg.PendingFrames, c.cfg.PendingBytes)
		}
		i = run
	}
}

// everyLoop stands for the loop of what concerns all members of a room.
const everyLoop = -1

func target(d *link.Delivery) int {
	if r := d.Room; r != nil && (r.Op == link.RoomExpand || r.Op == link.RoomLeave && len(r.Users) > 0) {
		return everyLoop
	}
	return loopOf(d.Conn &^ attachBit)
}

// enqueue leaves deliveries for the loop. Beyond the bound it drops them, and the loop's sessions resync: they have lost
// something, and find out.
func (l *eventLoop) enqueue(ds []link.Delivery, maxFrames, maxBytes int) {
	l.mu.Lock()
	if !l.alive {
		l.mu.Unlock()
		return
	}
	var last *byte
	for i := range ds {
		d := &ds[i]
		size := 0
		if len(d.Frame) > 0 && &d.Frame[0] != last { // one frame for many sessions is in memory once
			last, size = &d.Frame[0], len(d.Frame)
		}
		if d.Room != nil {
			size += len(d.Room.JSON)
		}
		if len(l.inbox.deliveries) >= maxFrames || l.inbox.bytes+size > maxBytes {
			l.stats.dropped.add(len(ds) - i)
			l.inbox.sweeps |= sweepResync
			break
		}
		l.inbox.bytes += size
		l.inbox.deliveries = append(l.inbox.deliveries, delivery{
			conn: d.Conn, frame: d.Frame, generation: d.Generation, close: d.Close, room: d.Room,
		})
	}
	l.wakeLocked()
}

// deliver takes a burst apart: words about rooms and the answers to attaches are for the loop itself, and what rooms expand to goes the
// way of all deliveries, in its place.
func (l *eventLoop) deliver(ds []delivery) {
	plain := true
	for i := range ds {
		if ds[i].room != nil || ds[i].conn&attachBit != 0 {
			plain = false
			break
		}
	}
	if plain {
		l.deliverAll(ds)
		return
	}
	out := l.expanded[:0]
	for i := range ds {
		switch d := &ds[i]; {
		case d.room != nil:
			out = l.roomWord(d, out)
		case d.conn&attachBit != 0:
			l.attachAnswered(d.conn, d.frame)
		default:
			out = append(out, *d)
		}
	}
	l.deliverAll(out)
	clear(out)
	if l.expanded = out[:0]; cap(out) > maxKept {
		l.expanded = nil
	}
}

// deliverAll writes deliveries: all frames of one session leave in one write, in order.
func (l *eventLoop) deliverAll(ds []delivery) {
	if cap(l.chain) < len(ds) {
		l.chain = make([]uint32, len(ds))
	}
	chain := l.chain[:len(ds)]
	for i := range ds {
		d := &ds[i]
		chain[i] = 0
		s := l.sessions.get(d.conn)
		if s == nil || s.phase != phaseLive || (d.generation != 0 && d.generation != s.generation) {
			// A session without its Hello reads its heads after it: whatever is dropped here is below them.
			l.stats.missed.add(1)
			if s != nil && d.close != 0 && d.generation > s.generation {
				l.closes[s.id()] = early{d.generation, d.close}
			}
			continue
		}
		if s.touched == 0 {
			l.touched = append(l.touched, touch{s: s, head: int32(i), tail: int32(i)})
			s.touched = uint32(len(l.touched))
			continue
		}
		t := &l.touched[s.touched-1]
		chain[t.tail] = uint32(i)
		t.tail = int32(i)
	}
	l.last = lastWritten{}
	for i := range l.touched {
		s := l.touched[i].s
		if s.touched == uint32(i)+1 { // else a failed write of an earlier one ended it
			s.touched = 0
			l.deliverTo(s, ds, chain, uint32(l.touched[i].head))
		}
	}
	clear(l.touched)
	l.touched = l.touched[:0]
	if cap(l.chain) > maxKept {
		l.chain, l.touched = nil, nil
	}
	if cap(l.out) > 4*maxReply {
		l.out = nil
	}
}

// deliverTo writes one session's chain of deliveries.
func (l *eventLoop) deliverTo(s *session, ds []delivery, chain []uint32, first uint32) {
	proto := l.protocol(s)
	if d := &ds[first]; chain[first] == 0 && d.close == 0 && len(d.frame) > 0 {
		l.deliverOne(s, d.frame)
		return
	}
	l.last = lastWritten{}
	l.out = l.out[:0]
	for i := first; ; i = chain[i] {
		d := &ds[i]
		if len(d.frame) > 0 {
			l.out = proto.AppendFrame(l.out, &s.state, d.frame)
			l.stats.framesSent.add(1)
		}
		if d.close != 0 {
			l.closeDelivered(s, d.close)
			return
		}
		if len(l.out) > maxReply {
			if !l.send(s, l.out) || s.phase != phaseLive {
				return
			}
			l.out = l.out[:0]
		}
		if chain[i] == 0 {
			break
		}
	}
	if len(l.out) > 0 {
		l.send(s, l.out)
	}
}

// deliverOne writes a single frame. In a fan-out it is the same for thousands of sessions in a row, and made ready once.
func (l *eventLoop) deliverOne(s *session, frame []byte) {
	same := lastWritten{frame: &frame[0], len: len(frame), listener: s.listener, codec: s.state.Codec}
	if l.last != same {
		l.out = l.protocol(s).AppendFrame(l.out[:0], &s.state, frame)
		l.last = same
	}
	l.stats.framesSent.add(1)
	l.send(s, l.out)
}

// closeDelivered ends a session at the wish of a delivery, after the frames before it.
func (l *eventLoop) closeDelivered(s *session, code protocol.CloseCode) {
	l.reply = append(l.reply[:0], l.out...)
	var retryAfter time.Duration
	if code == protocol.CloseUnavailable || code == protocol.CloseOverloaded {
		retryAfter = refusedRetry
	}
	if code == protocol.CloseReplaced {
		// The entry is the newer session's by now.
		s.flags &^= flagRegistered
	}
	l.end(s, code, retryAfter)
	l.reply = l.reply[:0]
}

// Lost implements link.Node.
func (c *Comet) Lost() { c.sweepAll(sweepResync) }

// LostTo implements link.Node.
func (c *Comet) LostTo(users link.Users) {
	for _, l := range c.loops {
		l.post(func(in *inbox) bool {
			if len(in.owed) >= maxOwed {
				in.sweeps |= sweepResync
			} else {
				in.owed = append(in.owed, users)
			}
			return true
		})
	}
}
