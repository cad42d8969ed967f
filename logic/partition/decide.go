package partition

import (
	"context"
	"errors"
	"strings"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/store"
)

// decide answers a request of a conversation that is loaded and free.
func (o *owner) decide(c *cell, r *link.Request) {
	h, ok := o.Handlers[r.Command]
	if !ok {
		o.refuse(r, protocol.Errorf(protocol.CodeUnknownCommand, "command %d is not known here", r.Command))
		return
	}
	if err := access(c, r, h); err != nil {
		o.refuse(r, err)
		return
	}
	if h.Write {
		if answered := o.judge(c, r); answered {
			return
		}
	} else if !o.reign.mayRead() {
		o.refuse(r, protocol.Errorf(protocol.CodeRetry, "the owner's lease is in doubt"))
		return
	}
	o.carryOut(c, r, h.Do(c.Conversation, r))
}

// access is P8's gate: who has no part in a conversation does not learn whether it exists.
func access(c *cell, r *link.Request, h feature.Handler) *protocol.Error {
	if strings.IndexByte(h.Kinds, byte(c.Kind)) < 0 {
		return protocol.Invalid("conversation", "this command is not for %q", r.Conversation)
	}
	if r.Server || h.Access == feature.Anyone {
		return nil
	}
	hidden := protocol.Errorf(protocol.CodeNotFound, "no such conversation")
	if h.Access == feature.Internal {
		return protocol.Errorf(protocol.CodeForbidden, "this command is internal")
	}
	switch c.Kind {
	case protocol.KindUser:
		if r.Conversation[2:] != r.User {
			return hidden
		}
	case protocol.KindDirect:
		if a, b := protocol.Peers(r.Conversation); r.User != a && r.User != b {
			return hidden
		}
	case protocol.KindGroup:
		m := c.Member(r.User)
		if m == nil || h.Access == feature.Members && !m.Active() {
			return hidden
		}
	}
	return nil
}

// judge settles a write before any feature sees it: retries get the first answer again, a broken order is sent back. It
// reports whether the request was answered, or set aside until history has been searched.
func (o *owner) judge(c *cell, r *link.Request) bool {
	if !protocol.ValidClientID(r.ClientID) {
		o.refuse(r, protocol.Invalid("client_id", "must be 1 to %d printable ASCII characters", protocol.MaxClientIDLen))
		return true
	}
	for _, s := range c.staged {
		if s.record.ClientId == r.ClientID && s.record.Sender == r.User && s.record.Device == r.Device {
			s.waiters = append(s.waiters, *r)
			return true
		}
	}
	if old := c.Window.Find(r.User, r.Device, r.ClientID, r.Since); old != nil {
		o.metrics.duplicates.Inc()
		o.ack(r, old, true)
		return true
	}
	if first := c.Window.First(); r.Since < c.Head.Seq && (first == 0 || r.Since+1 < first) {
		o.search(c, r)
		return true
	}
	if r.After != "" && !c.wrote(r) {
		o.refuse(r, protocol.Errorf(protocol.CodeResend, "after: %q was not written here", r.After))
		return true
	}
	if o.logFull || o.unstored.bytes > o.cfg.UnstoredBytes {
		o.refuse(r, protocol.Errorf(protocol.CodeBusy, "the log waits for history"))
		return true
	}
	return false
}

// wrote reports whether the write that r follows is committed or ahead of r in this block.
func (c *cell) wrote(r *link.Request) bool {
	for i := len(c.staged) - 1; i >= 0; i-- {
		if s := c.staged[i].record; s.ClientId == r.After && s.Sender == r.User && s.Device == r.Device {
			return true
		}
	}
	return c.Window.Find(r.User, r.Device, r.After, 0) != nil
}

// carryOut does what a feature decided, in the order of Outcome's fields.
func (o *owner) carryOut(c *cell, r *link.Request, out feature.Outcome) {
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
		o.read(r, out.Read)
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
	s := &staged{cell: c, record: rec, recipients: recipients, waiters: append(make([]link.Request, 0, 1), *r)}
	c.staged = append(c.staged, s)
	c.next = next
	c.barrier = len(d.Joined) > 0 || len(d.Left) > 0
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
		Conversation: rec.Conversation, Seq: rec.Seq, Count: rec.Count, Id: rec.Id, TimeUs: rec.TimeUs, Duplicate: duplicate,
	})
}

