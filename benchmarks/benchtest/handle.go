package benchtest

import (
	"time"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// handle answers one frame; false ends the connection.
func (s *Server) handle(p *session, f *envelopev1.Frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.user == "" {
		return !s.closed && s.connect(p, f)
	}
	switch f.Command {
	case envelopev1.Command_COMMAND_PING:
		p.send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PONG, RequestId: f.RequestId})
	case envelopev1.Command_COMMAND_MESSAGE_SEND:
		return s.message(p, f)
	case envelopev1.Command_COMMAND_CONVERSATION_HEADS:
		s.heads(p, f)
	case envelopev1.Command_COMMAND_CONVERSATION_HISTORY:
		s.history(p, f)
	case envelopev1.Command_COMMAND_CONVERSATION_CREATE, envelopev1.Command_COMMAND_CONVERSATION_ADD:
		s.members(p, f)
	default:
		refuse(p, f, protocol.Errorf(protocol.CodeUnknownCommand, "%v", f.Command))
	}
	return true
}

func (s *Server) connect(p *session, f *envelopev1.Frame) bool {
	var c envelopev1.Connect
	if f.Command != envelopev1.Command_COMMAND_CONNECT || c.UnmarshalVT(f.Body) != nil {
		return false
	}
	user, err := s.verify(c.Token)
	if err != nil {
		refuse(p, f, protocol.Errorf(protocol.CodeUnauthenticated, "%v", err))
		return true
	}
	if old := s.sessions[user]; old != nil {
		_ = old.conn.Close()
	}
	p.user = user
	s.sessions[user] = p
	answer(p, f, &envelopev1.Hello{App: protocol.DefaultApp, User: user, HeartbeatMs: 30_000})
	return true
}

func answer(p *session, f *envelopev1.Frame, body marshaler) {
	p.send(&envelopev1.Frame{Command: f.Command, RequestId: f.RequestId, Conversation: f.Conversation, Body: encode(body)})
}

func refuse(p *session, f *envelopev1.Frame, e *protocol.Error) {
	p.send(&envelopev1.Frame{Command: f.Command, RequestId: f.RequestId, Conversation: f.Conversation, Error: e.Wire()})
}

func (s *Server) heads(p *session, f *envelopev1.Frame) {
	var r conversationv1.HeadsRequest
	if r.UnmarshalVT(f.Body) != nil {
		return
	}
	reply := new(conversationv1.HeadsReply)
	for _, id := range r.Conversations {
		if c := s.conversations[id]; c != nil && c.member(p.user) && len(c.records) > 0 {
			reply.Heads = append(reply.Heads, &conversationv1.Head{Conversation: id, Seq: uint64(len(c.records))})
		}
	}
	answer(p, f, reply)
}

func (s *Server) history(p *session, f *envelopev1.Frame) {
	var r conversationv1.HistoryRequest
	c := s.conversations[f.Conversation]
	if r.UnmarshalVT(f.Body) != nil || c == nil || !c.member(p.user) {
		refuse(p, f, protocol.Errorf(protocol.CodeNotFound, "conversation"))
		return
	}
	reply := &conversationv1.HistoryReply{HeadSeq: uint64(len(c.records))}
	for _, record := range c.records[min(r.AfterSeq, uint64(len(c.records))):] {
		if len(reply.Records) == int(r.Limit) {
			reply.More = true
			break
		}
		if record != nil && (!c.hidden[record.Seq] || record.Sender == p.user) {
			reply.Records = append(reply.Records, record)
		}
	}
	answer(p, f, reply)
}

func (s *Server) members(p *session, f *envelopev1.Frame) {
	var names []string
	record := &recordv1.Record{Sender: p.user, ClientId: f.ClientId}
	if f.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		var r conversationv1.CreateRequest
		if f.Conversation == "" { // A device may leave it to the server.
			f.Conversation = protocol.Group(protocol.DefaultApp, p.user, f.ClientId)
		}
		if r.UnmarshalVT(f.Body) != nil || f.Conversation != protocol.Group(protocol.DefaultApp, p.user, f.ClientId) {
			refuse(p, f, protocol.Invalid("conversation", "does not derive from the client id"))
			return
		}
		names = append(names, append(r.Members, p.user)...)
		record.Body = &recordv1.Record_Created{Created: &recordv1.Created{Name: r.Name}}
	} else {
		var r conversationv1.AddRequest
		if r.UnmarshalVT(f.Body) != nil {
			return
		}
		names = r.Members
		record.Body = &recordv1.Record_Members{Members: &recordv1.Members{}}
	}
	c := s.direct(f.Conversation)
	key := p.user + " " + f.ClientId
	seq, again := c.byClient[key]
	if !again {
		seq = c.append(record)
		c.byClient[key] = seq
		c.members = append(c.members, names...)
		s.push(c, record)
	}
	answer(p, f, &recordv1.Ack{Conversation: c.id, Seq: seq, Duplicate: again})
}

