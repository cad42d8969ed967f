package simulation

import (
	"fmt"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

// maxInFlight writes of a conversation are on the way at once.
const maxInFlight = 5

// pump transmits what may be, as docs/protocol.md says under Writing.
func (d *device) pump(c *chat, now time.Time) {
	if c.startOver {
		if c.inFlight > 0 || now.Before(c.notBefore) {
			return
		}
		c.startOver, c.next = false, 0
	}
	for c.next < len(c.queue) && c.inFlight < maxInFlight && !c.startOver {
		wr := c.queue[c.next]
		if !wr.sent {
			wr.sent, wr.since = true, max(c.cursor, c.head)
		}
		r := &link.Request{Command: wr.command, ClientID: wr.id, Since: wr.since, Body: wr.body}
		if c.next > 0 {
			r.After = c.queue[c.next-1].id
		}
		c.next++
		c.inFlight++
		d.send(d.request(c, wr, r), r)
	}
}

// compose makes a write: now and then several at once.
func (d *device) compose() {
	c := d.chats[d.dice.n(len(d.chats))]
	if d.w.turnover {
		c = d.chats[d.dice.n(len(d.w.groups))]
	}
	group := protocol.KindOf(c.id) == protocol.KindGroup
	if group && c.cursor == 0 {
		return // It is not known here.
	}
	for range 1 + d.dice.n(3)*d.dice.n(3) {
		if group && d.owns(c.id) && (d.w.turnover || d.dice.one(4)) {
			d.change(c)
			continue
		}
		text := &messagev1.Message_Text{Text: &messagev1.Text{Text: strings.Repeat("x", 1+d.dice.n(60))}}
		d.add(c, envelopev1.Command_COMMAND_MESSAGE_SEND, &messagev1.Message{Content: text})
	}
}

// owns: the first user's first device made the groups and decides who is in them.
func (d *device) owns(group string) bool { return d.w.ownerOf(group) == d.name }

func (d *device) change(c *chat) {
	who := []string{users[d.dice.n(len(users))]}
	if who[0] == d.user {
		return
	}
	if d.dice.one(2) {
		d.add(c, envelopev1.Command_COMMAND_CONVERSATION_ADD, &conversationv1.AddRequest{Members: who})
		return
	}
	d.add(c, envelopev1.Command_COMMAND_CONVERSATION_REMOVE, &conversationv1.RemoveRequest{Members: who})
}

func (d *device) add(c *chat, command envelopev1.Command, m protocol.Message) {
	d.writes++
	d.queue(c, &write{id: fmt.Sprint("w", d.writes), command: command, body: encode(m)})
}

func (d *device) queue(c *chat, wr *write) {
	d.w.step("device: %s writes %s in %s", d.name, wr.id, c.id)
	c.queue = append(c.queue, wr)
}

func encode(m protocol.Message) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(err)
	}
	return b
}

// finallyRefused: one who was taken out of a group may not write there, and who changes its members may come too late. Nothing
// else is refused for good here.
func (d *device) finallyRefused(q *request, err *protocol.Error) {
	d.remove(q.chat, q.write)
	d.w.step("device: %s is refused %s in %s: %v", d.name, q.write.id, q.chat.id, err)
	d.w.count(func(c *counts) { c.refused++ })
	switch err.Code {
	case protocol.CodeNotFound, protocol.CodeConflict:
	default:
		d.w.violated("refusal", "%s: %s in %s: %v", d.name, q.write.id, q.chat.id, err)
	}
	d.w.isRefused(d, q.chat.id, q.write.id)
}

// read asks for a page of history after the cursor.
func (d *device) read(c *chat) {
	r := &link.Request{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY,
		Body:    encode(&conversationv1.HistoryRequest{AfterSeq: c.cursor, Limit: uint32(3 + d.dice.n(8))}),
	}
	q := d.request(c, nil, r)
	q.atLeast, _ = d.w.log.reach(c.id, d.user)
	c.reading, c.readAt = true, time.Time{}
	if !c.syncAt.After(time.Now()) {
		c.syncAt = time.Time{}
	}
	d.send(q, r)
}

func (d *device) readRefused(q *request, err *protocol.Error, again bool) {
	switch {
	case again:
		q.chat.syncAt = time.Now().Add(d.dice.between(100*time.Millisecond, time.Second))
	case q.atLeast > 0:
		d.w.violated("reads are not stale", "%s: history of %s up to %d: %v", d.name, q.chat.id, q.atLeast, err)
	}
}

// page takes a page of history. Its records are shown as they stand there: holes are what this user may not read.
func (d *device) page(q *request, f *envelopev1.Frame) {
	d.answered(q)
	reply := &conversationv1.HistoryReply{}
	if err := reply.UnmarshalVT(f.Body); err != nil {
		d.w.violated("frame", "%s got a page that cannot be decoded: %v", d.name, err)
		return
	}
	c := q.chat
	if reply.HeadSeq < q.atLeast {
		d.w.violated("reads are not stale", "%s: history of %s ends at %d, and %d was written before it was asked for",
			d.name, c.id, reply.HeadSeq, q.atLeast)
	}
	c.head = max(c.head, reply.HeadSeq)
	for _, r := range reply.Records {
		if r.Seq > c.cursor {
			d.show(c, r)
		}
	}
	d.drain(c)
	switch {
	case reply.More:
		c.syncAt = time.Now()
	case len(c.early) > 0 && c.readAt.IsZero():
		c.readAt = time.Now().Add(150 * time.Millisecond)
	}
}
