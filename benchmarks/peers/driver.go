package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
)

// wire is how clients reach a server, and what they say there.
type wire struct {
	transport generator.Transport
	target    string
	path      string
	protocol  string // Subprotocol of the WebSocket.
	text      bool   // Payloads go in text frames.
	speak     dialect
	token     func(user string) string // Nil where there are none.
	acks      bool                     // The server acknowledges what it takes.
	echoes    bool                     // There are no addresses: what is sent comes back.
}

const (
	tick = 10 * time.Millisecond
	// connecting bounds the connects on their way; more of them would only wait in the server's backlog.
	connecting = 256
	dialers    = 16
	// standstill is how long connecting may go on without one more connection.
	standstill = 30 * time.Second
)

// part is one loop of the generator with what its clients count.
type part struct {
	worker  *generator.Worker
	texts   *texts
	scratch []byte

	// owned by the loop
	chats     []chat
	talking   bool
	measuring bool
	counts
	latency generator.Histogram
}

// counts are what happened to the messages of a part.
type counts struct {
	sent       int64
	due        int64 // Deliveries that they should have led to.
	acked      int64
	delivered  int64
	repeated   int64
	reordered  int64
	strays     int64
	impatience int64 // Messages that were given up, so that the next could be sent.
}

func (c *counts) add(o counts) {
	c.sent += o.sent
	c.due += o.due
	c.acked += o.acked
	c.delivered += o.delivered
	c.repeated += o.repeated
	c.reordered += o.reordered
	c.strays += o.strays
	c.impatience += o.impatience
}

// chat is a conversation that runs by itself.
type chat interface {
	conversation
	begin()
	// inFlight is how many messages are on their way; look gives up those that have been for too long.
	inFlight() int
	look(now int64)
}

// driver holds the clients of one scenario.
type driver struct {
	fleet   *generator.Fleet
	parts   []*part
	clients []*client
	running bool

	up   atomic.Int64
	lost atomic.Int64
	last atomic.Pointer[error]
}

// newDriver makes loops; who calls adds clients and starts it.
func newDriver(w wire, n, loops, size int) (*driver, error) {
	fleet, err := generator.New(generator.Config{
		Workers: loops, Transport: w.transport, Targets: []string{w.target}, Path: w.path, Subprotocol: w.protocol, Text: w.text,
		Tick: tick, Dialers: dialers, Seed: 1, Sources: sources(n),
	}, n)
	if err != nil {
		return nil, err
	}
	d := &driver{fleet: fleet}
	for _, worker := range fleet.Workers() {
		p := &part{worker: worker, texts: newTexts(size), latency: generator.NewHistogram()}
		looked := int64(0)
		worker.EachTick(func(now int64) {
			if now-looked < int64(time.Second) {
				return
			}
			looked = now
			for _, c := range p.chats {
				c.look(now)
			}
		})
		d.parts = append(d.parts, p)
	}
	return d, nil
}

// sources are the local addresses for n connections to one port: each has some 28,000 ports, and those of the run before may
// still be waiting.
func sources(n int) (ips []net.IP) {
	for i := range n/10_000 + 1 {
		ips = append(ips, net.IPv4(127, 0, 0, byte(2+i)))
	}
	return ips
}

// add makes a client.
func (d *driver) add(w wire, p *part, c *client) *client {
	c.driver, c.part = d, p
	if w.token != nil {
		c.token = w.token(c.user)
	}
	c.session = w.speak(c)
	c.line.Init(p.worker, len(d.clients), c)
	d.clients = append(d.clients, c)
	return c
}

// idlers adds n clients who only listen.
func (d *driver) idlers(w wire, n int) {
	for i := range n {
		user := "u" + strconv.Itoa(i)
		d.add(w, d.parts[i%len(d.parts)], &client{user: user, listen: user})
	}
}

// connect brings all of them up.
func (d *driver) connect(ctx context.Context) error {
	if err := d.fleet.Start(); err != nil {
		return err
	}
	d.running = true
	wake := time.NewTicker(time.Millisecond)
	defer wake.Stop()
	best, moved := 0, time.Now()
	for next := 0; ; {
		up := int(d.up.Load())
		if err := d.broken(); err != nil {
			return fmt.Errorf("%d of %d connected: %w", up, len(d.clients), err)
		}
		if up == len(d.clients) {
			return nil
		}
		if up > best {
			best, moved = up, time.Now()
		}
		if time.Since(moved) > standstill {
			return fmt.Errorf("%d of %d connected, and no more for %v", up, len(d.clients), standstill)
		}
		for ; next < min(len(d.clients), up+connecting); next++ {
			d.fleet.Connect(&d.clients[next].line)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d connected: %w", up, len(d.clients), context.Cause(ctx))
		case <-wake.C:
		}
	}
}

// broken is why the run is worth nothing any more.
func (d *driver) broken() error {
	if err := d.fleet.Err(); err != nil {
		return err
	}
	if n := d.lost.Load(); n > 0 {
		return fmt.Errorf("%d connections were lost, the last: %w", n, *d.last.Load())
	}
	return nil
}

// each runs f on every loop and waits.
func (d *driver) each(f func(p *part)) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, p := range d.parts {
		if len(p.chats) > 0 && !p.worker.Ask(ctx, func() { f(p) }) {
			return errors.New("a loop of the generator does not answer")
		}
	}
	return nil
}

// count sums what happened until now.
func (d *driver) count() (sum counts, err error) {
	err = d.each(func(p *part) { sum.add(p.counts) })
	return sum, err
}

// drain ends all conversations and waits for what is on its way.
func (d *driver) drain(ctx context.Context, wait time.Duration) error {
	if err := d.each(func(p *part) { p.talking = false }); err != nil {
		return err
	}
	for deadline := time.Now().Add(wait); time.Now().Before(deadline) && ctx.Err() == nil; {
		flying := 0
		if err := d.each(func(p *part) {
			for _, c := range p.chats {
				flying += c.inFlight()
			}
		}); err != nil || flying == 0 {
			return err
		}
		pause(ctx, 20*time.Millisecond)
	}
	return nil
}

// stop closes all connections.
func (d *driver) stop() {
	if d.running {
		d.running = false
		d.fleet.Stop()
	}
}

// pause sleeps, but not beyond the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
