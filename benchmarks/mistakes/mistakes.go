// Package mistakes breaks the product's promises, one mistake at a time, as patches of its source: simulation and chaos must each find all of
// them out. It is never part of the product.
package mistakes

import (
	"fmt"
	"time"

	"github.com/halley-im/halley/pkg/overlay"
)

// Mistake is one way to break a promise.
type Mistake struct {
	Name string
	// Patches make it. What it opens a window in takes so long besides: on a fast machine the window is milliseconds, and under load it is not.
	Patches func(slow time.Duration) []overlay.Patch
}

// All are those that every judge of the product must catch.
var All = []Mistake{
	{"acks before the commit", ackBeforeCommit},
	{"answers retries of what is pending", ackPending},
	{"keeps two blocks in flight", pipeline},
	{"looks presence up before the commit", lookEarly},
	{"job acks before the store", ackBeforeStore},
}

// What the patches replace.
const (
	commitFile = "logic/partition/commit.go"
	appendCall = "	err := o.append(ctx, b, o.block.user)\n"
	jobFile    = "job/history/run.go"
	storeCall  = "	if len(p.records) > 0 {\n		if err := r.append(ctx, p, behind); err != nil {\n"
)

func sleep(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("	time.Sleep(%d)\n", d)
}

// Slow is no mistake: commits and writes to the store take so long. Whoever judges must let it pass.
func Slow(d time.Duration) []overlay.Patch {
	return []overlay.Patch{slowCommit(d), {File: jobFile, Old: storeCall, New: sleep(d) + storeCall}}
}

func slowCommit(d time.Duration) overlay.Patch {
	return overlay.Patch{File: commitFile, Old: appendCall, New: sleep(d) + appendCall}
}

func ackBeforeCommit(slow time.Duration) []overlay.Patch {
	return []overlay.Patch{{File: commitFile, Old: appendCall, New: `
	for _, s := range o.block.records {
		for i := range s.waiters {
			o.ack(&s.waiters[i], s.record, i > 0)
		}
	}
	o.reply.flush(o.epoch)
` + sleep(slow) + appendCall}}
}

func ackPending(slow time.Duration) []overlay.Patch {
	return []overlay.Patch{slowCommit(slow), {
		File: "logic/partition/decide.go",
		Old:  "		s.waiters = append(s.waiters, *r)\n		return true\n",
		New:  "		o.ack(r, s.record, true)\n		o.reply.flush(o.epoch)\n		return true\n",
	}}
}

func ackBeforeStore(slow time.Duration) []overlay.Patch {
	return []overlay.Patch{{File: jobFile, Old: storeCall, New: `
	for _, d := range p.blocks {
		if err := d.Ack(); err != nil {
			return fmt.Errorf("history: acknowledge block %d: %w", d.Seq, err)
		}
	}
` + sleep(slow) + storeCall}}
}

// pipeline does not wait for one half of a block before it sends the other.
func pipeline(slow time.Duration) []overlay.Patch {
	return []overlay.Patch{
		{File: commitFile, Old: appendCall, New: sleep(slow) + "	err := o.pipeline(ctx, b, o.block.user)\n"},
		{File: commitFile, Old: "// carryOn follows a block that is durable.\n", New: `
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
	}
}

// lookEarly asks presence when a request arrives: who connects while it waits has compared heads before the commit, and gets no push.
func lookEarly(slow time.Duration) []overlay.Patch {
	return append([]overlay.Patch{
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
		{File: "logic/partition/stage.go", Old: "	rooms     rooms\n", New: "	rooms     rooms\n	p         *Partition\n"},
		{File: "logic/partition/stage.go", Old: "		rooms: rooms{index: make(map[presence.RoomID]int)},\n", New: "		rooms: rooms{index: make(map[presence.RoomID]int)}, p: p,\n"},
		{File: "logic/partition/stage.go", Old: "		for i := range entries {\n", New: `		if r := d.record; r != nil {
			if e, ok := s.p.early.LoadAndDelete(early{s.users[user], d.conversation, r.Sender, r.Device, r.ClientId}); ok {
				entries = e.([]presence.Entry)
			}
		}
		for i := range entries {
`},
	}, slowCommit(slow))
}
