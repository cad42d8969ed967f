package demo

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// onlyChat is a server with the one conversation of alice and the bot, over TCP.
type onlyChat struct {
	t        *testing.T
	listener net.Listener

	mu      sync.Mutex
	conn    net.Conn // guarded by mu, as all below
	records []*recordv1.Record
	read    uint64
	silent  bool              // Stores, and answers no write: a server that is killed before the ack.
	sends   chan sentByTheBot // Every transmission.
}

type sentByTheBot struct{ ClientID, Text string }

func startChat(t *testing.T) *onlyChat {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	s := &onlyChat{t: t, listener: listener, sends: make(chan sentByTheBot, 100)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close() // Ends the loop, which is what counts.
		serving.Wait()
	})
	return s
}

// serve answers one connection until it ends; the bot has one at a time.
func (s *onlyChat) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		data := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(conn, data); err != nil {
			return
		}
		f := &envelopev1.Frame{}
		if err := f.UnmarshalVT(data); err != nil {
			s.t.Error(err)
			return
		}
		s.mu.Lock()
		s.conn = conn
		if reply := s.answer(f); reply != nil {
			s.write(&envelopev1.Frame{Command: f.Command, RequestId: f.RequestId, Conversation: f.Conversation}, reply)
		}
		if f.Command == envelopev1.Command_COMMAND_CONNECT {
			for _, r := range s.records {
				s.write(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Conversation: chat}, r)
			}
		}
		s.mu.Unlock()
	}
}

func (s *onlyChat) answer(f *envelopev1.Frame) protocol.Message {
	head := uint64(len(s.records))
	switch f.Command {
	case envelopev1.Command_COMMAND_CONNECT:
		return &envelopev1.Hello{App: "main", User: BotUser, Device: botDevice, HeartbeatMs: 60_000}
	case envelopev1.Command_COMMAND_CONVERSATION_HEADS:
		return &conversationv1.HeadsReply{Heads: []*conversationv1.Head{{Conversation: chat, Seq: head, JoinedSeq: 1}}}
	case envelopev1.Command_COMMAND_CONVERSATION_HISTORY:
		q := &conversationv1.HistoryRequest{}
		if err := q.UnmarshalVT(f.Body); err != nil {
			s.t.Error(err)
		}
		return &conversationv1.HistoryReply{Records: s.records[min(q.AfterSeq, head):], HeadSeq: head}
	case envelopev1.Command_COMMAND_RECEIPT_READ:
		q := &receiptv1.ReadRequest{}
		if err := q.UnmarshalVT(f.Body); err != nil {
			s.t.Error(err)
		}
		s.read = max(s.read, q.Seq)
		return &receiptv1.Cursor{User: BotUser, Seq: s.read}
	case envelopev1.Command_COMMAND_MESSAGE_SEND:
		return s.take(f)
	}
	return nil
}

// take stores a write once for each client id.
func (s *onlyChat) take(f *envelopev1.Frame) protocol.Message {
	m := &messagev1.Message{}
	if err := m.UnmarshalVT(f.Body); err != nil {
		s.t.Error(err)
	}
	i := slices.IndexFunc(s.records, func(r *recordv1.Record) bool { return r.ClientId == f.ClientId })
	if i < 0 {
		i = len(s.records)
		s.append(&recordv1.Record{Sender: BotUser, ClientId: f.ClientId, Body: &recordv1.Record_Message{Message: m}})
	}
	s.sends <- sentByTheBot{f.ClientId, m.GetText().GetText()}
	if s.silent {
		return nil
	}
	return &recordv1.Ack{Conversation: chat, Seq: s.records[i].Seq}
}

func (s *onlyChat) append(r *recordv1.Record) {
	r.Seq = uint64(len(s.records)) + 1
	if r.Seq == 1 {
		r.Joined = []string{"alice", BotUser}
	}
	s.records = append(s.records, r)
}

// say is a message of alice's, pushed to the bot if it is connected.
func (s *onlyChat) say(m *messagev1.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(&recordv1.Record{Sender: "alice", ClientId: "alice's", Body: &recordv1.Record_Message{Message: m}})
	if s.conn != nil {
		s.write(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Conversation: chat}, s.records[len(s.records)-1])
	}
}

func (s *onlyChat) write(f *envelopev1.Frame, body protocol.Message) {
	var err error
	if f.Body, err = body.MarshalVT(); err != nil {
		s.t.Error(err)
	}
	data, err := f.MarshalVT()
	if err != nil {
		s.t.Error(err)
	}
	_, _ = s.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)) // A bot that has left comes back.
}

func (s *onlyChat) setSilent(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

func (s *onlyChat) nextSend() sentByTheBot {
	s.t.Helper()
	select {
	case sent := <-s.sends:
		return sent
	case <-time.After(20 * time.Second):
		s.t.Fatal("the bot says nothing")
		return sentByTheBot{}
	}
}

// texts are what the conversation holds, by sender.
func (s *onlyChat) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, len(s.records))
	for i, r := range s.records {
		out[i] = r.Sender + ": " + r.GetMessage().GetText().GetText()
	}
	return out
}

// startBot runs a bot until stop is called.
func (s *onlyChat) startBot(stateFile string) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	bot := NewBot(BotConfig{
		URL:       func() string { return "tcp://" + s.listener.Addr().String() },
		Issue:     func(user, device string) (string, error) { return user + " " + device, nil },
		StateFile: stateFile, Logger: slog.New(slog.DiscardHandler),
	})
	go func() { done <- bot.Run(ctx) }()
	return func() {
		s.t.Helper()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the bot ended with %v", err)
		}
		s.mu.Lock()
		s.conn = nil
		s.mu.Unlock()
	}
}

// The server dies when it has stored the bot's answer and said nothing; the next bot cannot know, and must not answer again.
func TestBotAnswersOnceOverARestart(t *testing.T) {
	s, state := startChat(t), filepath.Join(t.TempDir(), "bot.json")
	s.setSilent(true)
	s.say(client.Text("one"))
	stop := s.startBot(state)
	first := s.nextSend()
	if first.Text != "one" {
		t.Fatalf("the answer to one is %q", first.Text)
	}
	stop()

	s.setSilent(false)
	stop = s.startBot(state)
	if again := s.nextSend(); again != first {
		t.Errorf("after the restart the bot sends %v, before it sent %v", again, first)
	}
	s.say(&messagev1.Message{Content: &messagev1.Message_Location{Location: &messagev1.Location{Title: "here"}}})
	s.say(client.Text("two"))
	if second := s.nextSend(); second.Text != "two" || second.ClientID == first.ClientID {
		t.Errorf("the answer to two is %v, the one before was %v", second, first)
	}
	stop()

	want := []string{"alice: one", "echo: one", "alice: ", "alice: two", "echo: two"}
	if diff := cmp.Diff(want, s.texts()); diff != "" {
		t.Error(diff)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read < 4 {
		t.Errorf("the bot has read up to %d", s.read)
	}
}
