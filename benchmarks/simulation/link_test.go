package simulation

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

type handlers = map[envelopev1.Command]feature.Handler

// pipe carries what goes one way between two processes, in order.
type pipe struct {
	w    *world
	dice *dice
	wake chan struct{}

	mu    sync.Mutex
	items []item
	last  time.Time
}

type item struct {
	at time.Time
	fn func()
}

func (w *world) pipe(name string) *pipe {
	p := &pipe{w: w, dice: w.dice("pipe " + name), wake: make(chan struct{}, 1)}
	w.wg.Go(p.run)
	return p
}

func (p *pipe) run() {
	for {
		select {
		case <-p.wake:
		case <-p.w.ctx.Done():
			return
		}
		for it, ok := p.next(); ok; it, ok = p.next() {
			if !p.w.wait(time.Until(it.at)) {
				return
			}
			it.fn()
		}
	}
}

func (p *pipe) next() (item, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.items) == 0 {
		return item{}, false
	}
	it := p.items[0]
	p.items = p.items[1:]
	return it, true
}

// put carries fn; false: it was lost.
func (p *pipe) put(fn func()) bool {
	var d time.Duration
	switch weather(p.w.weather.Load()) {
	case calm:
		d = p.dice.between(20*time.Microsecond, 400*time.Microsecond)
	case slow:
		d = p.dice.between(20*time.Microsecond, 30*time.Millisecond)
	default:
		if p.dice.one(60) {
			return false
		}
		d = p.dice.between(20*time.Microsecond, 5*time.Millisecond)
		if p.dice.one(40) {
			d += p.dice.between(0, 1500*time.Millisecond)
		}
	}
	p.after(d, fn)
	return true
}

func (p *pipe) after(d time.Duration, fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now().Add(d)
	if !at.After(p.last) {
		at = p.last.Add(1)
	}
	p.last = at
	p.items = append(p.items, item{at, fn})
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// sender is the link of a process to the nodes, as pkg/link/natslink keeps it: numbered, so that what is lost is found out.
type sender struct {
	p     *proc
	pipes []*pipe
}

func newSender(p *proc) *sender {
	s := &sender{p: p}
	for _, n := range p.w.nodes {
		s.pipes = append(s.pipes, p.w.pipe("deliveries "+p.name+" "+n.name))
	}
	return s
}

// Send implements link.Sender.
func (s *sender) Send(to string, b *link.Batch) {
	if s.p.gate() != nil {
		return
	}
	w := s.p.w
	at := slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == to })
	n, copied := w.nodes[at], *b
	copied.Deliveries = slices.Clone(b.Deliveries)
	for i := range copied.Deliveries {
		w.checkSent(s.p, n, &copied.Deliveries[i])
	}
	if !s.pipes[at].put(func() { n.Deliver(&copied) }) {
		w.step("link: %s to %s lost %d deliveries", s.p.name, n.name, len(copied.Deliveries))
		w.count(func(c *counts) { c.lost++ })
		w.later(s.pipes[at].dice.between(100*time.Millisecond, 2*time.Second), n.Lost)
	}
}

// Skip implements link.Sender.
func (s *sender) Skip() {
	if s.p.gate() != nil {
		return
	}
	s.p.w.step("link: %s skips", s.p.name)
	for i, n := range s.p.w.nodes {
		if !s.pipes[i].put(n.Lost) {
			s.p.w.later(time.Second, n.Lost)
		}
	}
}

// SkipUsers implements link.Sender. A node that misses it finds out, and has everybody compare heads.
func (s *sender) SkipUsers(users link.Users) {
	if s.p.gate() != nil {
		return
	}
	s.p.w.step("link: %s skips %d users", s.p.name, len(users))
	for i, n := range s.p.w.nodes {
		if !s.pipes[i].put(func() { n.LostTo(users) }) {
			s.p.w.later(time.Second, n.Lost)
		}
	}
}

// later runs fn after a while.
func (w *world) later(d time.Duration, fn func()) {
	w.wg.Go(func() {
		if w.wait(d) {
			fn()
		}
	})
}

// node is a comet: sessions, and what it does with deliveries for them.
type node struct {
	w     *world
	name  string
	index int
	dice  *dice
	lease uint64 // epoch of its lease in presence
	cut   faultyUntil
	held  *pipe // carries what a cut holds up, in order

	mu       sync.Mutex
	epoch    uint64 // of the batches last heard
	sessions map[uint64]*session
}

