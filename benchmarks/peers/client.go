package main

import (
	"errors"

	"github.com/halley-im/halley/benchmarks/generator"
)

// session is the client's side of a peer's protocol on one connection. All calls come from the connection's loop.
type session interface {
	// open begins, as soon as the transport stands; client.ready ends what it begins.
	open()
	// read takes a frame, or what arrived of a stream; p is valid during the call only.
	read(p []byte) error
	// publish sends a text to who listens at an address. Where the server acknowledges, client.acked names the slot.
	publish(to string, slot uint32, text []byte)
}

// dialect makes the session of a client.
type dialect func(c *client) session

// conversation is what clients do with each other.
type conversation interface {
	delivered(c *client, text []byte)
	acked(c *client, slot uint32)
}

// client is one connection: who it is, and where it listens.
type client struct {
	// static
	driver *driver
	part   *part
	user   string
	listen string // Its own address, a room, or nothing.
	room   string // The room of the scenario, if it has one.
	token  string
	chat   conversation // Nil where nobody says anything.

	// owned by the loop
	line    generator.Line
	session session
	up      bool
	last    uint32 // The highest message of a room that arrived.
}

var _ generator.Endpoint = (*client)(nil)

// send queues a frame, or bytes of a stream.
func (c *client) send(b []byte) { c.line.Send(b) }

// ready says that the server has let the client in, and that what is sent to where it listens reaches it.
func (c *client) ready() {
	if !c.up {
		c.up = true
		c.driver.up.Add(1)
	}
}

// deliver hands over a text that arrived.
func (c *client) deliver(text []byte) {
	if c.chat == nil {
		c.part.strays++
		return
	}
	c.chat.delivered(c, text)
}

// acked says that the server has taken the text of a slot.
func (c *client) acked(slot uint32) {
	if c.chat == nil {
		c.part.strays++
		return
	}
	c.chat.acked(c, slot)
}

// Opened implements generator.Endpoint.
func (c *client) Opened() { c.session.open() }

// Payload implements generator.Endpoint.
func (c *client) Payload(p []byte) {
	if err := c.session.read(p); err != nil {
		c.line.Close(err)
	}
}

// Closed implements generator.Endpoint: nobody comes back, for a run that loses connections measures something else.
func (c *client) Closed(err error) {
	if err == nil {
		err = errors.New("closed by the server")
	}
	c.driver.last.Store(&err)
	c.driver.lost.Add(1)
}

// tail keeps what is not whole yet of a stream of packets.
type tail struct{ kept []byte }

// feed calls next with what is there until it wants more: next returns the length of the packet it took, or 0.
func (t *tail) feed(p []byte, next func(p []byte) (int, error)) error {
	b := p
	if len(t.kept) > 0 {
		t.kept = append(t.kept, p...)
		b = t.kept
	}
	for len(b) > 0 {
		n, err := next(b)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		b = b[n:]
	}
	if len(b) > maxTail {
		return errors.New("a packet without end")
	}
	t.kept = append(t.kept[:0], b...)
	return nil
}

// maxTail bounds it; no server has reason to send a packet as large.
const maxTail = 1 << 20
