package client

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"google.golang.org/protobuf/proto"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// faults are probabilities, each judged for one frame.
type faults struct {
	refuse    float64 // A write is put off: busy, retry or resend, nothing stored.
	killFirst float64 // The connection dies before a request is looked at.
	killAfter float64 // It dies after a write was stored, before its ack.
	muteAck   float64 // A write is stored, its ack lost, the connection lives.
	drop      float64 // A push is lost; a resync follows.
	double    float64 // A push comes twice.
	late      float64 // A push comes after the next one.
	headOnly  float64 // A push is replaced by the head.
}

// server speaks the protocol as docs/protocol.md has it, over one process's memory, and misbehaves as it is told.
type server struct {
	t    *testing.T
	http *httptest.Server

	mu       sync.Mutex
	rand     *rand.Rand
	faults   faults
	hello    *envelopev1.Hello
	logs     map[string]*serverLog
	sessions map[*serverSession]struct{}
	// refuse, if set, answers connects with a close instead, or, if that has no code, not at all.
	refuse   func(token string) *envelopev1.Close
	connects []string // tokens
	tickets  []string // of each connect
	given    int      // tickets, where hello says how long they hold
	seen     map[envelopev1.Command]int
	// Of these conversations no head can be told.
	unanswered map[string]bool
	// Of watches: how long they last, who is offline, and who is no member.
	watchLasts       time.Duration
	offline, strange map[string]bool
}

type serverLog struct {
	records []*recordv1.Record
	devices []string // which device wrote each
	count   uint64
	members map[string][2]uint64 // from, to (0: still)
	read    map[string]uint64
}

type serverSession struct {
	server       *server
	conn         net.Conn
	user, device string
	out          chan []byte
	held         []byte // a push that comes after the next
}

func newServer(t *testing.T, seed uint64) *server {
	s := &server{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), logs: map[string]*serverLog{}, sessions: map[*serverSession]struct{}{},
		seen: map[envelopev1.Command]int{}, offline: map[string]bool{}, strange: map[string]bool{},
		hello: &envelopev1.Hello{HeartbeatMs: 60_000, Limits: &envelopev1.Limits{BodyBytes: 32 << 10}},
	}
	s.http = httptest.NewServer(http.HandlerFunc(s.accept))
	t.Cleanup(func() {
		s.killAll()
		s.http.Close()
	})
	return s
}

func (s *server) url() string { return "ws" + strings.TrimPrefix(s.http.URL, "http") + "/v1/connect" }

func (s *server) set(f faults) {
	s.mu.Lock()
	s.faults = f
	s.mu.Unlock()
}

func (s *server) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		session.conn.Close()
	}
}

// closeAll closes all sessions as a server does.
func (s *server) closeAll(code protocol.CloseCode, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		session.push("", envelopev1.Command_COMMAND_CLOSE, protocol.CloseFrame(code, after))
	}
}

func (s *server) accept(w http.ResponseWriter, r *http.Request) {
	up := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == protocol.SubprotocolProto }}
	conn, _, _, err := up.Upgrade(r, w)
	if err != nil {
		return
	}
	session := &serverSession{server: s, conn: conn, out: make(chan []byte, 10_000)}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case frame := <-session.out:
				if wsutil.WriteServerBinary(conn, frame) != nil {
					return
				}
			case <-stop:
				return
			}
		}
	})
	session.read()
	s.mu.Lock()
	delete(s.sessions, session)
	s.mu.Unlock()
	conn.Close()
	close(stop)
	writer.Wait()
}

func (session *serverSession) read() {
	for {
		data, _, err := wsutil.ReadClientData(session.conn)
		if err != nil {
			return
		}
		f := &envelopev1.Frame{}
		if err := f.UnmarshalVT(data); err != nil {
			session.server.t.Errorf("a frame that cannot be decoded: %v", err)
			return
		}
		if !session.server.handle(session, f) {
			return
		}
	}
}

func (session *serverSession) send(f *envelopev1.Frame) {
	data, err := f.MarshalVT()
	if err != nil {
		session.server.t.Error(err)
		return
	}
	session.out <- data
}

