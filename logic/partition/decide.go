package partition

import (
	"strings"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// handler finds what answers a request. No device may ask what only Halley's own processes ask each other.
func (o *owner) handler(r *link.Request) (feature.Handler, *protocol.Error) {
	h, ok := o.Handlers[r.Command]
	if !ok || h.Internal && !r.Server {
		return h, protocol.Errorf(protocol.CodeUnknownCommand, "command %d is not known here", r.Command)
	}
	return h, nil
}

// decide answers a request of a conversation that is loaded and free.
func (o *owner) decide(c *cell, r *link.Request, h *feature.Handler) {
	refusal := access(c, r, h)
	switch {
	case h.Write && r.Epoch < o.epoch:
		// It may be a late copy of a write that was refused for good in an earlier epoch (refusals). Its node hears of this one with the answer.
		refusal = overtaken
	case h.Write && !protocol.ValidClientID(r.ClientID):
		refusal = protocol.Invalid("client_id", "must be 1 to %d printable ASCII characters", protocol.MaxClientIDLen)
	case h.Write && (refusal == nil || c.Member(r.User) != nil):
		// Before the refusal: who was removed after a write still learns that it was written.
		if o.repeated(c, r) {
			return
		}
		if refusal == nil {
			refusal = o.refused.again(r)
		}
		if refusal == nil {
			refusal = o.turn(c, r, h)
		}
	case refusal == nil && !o.reign.mayRead():
		refusal = inDoubt
	}
	if refusal != nil {
		o.refuse(r, refusal)
		return
	}
	o.carryOut(c, r, h, h.Do(c.Conversation, r))
}

var (
	hidden    = protocol.Errorf(protocol.CodeNotFound, "no such conversation")
	inDoubt   = protocol.Errorf(protocol.CodeRetry, "the owner's lease is in doubt")
	overtaken = protocol.Errorf(protocol.CodeResend, "the conversation has a new owner, of which this request's node had not heard")
)

// access is P8's gate: who has no part in a conversation does not learn whether it exists.
func access(c *cell, r *link.Request, h *feature.Handler) *protocol.Error {
	if err := accessByName(c.Kind, r, h); err != nil || c.Kind != protocol.KindGroup || unrestricted(r, h) {
		return err
	}
	if m := c.Member(r.User); m == nil || h.Access == feature.Members && !m.Active() {
		return hidden
	}
	return nil
}

// accessByName is what the conversation's id alone tells, before anything is loaded.
func accessByName(kind protocol.Kind, r *link.Request, h *feature.Handler) *protocol.Error {
	if strings.IndexByte(h.Kinds, byte(kind)) < 0 {
		return protocol.Invalid("conversation", "this command is not for %q", r.Conversation)
	}
	if unrestricted(r, h) {
		return nil
	}
	switch kind {
	case protocol.KindUser:
		if r.Conversation[2:] != r.User {
			return hidden
		}
	case protocol.KindDirect:
		if a, b := protocol.Peers(r.Conversation); r.User != a && r.User != b {
			return hidden
		}
	}
	return nil
}

func unrestricted(r *link.Request, h *feature.Handler) bool {
	return h.Access == feature.Anyone || r.Server && (!h.Internal || r.User == "")
}

// repeated answers a write that was transmitted before with its first answer. It reports whether the request was answered, or
// set aside until history has been searched.
func (o *owner) repeated(c *cell, r *link.Request) bool {
	if s := c.find(r.User, r.Device, r.ClientID); s != nil {
		s.waiters = append(s.waiters, *r)
		return true
	}
	if old := c.Window.Find(r.User, r.Device, r.ClientID, r.Since); old != nil {
		o.metrics.duplicates.Inc()
		o.ack(r, old, true)
		return true
	}
	first := c.Window.First()
	return r.Since < c.Head.Seq && (first == 0 || r.Since+1 < first) && o.search(c, r)
}

// turn refuses a new write that is not its device's next, or that there is no room for. The last of the room is for what must
// be written for the log to be emptied.
func (o *owner) turn(c *cell, r *link.Request, h *feature.Handler) *protocol.Error {
	if r.After != "" && !c.wrote(r, o.cfg.SearchRecords) {
		return protocol.Errorf(protocol.CodeResend, "after: %q was not written here", r.After)
	}
	most := int64(fullForClients)
	if h.Internal {
		most = fullForFollowers
	}
	if o.full(most) {
		return protocol.Errorf(protocol.CodeBusy, "the log waits for history")
	}
	return nil
}

// Above so many percent of the log's size these are refused; what remains is for fences.
const (
	fullForClients   = 90
	fullForFollowers = 95
)

// room is how full the log is: what the server said last, and what was appended since.
type room struct{ bytes, most int64 }

func (r *room) above(percent int64) bool { return r.most > 0 && r.bytes > r.most/100*percent }

// full reports whether the log, or what may be known of it in memory, is full to so many percent.
func (o *owner) full(percent int64) bool {
	return o.room.above(percent) || o.tail.full(percent, o.cfg.TailRecords)
}

// wrote reports whether the write that r follows is committed or ahead of r in this block. Of what is not in memory it looks at so
// many records.
func (c *cell) wrote(r *link.Request, most int) bool {
	return c.find(r.User, r.Device, r.After) != nil || c.Window.Find(r.User, r.Device, r.After, 0) != nil ||
		len(c.Window.Candidates(r.User, r.Device, r.After, lowered(c.Head.Seq, uint64(most)))) > 0
}

// find returns the write if it is in the block that is being built.
func (c *cell) find(user, device, clientID string) *staged {
	if len(c.staged) == 0 {
		return nil
	}
	id := state.WriteID(user, device, clientID)
	for i := len(c.staged) - 1; i >= 0; i-- {
		if c.staged[i].id != id {
			continue
		}
		if r := c.staged[i].record; r.ClientId == clientID && r.Sender == user && r.Device == device {
			return c.staged[i].staged
		}
	}
	return nil
}

// carryOut does what a feature decided, in the order of Outcome's fields.
func (o *owner) carryOut(c *cell, r *link.Request, h *feature.Handler, out feature.Outcome) {
	switch {
	case out.Err != nil:
		o.refuse(r, out.Err)
		return
	case out.Record != nil:
		o.write(c, r, out.Record)
		return
	}
	if out.Cursor != nil {
		if m := c.Member(out.Cursor.User); m != nil && out.Cursor.Seq > m.Cursor.Seq {
			m.Cursor = *out.Cursor
			o.markDirty(c, out.Cursor.User)
		}
	}
	if out.Push != nil {
		o.push(c, r, out.Push)
	}
	switch {
	case out.Reply != nil:
		o.answer(r, out.Reply)
	case out.Read != nil:
		o.read(r, h, out.Read)
	}
}

// write gives a draft its place in the block that is being built.
func (o *owner) write(c *cell, r *link.Request, d *feature.Draft) {
	o.timeUs = max(o.Now().UnixMicro(), o.timeUs+1)
	next := state.Position{Seq: c.next.Seq + 1, Count: c.next.Count, TimeUs: o.timeUs}
	if d.Counted {
		next.Count++
	}
	rec := &logv1.Record{
		App: c.App, Conversation: c.ID, Seq: next.Seq, Count: next.Count, Id: ids.MessageID(o.timeUs, o.number),
		Sender: r.User, Device: r.Device, ClientId: r.ClientID, TimeUs: o.timeUs,
		Target: d.Target, Joined: d.Joined, Left: d.Left, Type: d.Type, Body: d.Body,
	}
	recipients := c.Recipients(d.Joined)
	o.measure(c, rec)
	firstOfMinute := c.MarkActive(o.timeUs) && (len(c.staged) == 0 || state.Minute(c.next.TimeUs) < state.Minute(o.timeUs))
	if d.Counted && firstOfMinute && len(recipients) <= activeMembers && len(rec.Active) == 0 {
		rec.Active = recipients
	}
	s := o.block.place()
	s.cell, s.record, s.recipients = c, rec, recipients
	s.first[0] = *r
	s.waiters = s.first[:]
	c.staged = append(c.staged, stagedID{state.WriteID(r.User, r.Device, r.ClientID), s})
	c.next = next
	c.barrier = d.Alone || len(d.Joined) > 0 || len(d.Left) > 0
	o.block.add(s)
}

// activeMembers is the size up to which a conversation's messages keep its members' lists in order; larger ones are asked.
const activeMembers = 200

// ack answers a write with the place of its record.
func (o *owner) ack(r *link.Request, rec *logv1.Record, duplicate bool) {
	if r.Codec != link.CodecJSON {
		o.reply.ack(r, rec, duplicate)
		return
	}
	o.answer(r, &recordv1.Ack{
		Conversation: r.Conversation, Seq: rec.Seq, Count: rec.Count, Id: rec.Id, TimeUs: rec.TimeUs, Duplicate: duplicate,
	})
}

func (o *owner) answer(r *link.Request, m protocol.Message) {
	frame, err := encodeAnswer(r, m)
	if err != nil {
		o.Logger.Error("answer cannot be encoded", "command", r.Command, "err", err)
		o.refuse(r, protocol.Errorf(protocol.CodeInternal, "the answer could not be encoded"))
		return
	}
	o.reply.add(r, frame)
}

// refuse answers with an error. One that is final is said only where no other owner can know better, and holds for later copies too.
func (o *owner) refuse(r *link.Request, err *protocol.Error) {
	switch {
	case err.Code.Retryable():
	case !o.reign.mayRead():
		err = inDoubt
	case o.Handlers[r.Command].Write:
		o.refused.note(r, err.Code)
	}
	o.metrics.refused.WithLabelValues(string(err.Code)).Inc()
	o.reply.add(r, EncodeError(r.Codec, r.Command, r.RequestID, r.Conversation, err))
}

// push gathers what is ephemeral; it leaves behind the block of this turn.
func (o *owner) push(c *cell, r *link.Request, p *feature.Push) {
	d := delivery{app: c.App, conversation: c.ID, command: p.Command, body: p.Body, users: p.Users}
	if p.ExceptSender {
		d.exceptNode, d.exceptConn = r.Node, r.Conn
	}
	o.signals = append(o.signals, d)
}

// signal hands on the turn's ephemeral pushes, all at once: each alone would cost a look-up and a place in the stage.
func (o *owner) signal() {
	if len(o.signals) > 0 {
		o.stage.put(parcel{deliveries: o.signals, ephemeral: true})
		o.signals = nil
	}
}
