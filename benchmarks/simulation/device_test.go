package simulation

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

const app = "main"

// device follows the rules of docs/protocol.md, written down a second time and without pkg/client's code: an outbox for each
// conversation, a cursor, and history for what is missing.
type device struct {
	w               *world
	user, dev, name string
	dice            *dice
	// Keeps its connection through everything, so that nothing but the server's word makes it look for what it misses.
	stays bool
	cut   chan time.Duration // ends the connection for that long

	mu          sync.Mutex
	node        *node
	session     *session
	reconnectAt time.Time
	chats       []*chat
	out         []*request // on the way, in order
	nextRequest uint64
	connects    int
	writes      int // made so far
	nextWrite   time.Time
	silent      bool // makes no more writes
}

// chat is a conversation on a device.
type chat struct {
	id      string
	cursor  uint64
	head    uint64
	early   []*recordv1.Record // ascending
	readAt  time.Time          // history is to be read; zero: nothing is known to be missing
	syncAt  time.Time          // the same, after a connect or a resync: whatever is known
	reading bool
	shown   []uint64

	queue     []*write
	next      int
	inFlight  int
	startOver bool
	notBefore time.Time
	rounds    int
}

// write is one that has no answer yet.
type write struct {
	id      string
	command envelopev1.Command
	body    []byte
	since   uint64
	sent    bool
}

// request is one transmission.
type request struct {
	id       uint64
	chat     *chat
	write    *write // nil: a read
	deadline time.Time
	atLeast  uint64 // a read must know of this one
}

// event is what reaches a device.
type event struct {
	frame    []byte
	resyncIn time.Duration
	refused  *protocol.Error
	request  uint64
}

// patience is how long a device waits for an answer.
const patience = 4 * time.Second

func (w *world) newDevice(user, dev string, chats []string) *device {
	d := &device{w: w, user: user, dev: dev, name: user + "/" + dev, dice: w.dice("device " + user + dev), cut: make(chan time.Duration, 1)}
	for _, id := range chats {
		d.chats = append(d.chats, &chat{id: id})
	}
	d.stays = d.dice.one(2)
	d.nextWrite = time.Now().Add(d.dice.between(time.Millisecond, time.Second))
	return d
}

// run lives the device's life until the world ends.
func (d *device) run() {
	for {
		d.mu.Lock()
		d.act(time.Now())
		var inbox chan event
		if d.session != nil {
			inbox = d.session.inbox
		}
		timer := time.NewTimer(time.Until(d.due()))
		d.mu.Unlock()
		select {
		case <-d.w.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case off := <-d.cut:
			d.mu.Lock()
			if off > 0 {
				d.disconnect(off)
			}
			d.mu.Unlock()
		case e := <-inbox:
			d.mu.Lock()
			d.handle(&e)
			d.mu.Unlock()
		}
		timer.Stop()
	}
}

// due is when there is something to do by itself.
func (d *device) due() time.Time {
	at := time.Now().Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if d.session == nil {
		sooner(d.reconnectAt)
	}
	if !d.silent {
		sooner(d.nextWrite)
	}
	for _, r := range d.out {
		sooner(r.deadline)
	}
	for _, c := range d.chats {
		if d.session != nil && !c.reading {
			sooner(c.readAt)
			sooner(c.syncAt)
		}
		if d.session != nil && c.startOver && c.inFlight == 0 {
			sooner(c.notBefore)
		}
	}
	return at
}

func (d *device) act(now time.Time) {
	if d.session == nil && !now.Before(d.reconnectAt) {
		d.connect()
	}
	for len(d.out) > 0 && !now.Before(d.out[0].deadline) {
		d.refused(d.out[0], nil)
	}
	if !d.silent && !now.Before(d.nextWrite) {
		d.compose()
		d.nextWrite = now.Add(d.dice.between(10*time.Millisecond, d.w.pace))
		if !d.stays && d.w.is(storm) && d.dice.one(2) { // A person scrolls.
			d.chats[d.dice.n(len(d.chats))].syncAt = now
		}
	}
	if d.session == nil {
		return
	}
	for _, c := range d.chats {
		if !c.reading && (!c.readAt.IsZero() && !now.Before(c.readAt) || !c.syncAt.IsZero() && !now.Before(c.syncAt)) {
			d.read(c)
		}
		d.pump(c, now)
	}
}