func (session *serverSession) push(conversation string, command envelopev1.Command, m protocol.Message) {
	body, err := m.MarshalVT()
	if err != nil {
		session.server.t.Error(err)
		return
	}
	session.send(&envelopev1.Frame{Command: command, Conversation: conversation, Body: body})
}

func (session *serverSession) answer(f *envelopev1.Frame, m protocol.Message) {
	body, err := m.MarshalVT()
	if err != nil {
		session.server.t.Error(err)
		return
	}
	session.send(&envelopev1.Frame{Command: f.Command, RequestId: f.RequestId, Conversation: f.Conversation, Body: body})
}

func (session *serverSession) refuse(f *envelopev1.Frame, err *protocol.Error) {
	session.send(&envelopev1.Frame{Command: f.Command, RequestId: f.RequestId, Conversation: f.Conversation, Error: err.Wire()})
}

func (s *server) chance(p float64) bool { return p > 0 && s.rand.Float64() < p }

// handle reports whether the connection lives on.
func (s *server) handle(session *serverSession, f *envelopev1.Frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[f.Command]++
	if session.user == "" {
		return s.connect(session, f)
	}
	if s.chance(s.faults.killFirst) {
		return false
	}
	if f.Conversation == "" && f.Command != envelopev1.Command_COMMAND_CONVERSATION_CREATE {
		f.Conversation = "u:" + session.user
	}
	decode := func(m protocol.Message) {
		if err := protocol.DecodeBody(false, f.Body, m); err != nil {
			s.t.Errorf("%v: %v", f.Command, err)
		}
	}
	switch f.Command {
	case envelopev1.Command_COMMAND_PING:
		session.send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PONG, RequestId: f.RequestId})
	case envelopev1.Command_COMMAND_REFRESH:
		body := &envelopev1.Refresh{}
		decode(body)
		s.connects = append(s.connects, "refresh "+body.Token)
		session.answer(f, s.helloFor(session))
	case envelopev1.Command_COMMAND_CONVERSATION_HEADS:
		body := &conversationv1.HeadsRequest{}
		decode(body)
		session.answer(f, s.heads(session, body))
	case envelopev1.Command_COMMAND_CONVERSATION_HISTORY:
		body := &conversationv1.HistoryRequest{}
		decode(body)
		session.answer(f, s.history(session, f.Conversation, body))
	case envelopev1.Command_COMMAND_RECEIPT_READ:
		body := &receiptv1.ReadRequest{}
		decode(body)
		if s.reads(f.Conversation, session.user) {
			s.logs[f.Conversation].read = map[string]uint64{session.user: body.Seq}
		}
		session.answer(f, &receiptv1.Cursor{User: session.user, Seq: body.Seq})
	case envelopev1.Command_COMMAND_SIGNAL_WATCH:
		body := &signalv1.WatchRequest{}
		decode(body)
		reply := &signalv1.WatchReply{ExpiresMs: uint32(s.watchLasts.Milliseconds())}
		for _, u := range body.Users {
			if s.strange[u] {
				session.refuse(f, protocol.Errorf(protocol.CodeNotFound, "no member"))
				return true
			}
			reply.Presences = append(reply.Presences, &signalv1.Presence{User: u, Online: !s.offline[u]})
		}
		session.answer(f, reply)
	case envelopev1.Command_COMMAND_SIGNAL_UNWATCH:
		session.answer(f, &signalv1.WatchReply{})
	case envelopev1.Command_COMMAND_SIGNAL_TYPING:
		for other := range s.sessions {
			if other.user != session.user && s.reads(f.Conversation, other.user) {
				other.push(f.Conversation, envelopev1.Command_COMMAND_TYPING, &signalv1.Typing{User: session.user})
			}
		}
		session.answer(f, &signalv1.TypingReply{})
	case envelopev1.Command_COMMAND_CONVERSATION_MEMBERS:
		reply := &conversationv1.MembersReply{}
		for user, at := range s.logs[f.Conversation].members {
			if at[1] == 0 {
				reply.Members = append(reply.Members, &conversationv1.Member{User: user})
			}
		}
		session.answer(f, reply)
	case envelopev1.Command_COMMAND_CONVERSATION_LIST:
		session.answer(f, &conversationv1.ListReply{CompleteUntilUs: 1})
	default:
		return s.write(session, f, decode)
	}
	return true
}

