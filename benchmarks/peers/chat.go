package main

import (
	"strconv"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
)

// patience is after how long a message is given up: a server may drop it, and a closed loop would stand still.
const patience = 10 * time.Second

// flight is one message on its way: sent, and not both acknowledged and delivered.
type flight struct {
	seq       uint32
	from      uint8
	flying    bool
	delivered bool
	acked     bool
	sent      int64
}

// pair is a 1:1 conversation. What has arrived and is acknowledged is followed by the next message of the other end.
type pair struct {
	// static
	part   *part
	number uint32
	acks   bool
	echoes bool
	ends   [2]*client

	// owned by the loop
	slots []flight
	seq   uint32
	last  [2]uint32 // The highest seq that reached each end.
}

// pairs adds n of them, each with so many messages on their way.
func (d *driver) pairs(w wire, n, outstanding int) {
	for i := range n {
		p := d.parts[i%len(d.parts)]
		c := &pair{part: p, number: uint32(i), acks: w.acks, echoes: w.echoes, slots: make([]flight, outstanding)}
		for side := range c.ends {
			user := "u" + strconv.Itoa(2*i+side)
			c.ends[side] = d.add(w, p, &client{user: user, listen: user, chat: c})
		}
		p.chats = append(p.chats, c)
	}
}

func (c *pair) begin() {
	for slot := range c.slots {
		c.post(uint32(slot), 0)
	}
}

func (c *pair) post(slot uint32, from uint8) {
	p := c.part
	if !p.talking {
		return
	}
	c.seq++
	c.slots[slot] = flight{seq: c.seq, from: from, flying: true, acked: !c.acks, sent: p.worker.Now()}
	p.sent++
	p.due++
	c.ends[from].session.publish(c.ends[1-from].user, slot, p.texts.make(stamp{c.number, c.seq, slot}))
}

// delivered implements conversation.
func (c *pair) delivered(to *client, text []byte) {
	p := c.part
	s, ok := p.texts.read(text)
	if !ok || s.conversation != c.number || int(s.slot) >= len(c.slots) {
		p.strays++
		return
	}
	f := &c.slots[s.slot]
	side := uint8(0)
	if to == c.ends[1] {
		side = 1
	}
	if meant := 1 - f.from; s.seq == f.seq && side != meant && !c.echoes {
		p.strays++
		return
	}
	if s.seq == f.seq && f.delivered {
		p.repeated++
		return
	}
	p.delivered++
	if s.seq < c.last[side] {
		p.reordered++
	}
	c.last[side] = max(c.last[side], s.seq)
	if s.seq != f.seq {
		return // It was given up.
	}
	f.delivered = true
	if p.measuring {
		generator.Record(p.latency, p.worker.Now()-f.sent)
	}
	c.finish(s.slot)
}

// acked implements conversation.
func (c *pair) acked(from *client, slot uint32) {
	if int(slot) >= len(c.slots) || c.ends[c.slots[slot].from] != from || c.slots[slot].acked {
		c.part.strays++
		return
	}
	c.part.acked++
	c.slots[slot].acked = true
	c.finish(slot)
}

func (c *pair) finish(slot uint32) {
	if f := &c.slots[slot]; f.flying && f.delivered && f.acked {
		f.flying = false
		c.post(slot, 1-f.from)
	}
}

func (c *pair) inFlight() (n int) {
	for _, f := range c.slots {
		if f.flying {
			n++
		}
	}
	return n
}

func (c *pair) look(now int64) {
	for slot := range c.slots {
		if f := &c.slots[slot]; f.flying && now-f.sent > int64(patience) {
			f.flying = false
			c.part.impatience++
			c.post(uint32(slot), 1-f.from)
		}
	}
}

// crowd is one conversation of many: one writes, and everybody else must receive. The next message follows when all have it.
type crowd struct {
	// static
	part   *part
	acks   bool
	sender *client
	others int

	// owned by the loop
	flight  flight
	missing int
}

// roomName is where a crowd meets.
const roomName = "room"

// room adds a crowd of n who receive.
func (d *driver) room(w wire, n int) {
	p := d.parts[0]
	c := &crowd{part: p, acks: w.acks, others: n}
	c.sender = d.add(w, p, &client{user: "u0", room: roomName, chat: c})
	for i := range n {
		d.add(w, p, &client{user: "u" + strconv.Itoa(i+1), listen: roomName, room: roomName, chat: c})
	}
	p.chats = append(p.chats, c)
}

func (c *crowd) begin() { c.post() }

func (c *crowd) post() {
	p := c.part
	if !p.talking {
		return
	}
	c.flight = flight{seq: c.flight.seq + 1, flying: true, acked: !c.acks, sent: p.worker.Now()}
	c.missing = c.others
	p.sent++
	p.due += int64(c.others)
	c.sender.session.publish(roomName, 0, p.texts.make(stamp{seq: c.flight.seq}))
}

// delivered implements conversation.
func (c *crowd) delivered(to *client, text []byte) {
	p := c.part
	s, ok := p.texts.read(text)
	switch {
	case !ok || s.conversation != 0 || s.slot != 0 || s.seq > c.flight.seq || to == c.sender:
		p.strays++
		return
	case s.seq == to.last:
		p.repeated++
		return
	case s.seq < to.last: // Late, or a second time: what was passed over is not kept.
		p.reordered++
		return
	}
	to.last = s.seq
	p.delivered++
	if s.seq != c.flight.seq {
		return // It was given up.
	}
	if p.measuring {
		generator.Record(p.latency, p.worker.Now()-c.flight.sent)
	}
	c.missing--
	c.finish()
}

// acked implements conversation.
func (c *crowd) acked(from *client, _ uint32) {
	if from != c.sender || c.flight.acked {
		c.part.strays++
		return
	}
	c.part.acked++
	c.flight.acked = true
	c.finish()
}

func (c *crowd) finish() {
	if c.flight.flying && c.flight.acked && c.missing == 0 {
		c.flight.flying = false
		c.post()
	}
}

func (c *crowd) inFlight() int {
	if c.flight.flying {
		return 1
	}
	return 0
}

func (c *crowd) look(now int64) {
	if c.flight.flying && now-c.flight.sent > int64(patience) {
		c.flight.flying = false
		c.part.impatience++
		c.post()
	}
}
