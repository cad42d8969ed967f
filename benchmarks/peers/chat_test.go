package main

import (
	"bytes"
	"testing"

	"github.com/halley-im/halley/benchmarks/generator"
)

// post is a text on its way through a server of the test's.
type post struct {
	from *client
	to   string
	slot uint32
	text []byte
}

// wireless is a session that puts what is published into a list.
type wireless struct {
	c    *client
	sent *[]post
}

func (w wireless) open()             {}
func (w wireless) read([]byte) error { return nil }
func (w wireless) publish(to string, slot uint32, text []byte) {
	*w.sent = append(*w.sent, post{w.c, to, slot, bytes.Clone(text)})
}

// still is a driver that is not started: the test is its server.
func still(t *testing.T, acks bool) (*driver, wire, *[]post) {
	t.Helper()
	var sent []post
	w := wire{transport: generator.WebSocket, target: "127.0.0.1:1", acks: acks}
	w.speak = func(c *client) session { return wireless{c, &sent} }
	d, err := newDriver(w, 100, 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	return d, w, &sent
}

// next takes the oldest.
func next(t *testing.T, sent *[]post) post {
	t.Helper()
	if len(*sent) == 0 {
		t.Fatal("nothing was sent")
	}
	p := (*sent)[0]
	*sent = (*sent)[1:]
	return p
}

func (d *driver) user(name string) *client {
	for _, c := range d.clients {
		if c.user == name {
			return c
		}
	}
	return nil
}

func TestAPairAnswersWhatHasArrivedAndIsAcknowledged(t *testing.T) {
	d, w, sent := still(t, true)
	d.pairs(w, 1, 2)
	p := d.parts[0]
	p.talking = true
	p.chats[0].begin()
	if len(*sent) != 2 {
		t.Fatalf("%d messages are on their way, want 2", len(*sent))
	}
	for range 10 {
		m := next(t, sent)
		waiting := len(*sent)
		d.user(m.to).deliver(m.text)
		if len(*sent) != waiting {
			t.Fatal("the next was sent before the ack")
		}
		m.from.acked(m.slot)
		if last := (*sent)[len(*sent)-1]; len(*sent) != waiting+1 || last.from.user != m.to || last.to != m.from.user {
			t.Fatalf("after %s → %s came %s → %s", m.from.user, m.to, last.from.user, last.to)
		}
	}
	p.talking = false
	for range 2 {
		m := next(t, sent)
		m.from.acked(m.slot)
		d.user(m.to).deliver(m.text)
	}
	if len(*sent) != 0 || p.chats[0].inFlight() != 0 {
		t.Error("it goes on after its end")
	}
	o := verdict(p.counts, true)
	if o.faults() != 0 || o.Sent != 12 || o.Delivered != 12 || o.Acked != 12 {
		t.Errorf("%+v", o)
	}
}

func TestAPairSeesWhatAServerDoesToMessages(t *testing.T) {
	for name, c := range map[string]struct {
		play func(d *driver, a, b post)
		want oracle
	}{
		"lost": {func(d *driver, _, b post) {
			d.user(b.to).deliver(b.text)
			b.from.acked(b.slot)
		}, oracle{Missing: 1, Unacked: 1}},
		"twice": {func(d *driver, a, b post) {
			d.user(a.to).deliver(a.text)
			d.user(a.to).deliver(a.text)
			d.user(b.to).deliver(b.text)
			a.from.acked(a.slot)
			b.from.acked(b.slot)
		}, oracle{Repeated: 1}},
		"out of order": {func(d *driver, a, b post) {
			d.user(b.to).deliver(b.text)
			d.user(a.to).deliver(a.text)
			a.from.acked(a.slot)
			b.from.acked(b.slot)
		}, oracle{Reordered: 1}},
		"to the wrong one": {func(d *driver, a, b post) {
			a.from.deliver(a.text)
			d.user(a.to).deliver(a.text)
			d.user(b.to).deliver(b.text)
			a.from.acked(a.slot)
			b.from.acked(b.slot)
		}, oracle{Strays: 1}},
		"changed": {func(d *driver, a, b post) {
			a.text[50] = '#'
			d.user(a.to).deliver(a.text)
			d.user(b.to).deliver(b.text)
			a.from.acked(a.slot)
			b.from.acked(b.slot)
		}, oracle{Strays: 1, Missing: 1}},
		"acknowledged twice": {func(d *driver, a, b post) {
			a.from.acked(a.slot)
			a.from.acked(a.slot)
			b.from.acked(b.slot)
			d.user(a.to).deliver(a.text)
			d.user(b.to).deliver(b.text)
		}, oracle{Strays: 1}},
	} {
		d, w, sent := still(t, true)
		d.pairs(w, 1, 2)
		p := d.parts[0]
		p.talking = true
		p.chats[0].begin()
		p.talking = false
		c.play(d, next(t, sent), next(t, sent))
		got := verdict(p.counts, true)
		if got.Missing != c.want.Missing || got.Unacked != c.want.Unacked || got.Repeated != c.want.Repeated ||
			got.Reordered != c.want.Reordered || got.Strays != c.want.Strays {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestALostMessageDoesNotStopAPair(t *testing.T) {
	d, w, sent := still(t, false)
	d.pairs(w, 1, 1)
	p := d.parts[0]
	p.talking = true
	p.chats[0].begin()
	lost := next(t, sent)
	p.chats[0].look(int64(patience))
	if len(*sent) != 0 {
		t.Fatal("it was given up too soon")
	}
	p.chats[0].look(int64(patience) + 1)
	m := next(t, sent)
	d.user(lost.to).deliver(lost.text) // Late after all.
	d.user(m.to).deliver(m.text)
	if next(t, sent); p.impatience != 1 || p.delivered != 2 || p.strays+p.repeated+p.reordered != 0 {
		t.Errorf("%+v", p.counts)
	}
}

func TestACrowdGoesOnWhenAllHaveIt(t *testing.T) {
	d, w, sent := still(t, true)
	d.room(w, 3)
	p := d.parts[0]
	p.talking = true
	p.chats[0].begin()
	for range 5 {
		m := next(t, sent)
		m.from.acked(0)
		for i, c := range d.clients {
			if c == m.from {
				continue
			}
			if len(*sent) != 0 {
				t.Fatalf("the next was sent before client %d had this one", i)
			}
			c.deliver(m.text)
		}
	}
	p.talking = false
	m := next(t, sent)
	for _, name := range []string{"u1", "u2", "u2"} { // One gets it twice, and one not at all.
		d.user(name).deliver(m.text)
	}
	m.from.deliver(m.text) // Who writes does not listen.
	m.from.acked(0)
	got := verdict(p.counts, true)
	if got.Sent != 6 || got.Due != 18 || got.Delivered != 17 || got.Missing != 1 || got.Repeated != 1 || got.Strays != 1 || got.Unacked != 0 {
		t.Errorf("%+v", got)
	}
}