func (s *server) helloFor(session *serverSession) *envelopev1.Hello {
	h := proto.Clone(s.hello).(*envelopev1.Hello)
	h.User, h.Device, h.App, h.Node, h.TimeUs = session.user, session.device, "main", "fake", time.Now().UnixMicro()
	if h.TokenExpiresUs != 0 {
		h.TokenExpiresUs += h.TimeUs
	}
	if h.TicketMs > 0 {
		s.given++
		h.Ticket = fmt.Append(nil, "ticket ", s.given)
	}
	return h
}

// connect takes tokens of the form user/device/anything.
func (s *server) connect(session *serverSession, f *envelopev1.Frame) bool {
	body := &envelopev1.Connect{}
	if f.Command != envelopev1.Command_COMMAND_CONNECT || body.UnmarshalVT(f.Body) != nil {
		s.t.Errorf("first frame %v", f)
		return false
	}
	s.connects, s.tickets = append(s.connects, body.Token), append(s.tickets, string(body.Ticket))
	if s.refuse != nil {
		if c := s.refuse(body.Token); c != nil {
			if c.Code != 0 {
				session.push("", envelopev1.Command_COMMAND_CLOSE, c)
			}
			return true
		}
	}
	parts := strings.Split(body.Token, "/")
	session.user, session.device = parts[0], parts[1]
	for other := range s.sessions {
		if other.user == session.user && other.device == session.device {
			other.conn.Close()
		}
	}
	s.sessions[session] = struct{}{}
	session.answer(f, s.helloFor(session))
	return true
}

func (s *server) reads(conversation, user string) bool {
	log := s.logs[conversation]
	return log != nil && log.members[user][0] > 0
}

func (s *server) heads(session *serverSession, q *conversationv1.HeadsRequest) *conversationv1.HeadsReply {
	reply := &conversationv1.HeadsReply{}
	if len(q.Conversations) == 0 || len(q.Conversations) > 200 {
		s.t.Errorf("%d conversations in one question", len(q.Conversations))
	}
	for _, id := range q.Conversations {
		if s.unanswered[id] {
			reply.Unanswered = append(reply.Unanswered, id)
			continue
		}
		if s.reads(id, session.user) {
			at := s.logs[id].members[session.user]
			h := &conversationv1.Head{Conversation: id, Seq: uint64(len(s.logs[id].records)), JoinedSeq: at[0], LeftSeq: at[1]}
			if at[1] > 0 {
				h.Seq = at[1]
			}
			h.Last, h.ReadSeq = s.logs[id].records[h.Seq-1], s.logs[id].read[session.user]
			reply.Heads = append(reply.Heads, h)
		}
	}
	return reply
}

func (s *server) history(session *serverSession, id string, q *conversationv1.HistoryRequest) *conversationv1.HistoryReply {
	reply := &conversationv1.HistoryReply{}
	if !s.reads(id, session.user) {
		return reply
	}
	at := s.logs[id].members[session.user]
	reply.HeadSeq = uint64(len(s.logs[id].records))
	if at[1] > 0 {
		reply.HeadSeq = at[1]
	}
	for seq := max(q.AfterSeq+1, at[0]); seq <= reply.HeadSeq; seq++ {
		if len(reply.Records) == int(q.Limit) {
			reply.More = true
			break
		}
		reply.Records = append(reply.Records, s.logs[id].records[seq-1])
	}
	return reply
}