// connect registers first and compares heads then: here by reading every conversation after the cursor.
func (d *device) connect() {
	n := d.w.nodes[d.dice.n(len(d.w.nodes))]
	d.w.mu.Lock()
	d.w.conns++
	s := &session{conn: d.w.conns, d: d, inbox: make(chan event, 512)}
	d.w.online[s.conn] = d
	d.w.mu.Unlock()
	d.connects++
	s.down = d.w.pipe(fmt.Sprint("session ", d.name, d.connects))
	if !n.connect(d.w.ctx, s) {
		d.reconnectAt = time.Now().Add(d.dice.between(100*time.Millisecond, time.Second))
		return
	}
	d.w.step("device: %s connects to %s", d.name, n.name)
	d.node, d.session = n, s
	for _, c := range d.chats {
		c.syncAt, c.startOver, c.notBefore = time.Now(), true, time.Now()
	}
}

func (d *device) disconnect(off time.Duration) {
	if d.session == nil {
		return
	}
	d.w.step("device: %s is cut off", d.name)
	s := d.session
	d.node.drop(s)
	reg := []presence.Registration{{
		User: presence.User{App: app, User: d.user}, Entry: presence.Entry{Device: d.dev, Node: d.node.name, Generation: s.generation},
	}}
	d.w.later(d.dice.between(0, 500*time.Millisecond), func() { _ = d.w.presence.Unregister(d.w.ctx, reg) }) // Best effort.
	d.session, d.reconnectAt, d.out = nil, time.Now().Add(off), nil
	for _, c := range d.chats {
		c.reading, c.inFlight = false, 0
	}
}

// request sends a frame to whoever owns the conversation.
func (d *device) request(c *chat, wr *write, r *link.Request) *request {
	d.nextRequest++
	q := &request{id: d.nextRequest, chat: c, write: wr, deadline: time.Now().Add(patience)}
	d.out = append(d.out, q)
	r.Node, r.Conn, r.App, r.User, r.Device = d.node.name, d.session.conn, app, d.user, d.dev
	r.Codec, r.RequestID, r.Conversation = link.CodecProto, q.id, c.id
	a := &asked{conversation: c.id, user: d.user, device: d.dev}
	if wr != nil {
		a.clientID = wr.id
	}
	d.w.mu.Lock()
	d.w.asked[question{r.Conn, q.id}] = a
	d.w.mu.Unlock()
	return q
}

func (d *device) send(q *request, r *link.Request) {
	if !d.node.route(*r) {
		d.refused(q, protocol.Errorf(protocol.CodeRetry, "no owner"))
	}
}

func (d *device) handle(e *event) {
	switch {
	case e.resyncIn > 0:
		d.resync(e.resyncIn)
		return
	case e.refused != nil:
		if q := d.waiting(e.request); q != nil {
			d.refused(q, e.refused)
		}
		return
	}
	f := &envelopev1.Frame{}
	if err := f.UnmarshalVT(e.frame); err != nil {
		d.w.violated("frame", "%s got one that cannot be decoded: %v", d.name, err)
		return
	}
	if f.RequestId == 0 {
		d.pushed(f)
		return
	}
	q := d.waiting(f.RequestId)
	switch {
	case q == nil: // The answer to a transmission that was given up.
	case f.Error != nil:
		d.refused(q, protocol.FromWire(f.Error))
	case q.write != nil:
		d.acked(q, f)
	default:
		d.page(q, f)
	}
}

func (d *device) waiting(id uint64) *request {
	for _, q := range d.out {
		if q.id == id {
			return q
		}
	}
	return nil
}

func (d *device) answered(q *request) {
	d.out = slices.DeleteFunc(d.out, func(o *request) bool { return o == q })
	if q.write == nil {
		q.chat.reading = false
	} else {
		q.chat.inFlight--
	}
}

