package main

import "github.com/halley-im/halley/pkg/overlay"

// mistake is the product with one mistake in it that chaos must find out. Where what it breaks takes milliseconds here, a patch makes it as
// slow as on a machine under load; the first of the list has all of these and no mistake, and must hold.
type mistake struct {
	name     string
	topology string
	faults   string // Those that can bring it out; empty: all.
	minutes  float64
	holds    bool
	patches  []overlay.Patch
}

// What the patches replace.
const (
	commitFile = "logic/partition/commit.go"
	appendCall = "	err := o.append(ctx, b, o.block.user)\n"
	jobFile    = "job/history/run.go"
	storeCall  = "	if len(p.records) > 0 {\n		if err := r.append(ctx, p, behind); err != nil {\n"
)

var (
	slowCommit = overlay.Patch{File: commitFile, Old: appendCall, New: "	time.Sleep(400 * time.Millisecond)\n" + appendCall}
	slowStore  = overlay.Patch{File: jobFile, Old: storeCall, New: "	time.Sleep(400 * time.Millisecond)\n" + storeCall}
)

var mistakes = []mistake{
	{name: "none, but slow", topology: "serve", minutes: 0.9, holds: true, patches: []overlay.Patch{slowCommit, slowStore}},
	{name: "acks before the commit", topology: "serve", minutes: 0.9, patches: []overlay.Patch{{File: commitFile, Old: appendCall, New: `
	for _, s := range o.block.records {
		for i := range s.waiters {
			o.ack(&s.waiters[i], s.record, i > 0)
		}
	}
	o.reply.flush(o.epoch)
` + slowCommit.New}}},
	{name: "answers retries of what is pending", topology: "serve", minutes: 0.9, patches: []overlay.Patch{slowCommit, {
		File: "logic/partition/decide.go",
		Old:  "		s.waiters = append(s.waiters, *r)\n		return true\n",
		New:  "		o.ack(r, s.record, true)\n		o.reply.flush(o.epoch)\n		return true\n",
	}}},
	{name: "job acks before the store", topology: "serve", minutes: 0.9, patches: []overlay.Patch{{File: jobFile, Old: storeCall, New: `
	for _, d := range p.blocks {
		if err := d.Ack(); err != nil {
			return fmt.Errorf("history: acknowledge block %d: %w", d.Seq, err)
		}
	}
` + slowStore.New}}},
	{name: "looks presence up before the commit", topology: "serve", minutes: 0.9, patches: append([]overlay.Patch{slowCommit}, lookEarly...)},
	{name: "keeps two blocks in flight", topology: "tiers", faults: "pause-logic-*", minutes: 1.5, patches: []overlay.Patch{
		{File: commitFile, Old: appendCall, New: "	time.Sleep(1500 * time.Millisecond)\n	err := o.pipeline(ctx, b, o.block.user)\n"},
		{File: commitFile, Old: "// carryOn follows a block that is durable.\n", New: `
// pipeline does not wait for one half of a block before it sends the other.
func (o *owner) pipeline(ctx context.Context, b *logv1.Block, user bool) error {
	half := len(b.Records) / 2
	if half == 0 {
		return o.append(ctx, b, user)
	}
	first := &logv1.Block{
		Kind: b.Kind, Epoch: b.Epoch, Owner: b.Owner, Nonce: b.Nonce, PrevCrc: b.PrevCrc, TimeUs: b.Records[half-1].TimeUs, Records: b.Records[:half],
	}
	_, crc, err := logblock.AppendTo(nil, first)
	if err != nil {
		return err
	}
	second := &logv1.Block{
		Kind: b.Kind, Epoch: b.Epoch, Owner: b.Owner, Nonce: o.nonce.next(), PrevCrc: crc, TimeUs: b.TimeUs, Records: b.Records[half:],
	}
	behind := *o
	behind.last, behind.crc, behind.block.encoded = o.last+1, crc, nil
	done := make(chan error, 1)
	go func() { done <- behind.append(ctx, second, user) }()
	err = o.append(ctx, first, user)
	if late := <-done; err == nil {
		err = late
	}
	o.last, o.crc = behind.last, behind.crc
	return err
}

// carryOn follows a block that is durable.
`},
	}},
}

// lookEarly asks presence when a request arrives: who connects while it waits has compared heads before the commit, and gets no push.
var lookEarly = []overlay.Patch{
	{File: "logic/partition/partition.go", Old: "type Partition struct {\n", New: "type Partition struct {\n	early sync.Map\n"},
	{File: "logic/partition/partition.go", Old: "	\"fmt\"\n", New: "	\"fmt\"\n	\"sync\"\n"},
	{File: "logic/partition/partition.go", Old: "queue: newQueue(p.cfg.QueueRequests, p.cfg.QueueBytes),", New: "queue: newQueue(p.cfg.QueueRequests, p.cfg.QueueBytes).of(p),"},
	{File: "logic/partition/queue.go", Old: "type queue struct {\n", New: "type queue struct {\n	p           *Partition\n"},
	{File: "logic/partition/queue.go", Old: "	\"sync\"\n", New: "	\"context\"\n	\"slices\"\n	\"sync\"\n"},
	{File: "logic/partition/queue.go", Old: "	\"github.com/halley-im/halley/pkg/link\"\n", New: "	\"github.com/halley-im/halley/pkg/link\"\n	\"github.com/halley-im/halley/pkg/presence\"\n"},
	{File: "logic/partition/queue.go", Old: "// Enqueue implements link.Inbox.\nfunc (q *queue) Enqueue(r link.Request) *protocol.Error {\n", New: `
type early struct {
	to                                     presence.User
	conversation, sender, device, clientID string
}

func (q *queue) of(p *Partition) *queue {
	q.p = p
	return q
}

func (q *queue) look(r *link.Request) {
	if protocol.KindOf(r.Conversation) != protocol.KindDirect || r.ClientID == "" {
		return
	}
	a, b := protocol.Peers(r.Conversation)
	users := []presence.User{{App: r.App, User: a}, {App: r.App, User: b}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	found, err := q.p.Presence.Lookup(ctx, users, nil)
	if err != nil {
		return
	}
	for i, u := range users {
		q.p.early.LoadOrStore(early{u, r.Conversation, r.User, r.Device, r.ClientID}, slices.Clone(found[i]))
	}
}

// Enqueue implements link.Inbox.
func (q *queue) Enqueue(r link.Request) *protocol.Error {
	q.look(&r)
`},
	{File: "logic/partition/stage.go", Old: "	rooms   rooms\n", New: "	rooms   rooms\n	p       *Partition\n"},
	{File: "logic/partition/stage.go", Old: "		rooms: rooms{index: make(map[presence.RoomID]int)},\n", New: "		rooms: rooms{index: make(map[presence.RoomID]int)}, p: p,\n"},
	{File: "logic/partition/stage.go", Old: "		for i := range entries {\n", New: `		if r := d.record; r != nil {
			if e, ok := s.p.early.LoadAndDelete(early{presence.User{App: d.app, User: user}, d.conversation, r.Sender, r.Device, r.ClientId}); ok {
				entries = e.([]presence.Entry)
			}
		}
		for i := range entries {
`},
}