// write is the rules of DESIGN section 3 for one request at a time.
func (s *server) write(session *serverSession, f *envelopev1.Frame, decode func(protocol.Message)) bool {
	record, id, ok := s.draft(session, f, decode)
	if !ok {
		return true
	}
	log := s.logs[id]
	if log == nil {
		log = &serverLog{members: map[string][2]uint64{}}
	}
	find := func(clientID string) *recordv1.Record {
		for i, r := range log.records {
			if r.ClientId == clientID && r.Sender == session.user && log.devices[i] == session.device {
				return r
			}
		}
		return nil
	}
	if old := find(f.ClientId); old != nil {
		if old.Seq <= f.Since {
			s.t.Errorf("since %d, but the write is at %d: the server would not find it", f.Since, old.Seq)
		}
		session.answer(f, ackOf(id, old, true))
		return true
	}
	if f.Since > uint64(len(log.records)) {
		s.t.Errorf("since %d lies beyond the head %d", f.Since, len(log.records))
	}
	if f.After != "" && find(f.After) == nil {
		session.refuse(f, protocol.Errorf(protocol.CodeResend, "after is not here"))
		return true
	}
	if s.chance(s.faults.refuse) {
		codes := []protocol.Code{protocol.CodeBusy, protocol.CodeRetry, protocol.CodeResend, protocol.CodeRateLimited}
		session.refuse(f, &protocol.Error{Code: codes[s.rand.IntN(len(codes))], RetryAfter: time.Duration(s.rand.IntN(5)) * time.Millisecond})
		return true
	}
	s.logs[id] = log
	s.commit(session, log, id, record)
	switch {
	case s.chance(s.faults.killAfter):
		return false
	case s.chance(s.faults.muteAck):
		return true
	}
	session.answer(f, ackOf(id, record, false))
	return true
}

func ackOf(id string, r *recordv1.Record, duplicate bool) *recordv1.Ack {
	return &recordv1.Ack{Conversation: id, Seq: r.Seq, Count: r.Count, Id: r.Id, TimeUs: r.TimeUs, Duplicate: duplicate}
}

// draft makes the record that a request asks for.
func (s *server) draft(session *serverSession, f *envelopev1.Frame, decode func(protocol.Message)) (*recordv1.Record, string, bool) {
	r := &recordv1.Record{Sender: session.user, ClientId: f.ClientId}
	id := f.Conversation
	if f.ClientId == "" {
		s.t.Errorf("%v without a client id", f.Command)
	}
	switch f.Command {
	case envelopev1.Command_COMMAND_MESSAGE_SEND:
		m := &messagev1.Message{}
		decode(m)
		if m.GetText().GetText() == "forbidden" {
			session.refuse(f, protocol.Errorf(protocol.CodeForbidden, "no"))
			return nil, "", false
		}
		r.Body = &recordv1.Record_Message{Message: m}
		if protocol.KindOf(id) == protocol.KindDirect && s.logs[id] == nil {
			a, b := protocol.Peers(id)
			r.Joined = []string{a, b}
		}
	case envelopev1.Command_COMMAND_CONVERSATION_CREATE:
		m := &conversationv1.CreateRequest{}
		decode(m)
		id = protocol.Group("main", session.user, f.ClientId)
		r.Joined = slices.Concat(m.Members, []string{session.user})
		r.Body = &recordv1.Record_Created{Created: &recordv1.Created{Name: m.Name}}
	case envelopev1.Command_COMMAND_CONVERSATION_ADD:
		m := &conversationv1.AddRequest{}
		decode(m)
		r.Joined, r.Body = m.Members, &recordv1.Record_Members{Members: &recordv1.Members{}}
	case envelopev1.Command_COMMAND_CONVERSATION_REMOVE:
		m := &conversationv1.RemoveRequest{}
		decode(m)
		r.Left, r.Body = m.Members, &recordv1.Record_Members{Members: &recordv1.Members{}}
	case envelopev1.Command_COMMAND_CONVERSATION_LEAVE:
		r.Left, r.Body = []string{session.user}, &recordv1.Record_Members{Members: &recordv1.Members{}}
	default:
		session.refuse(f, protocol.Errorf(protocol.CodeUnknownCommand, "%v", f.Command))
		return nil, "", false
	}
	if f.Command != envelopev1.Command_COMMAND_CONVERSATION_CREATE && r.Joined == nil && !s.reads(id, session.user) {
		session.refuse(f, protocol.Errorf(protocol.CodeNotFound, "no such conversation"))
		return nil, "", false
	}
	return r, id, true
}