// session is one connection of a device.
type session struct {
	conn       uint64
	generation uint64
	d          *device
	down       *pipe
	inbox      chan event
}

func (w *world) newNode(i int, name string) *node {
	return &node{w: w, name: name, index: i, dice: w.dice("node " + name), held: w.pipe("held " + name), sessions: map[uint64]*session{}}
}

// keep holds the node's lease in presence.
func (n *node) keep() {
	for n.w.wait(presence.RenewEvery) {
		if err := n.w.presence.Renew(n.w.ctx, n.name, n.lease); err != nil {
			n.w.violated("setup", "%s: %v", n.name, err)
		}
	}
}

// Deliver implements link.Node: an owner that another has followed is not heard any more.
func (n *node) Deliver(b *link.Batch) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.Epoch < n.epoch {
		return
	}
	n.epoch = b.Epoch
	for _, d := range b.Deliveries {
		s := n.sessions[d.Conn]
		if s == nil || d.Generation != 0 && d.Generation != s.generation {
			continue
		}
		s.give(event{frame: d.Frame})
	}
}

// Lost implements link.Node.
func (n *node) Lost() { n.resync(func(string) bool { return true }) }

// LostTo implements link.Node.
func (n *node) LostTo(users link.Users) {
	n.resync(func(user string) bool { return users.Has(app, user) })
}

func (n *node) resync(concerns func(user string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.w.step("node: %s may have lost deliveries", n.name)
	for _, d := range n.w.devices { // In an order that is always the same.
		for _, s := range n.sessions {
			if s.d == d && concerns(d.user) {
				s.give(event{resyncIn: n.dice.between(time.Millisecond, 2*time.Second)})
			}
		}
	}
}

// give puts an event on the wire to the device. Nothing is lost there as long as the connection lives.
func (s *session) give(e event) {
	put := func() {
		select {
		case s.inbox <- e:
		default: // As many as a device can never have waiting.
			s.d.w.violated("setup", "%s does not read", s.d.name)
		}
	}
	if !s.down.put(put) {
		s.down.after(time.Millisecond, put)
	}
}

// hear is the word of a new owner.
func (n *node) hear(epoch uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.epoch = max(n.epoch, epoch)
}

// route stamps a request with the owner that is known here. Where the node's way to the owners is cut the request is held up, and goes
// to whoever takes requests when the cut is over.
func (n *node) route(r link.Request) bool {
	n.mu.Lock()
	r.Epoch = n.epoch
	n.mu.Unlock()
	if d := n.cut.left(); d > 0 {
		n.held.after(d, func() { n.pass(&r) })
		return true
	}
	return n.pass(&r)
}

// pass takes a request to every process that takes requests.
func (n *node) pass(r *link.Request) bool {
	n.w.mu.Lock()
	attached := slices.Clone(n.w.attached)
	n.w.mu.Unlock()
	if len(attached) > 1 && n.dice.one(3) { // The others' copies are late beyond use.
		i := n.dice.n(len(attached))
		attached = attached[i : i+1]
	}
	for _, a := range attached {
		a.pipes[n.index].put(func() {
			if a.p.gate() != nil {
				return
			}
			if err := a.in.Enqueue(*r); err != nil {
				n.mu.Lock()
				defer n.mu.Unlock()
				if s := n.sessions[r.Conn]; s != nil && len(attached) == 1 {
					s.give(event{refused: err, request: r.RequestID})
				}
			}
		})
	}
	return len(attached) > 0
}

// connect registers a device's session; false: presence does not answer.
func (n *node) connect(ctx context.Context, s *session) bool {
	n.mu.Lock()
	n.sessions[s.conn] = s
	n.mu.Unlock()
	reg := []presence.Registration{{
		User:  presence.User{App: app, User: s.d.user},
		Entry: presence.Entry{Device: s.d.dev, Node: n.name, Epoch: n.lease, Conn: s.conn, Codec: link.CodecProto},
	}}
	if n.w.presentF.is() || n.w.presence.Register(ctx, reg) != nil {
		n.drop(s)
		return false
	}
	n.mu.Lock()
	s.generation = reg[0].Entry.Generation
	n.mu.Unlock()
	return true
}

func (n *node) drop(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sessions, s.conn)
}