func (o *owner) answer(r *link.Request, m protocol.Message) {
	frame, err := encodeAnswer(r, m)
	if err != nil {
		o.Logger.Error("answer cannot be encoded", "command", r.Command, "err", err)
		o.refuse(r, protocol.Errorf(protocol.CodeInternal, "the answer could not be encoded"))
		return
	}
	o.reply.add(r.Node, r.Conn, frame)
}

func (o *owner) refuse(r *link.Request, err *protocol.Error) {
	o.metrics.refused.WithLabelValues(string(err.Code)).Inc()
	o.reply.add(r.Node, r.Conn, EncodeError(r.Codec, r.Command, r.RequestID, r.Conversation, err))
}

func (o *owner) push(c *cell, r *link.Request, p *feature.Push) {
	d := delivery{app: c.App, conversation: c.ID, command: p.Command, body: p.Body, users: p.Users}
	if p.ExceptSender {
		d.exceptNode, d.exceptConn = r.Node, r.Conn
	}
	o.stage.put(parcel{epoch: o.epoch, deliveries: []delivery{d}})
}

// read lets a feature wait, outside this goroutine, and answers with what it brings.
func (o *owner) read(r *link.Request, fn func(context.Context, feature.Services) (protocol.Message, error)) {
	req, epoch := *r, o.epoch
	if !o.async.start(o.Go, func(ctx context.Context) {
		reply := o.newReplier()
		m, err := fn(ctx, o.Services)
		frame, err := encodeRead(&req, m, err)
		if err != nil {
			o.Logger.Error("read failed", "command", req.Command, "conversation", req.Conversation, "err", err)
		}
		reply.add(req.Node, req.Conn, frame)
		reply.flush(epoch)
	}) {
		o.refuse(r, protocol.Errorf(protocol.CodeBusy, "too many reads are under way"))
	}
}

// encodeRead makes the frame that answers a read. An error that is not the device's business becomes retry: a store that does
// not answer now may later. It is returned to be logged.
func encodeRead(r *link.Request, m protocol.Message, err error) ([]byte, error) {
	var refusal *protocol.Error
	if err == nil {
		var frame []byte
		if frame, err = encodeAnswer(r, m); err == nil {
			return frame, nil
		}
	} else if errors.As(err, &refusal) {
		err = nil
	}
	if refusal == nil {
		refusal = protocol.Errorf(protocol.CodeRetry, "the history store does not answer")
	}
	return EncodeError(r.Codec, r.Command, r.RequestID, r.Conversation, refusal), err
}

func (o *owner) markDirty(c *cell, user string) {
	if c.dirty == nil {
		c.dirty = make(map[string]struct{})
	}
	c.dirty[user] = struct{}{}
	o.dirty[c] = struct{}{}
}

// flushCursors stores the read cursors that moved. A failed write is tried again with the next: cursors only rise.
func (o *owner) flushCursors(wait bool) {
	for c := range o.dirty {
		cursors := make([]store.Cursor, 0, len(c.dirty))
		for user := range c.dirty {
			cursors = append(cursors, c.Member(user).Cursor)
		}
		conversation := store.Conversation{App: c.App, ID: c.ID}
		write := func(ctx context.Context) {
			if err := o.Services.Store.SetCursors(ctx, conversation, cursors); err != nil {
				o.Logger.Warn("read cursors were not stored; they will be tried again", "err", err)
				o.queue.post(func() {
					for _, cur := range cursors {
						o.markDirty(c, cur.User)
					}
				})
			}
		}
		if wait {
			ctx, cancel := o.async.context()
			write(ctx)
			cancel()
		} else if !o.async.start(o.Go, write) {
			return
		}
		delete(o.dirty, c)
		c.dirty = nil
	}
}