// commit stores a record and pushes it to everyone but its writer.
func (s *server) commit(writer *serverSession, log *serverLog, id string, r *recordv1.Record) {
	r.Seq = uint64(len(log.records)) + 1
	if r.GetMessage() != nil {
		log.count++
	}
	r.Count, r.Id, r.TimeUs = log.count, uint64(s.rand.Int64()), time.Now().UnixMicro()
	device := ""
	if writer != nil {
		device = writer.device
	}
	log.records, log.devices = append(log.records, r), append(log.devices, device)
	for _, user := range r.Joined {
		log.members[user] = [2]uint64{r.Seq, 0}
	}
	for other := range s.sessions {
		if other != writer && s.reads(id, other.user) && log.members[other.user][1] == 0 {
			s.deliver(other, id, r)
		}
	}
	for _, user := range r.Left {
		log.members[user] = [2]uint64{log.members[user][0], r.Seq}
	}
	for _, user := range slices.Concat(r.Joined, r.Left) {
		s.standing(user, id, r.Seq)
	}
}

// standing is what job's follower does.
func (s *server) standing(user, id string, seq uint64) {
	if strings.HasPrefix(id, "u:") {
		return
	}
	own := "u:" + user
	log := s.logs[own]
	if log == nil {
		log = &serverLog{members: map[string][2]uint64{user: {1, 0}}}
		s.logs[own] = log
	}
	at := s.logs[id].members[user]
	s.commit(nil, log, own, &recordv1.Record{Body: &recordv1.Record_Standing{Standing: &recordv1.Standing{
		Conversation: id, Seq: seq, Member: at[1] == 0, JoinedSeq: at[0], LeftSeq: at[1],
	}}})
}

func (s *server) deliver(to *serverSession, id string, r *recordv1.Record) {
	if s.chance(s.faults.drop) {
		to.push("", envelopev1.Command_COMMAND_RESYNC, &envelopev1.Resync{DelayMs: uint32(s.rand.IntN(20))})
		return
	}
	if s.chance(s.faults.headOnly) {
		to.push(id, envelopev1.Command_COMMAND_HEAD, &conversationv1.Head{Conversation: id, Seq: r.Seq})
		return
	}
	body, err := r.MarshalVT()
	if err != nil {
		s.t.Error(err)
	}
	frame, err := (&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Conversation: id, Body: body}).MarshalVT()
	if err != nil {
		s.t.Error(err)
	}
	if to.held == nil && s.chance(s.faults.late) {
		to.held = frame
		return
	}
	to.out <- frame
	if s.chance(s.faults.double) {
		to.out <- frame
	}
	if to.held != nil {
		to.out <- to.held
		to.held = nil
	}
}

// release sends the pushes that wait for a next one.
func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = faults{}
	for session := range s.sessions {
		if session.held != nil {
			session.out <- session.held
			session.held = nil
		}
	}
}

// texts is a conversation's messages as they are stored.
func (s *server) texts(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.logs[id] == nil {
		return nil
	}
	for _, r := range s.logs[id].records {
		if m := r.GetMessage(); m != nil {
			out = append(out, m.GetText().GetText())
		}
	}
	return out
}

func (s *server) head(id string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[id] == nil {
		return 0
	}
	return uint64(len(s.logs[id].records))
}

func (s *server) count(c envelopev1.Command) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[c]
}

// inject commits a message of somebody who is not connected.
func (s *server) inject(id, user, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &recordv1.Record{Sender: user, ClientId: fmt.Sprint("inject ", s.rand.Uint64()), Body: &recordv1.Record_Message{Message: Text(text)}}
	log := s.logs[id]
	if log == nil {
		log = &serverLog{members: map[string][2]uint64{}}
		s.logs[id] = log
		a, b := protocol.Peers(id)
		r.Joined = []string{a, b}
	}
	s.commit(nil, log, id, r)
}