// message is the write path, with its faults.
func (s *Server) message(p *session, f *envelopev1.Frame) bool {
	c := s.direct(f.Conversation)
	if !c.member(p.user) {
		refuse(p, f, protocol.Errorf(protocol.CodeNotFound, "conversation"))
		return true
	}
	key := p.user + " " + f.ClientId
	if seq, ok := c.byClient[key]; ok {
		s.Duplicates++
		answer(p, f, &recordv1.Ack{Conversation: c.id, Seq: seq, Duplicate: true})
		return true
	}
	if f.After != "" && c.byClient[p.user+" "+f.After] == 0 && (c.held == nil || c.held.ClientId != f.After) {
		s.Resends++
		refuse(p, f, protocol.Errorf(protocol.CodeResend, "after is not here"))
		return true
	}
	s.messages++
	n, x := s.messages, s.faults
	switch {
	case every(x.Refuse, n):
		refuse(p, f, protocol.Errorf(protocol.CodeForbidden, "not you"))
		return true
	case every(x.Busy, n) && !s.refusedOnce[key]:
		s.refusedOnce[key] = true
		e := protocol.Errorf(protocol.CodeBusy, "full")
		e.RetryAfter = 5 * time.Millisecond
		refuse(p, f, e)
		return true
	case every(x.Ignore, n) && !s.refusedOnce[key]:
		s.refusedOnce[key] = true
		return true
	case every(x.LoseAcked, n):
		answer(p, f, &recordv1.Ack{Conversation: c.id, Seq: uint64(len(c.records) + 1)})
		return true
	case every(x.SwapSends, n) && c.held == nil:
		c.held, c.heldBy = f, p
		return true
	}
	ok := s.store(c, p, f, n)
	if held := c.held; held != nil && c.heldBy == p {
		c.held = nil
		s.store(c, p, held, -1)
	}
	return ok
}

func (s *Server) store(c *conversation, p *session, f *envelopev1.Frame, n int) bool {
	var m messagev1.Message
	if m.UnmarshalVT(f.Body) != nil {
		refuse(p, f, protocol.Invalid("body", "not a message"))
		return true
	}
	x := s.faults
	record := &recordv1.Record{Sender: p.user, ClientId: f.ClientId, Body: &recordv1.Record_Message{Message: &m}}
	if every(x.SkipSeq, n) {
		c.append(nil)
	}
	if every(x.Corrupt, n) {
		text := []byte(m.GetText().Text)
		text[len(text)/2] ^= 1
		m.GetText().Text = string(text)
	}
	if every(x.Forge, n) {
		record.Sender = "mallory"
	}
	seq := c.append(record)
	c.byClient[p.user+" "+f.ClientId] = seq
	s.push(c, record)
	if every(x.StoreTwice, n) {
		twin := &recordv1.Record{Sender: record.Sender, ClientId: record.ClientId, Body: record.Body}
		c.append(twin)
		s.push(c, twin)
	}
	if every(x.Kill, n) {
		return false
	}
	answer(p, f, &recordv1.Ack{Conversation: c.id, Seq: seq})
	if every(x.AckTwice, n) {
		answer(p, f, &recordv1.Ack{Conversation: c.id, Seq: seq + 1})
	}
	if every(x.Drain, n) {
		p.send(&envelopev1.Frame{
			Command: envelopev1.Command_COMMAND_CLOSE, Body: encode(protocol.CloseFrame(protocol.CloseDraining, 10*time.Millisecond)),
		})
		// The frame must be on its way before the connection ends.
		time.AfterFunc(20*time.Millisecond, func() { _ = p.conn.Close() })
	}
	return true
}

// push gives the record to every other member's session.
func (s *Server) push(c *conversation, r *recordv1.Record) {
	frame := encode(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Conversation: c.id, Body: encode(r)})
	x := s.faults
	for _, m := range c.members {
		to := s.sessions[m]
		if m == r.Sender || to == nil {
			continue
		}
		s.pushes++
		switch n := s.pushes; {
		case x.Mute && s.messages > 100:
			to.send(&envelopev1.Frame{
				Command: envelopev1.Command_COMMAND_HEAD, Conversation: c.id,
				Body: encode(&conversationv1.Head{Conversation: c.id, Seq: r.Seq, Large: true}),
			})
		case every(x.Vanish, n):
			c.hidden[r.Seq] = true
		case every(x.DropPush, n):
		case every(x.Resync, n):
			to.send(&envelopev1.Frame{
				Command: envelopev1.Command_COMMAND_RESYNC, Body: encode(&envelopev1.Resync{DelayMs: 20}),
			})
		case every(x.SwapPushes, n) && to.swap == nil:
			to.swap = frame
			continue
		default:
			to.sendRaw(frame)
			if every(x.RepeatPush, n) {
				to.sendRaw(frame)
			}
		}
		if to.swap != nil {
			to.sendRaw(to.swap)
			to.swap = nil
		}
		if every(x.Misroute, s.pushes) {
			s.misroute(c, frame)
		}
	}
}

func (s *Server) misroute(c *conversation, frame []byte) {
	for user, p := range s.sessions {
		if !c.member(user) {
			p.sendRaw(frame)
			return
		}
	}
}