// refused takes an error, or none within the patience.
func (d *device) refused(q *request, err *protocol.Error) {
	d.answered(q)
	again := err == nil || err.Code.Retryable()
	d.w.count(func(c *counts) { c.again++ })
	switch {
	case q.write == nil:
		d.readRefused(q, err, again)
	case again:
		c := q.chat
		if !c.startOver {
			c.startOver = true
			c.rounds++
		}
		pause := d.dice.between(time.Millisecond, 20*time.Millisecond<<min(c.rounds, 5))
		if err != nil {
			pause += err.RetryAfter
		}
		if at := time.Now().Add(pause); at.After(c.notBefore) {
			c.notBefore = at
		}
	default:
		d.finallyRefused(q, err)
	}
}

func (d *device) acked(q *request, f *envelopev1.Frame) {
	d.answered(q)
	ack := &recordv1.Ack{}
	if err := ack.UnmarshalVT(f.Body); err != nil {
		d.w.violated("frame", "%s got an ack that cannot be decoded: %v", d.name, err)
		return
	}
	c := q.chat
	d.remove(c, q.write)
	c.rounds = 0
	d.w.isAcked(d, c.id, q.write.id, ack.Seq)
	d.arrived(c, &recordv1.Record{Seq: ack.Seq, Sender: d.user, ClientId: q.write.id})
}

func (d *device) remove(c *chat, wr *write) {
	at := slices.Index(c.queue, wr)
	if at < 0 {
		return
	}
	c.queue = slices.Delete(c.queue, at, at+1)
	if at < c.next {
		c.next--
	}
}

// resync has the device compare what it has with the server, later.
func (d *device) resync(after time.Duration) {
	at := time.Now().Add(after)
	for _, c := range d.chats {
		c.syncAt = at
	}
}

func (d *device) pushed(f *envelopev1.Frame) {
	switch f.Command {
	case envelopev1.Command_COMMAND_RECORD:
	case envelopev1.Command_COMMAND_RESYNC:
		r := &envelopev1.Resync{}
		if err := r.UnmarshalVT(f.Body); err != nil {
			d.w.violated("frame", "%s got a resync that cannot be decoded: %v", d.name, err)
			return
		}
		d.resync(time.Duration(r.DelayMs) * time.Millisecond)
		return
	default:
		return
	}
	r := &recordv1.Record{}
	if err := r.UnmarshalVT(f.Body); err != nil {
		d.w.violated("frame", "%s got a record that cannot be decoded: %v", d.name, err)
		return
	}
	for _, c := range d.chats {
		if c.id == f.Conversation {
			d.arrived(c, r)
		}
	}
}

// arrived is the rule for every record, however it came.
func (d *device) arrived(c *chat, r *recordv1.Record) {
	c.head = max(c.head, r.Seq)
	switch {
	case r.Seq <= c.cursor:
	case r.Seq == c.cursor+1:
		d.show(c, r)
		d.drain(c)
	default:
		at, found := slices.BinarySearchFunc(c.early, r.Seq, func(e *recordv1.Record, seq uint64) int { return cmp.Compare(e.Seq, seq) })
		if !found && len(c.early) < 64 {
			c.early = slices.Insert(c.early, at, r)
		}
		if c.readAt.IsZero() {
			c.readAt = time.Now().Add(150 * time.Millisecond)
		}
	}
}

func (d *device) drain(c *chat) {
	for len(c.early) > 0 && c.early[0].Seq <= c.cursor+1 {
		if r := c.early[0]; r.Seq == c.cursor+1 {
			d.show(c, r)
		}
		c.early = c.early[1:]
	}
	if c.cursor >= c.head {
		c.readAt = time.Time{}
	}
}

func (d *device) show(c *chat, r *recordv1.Record) {
	d.w.step("device: %s shows %s %d", d.name, c.id, r.Seq)
	d.w.isShown(d, c.id, r)
	c.cursor = r.Seq
	c.shown = append(c.shown, r.Seq)
}
