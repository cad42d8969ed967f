package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

func (s *server) tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.connects)
}

func TestACloseForGoodEndsRun(t *testing.T) {
	for _, code := range []protocol.CloseCode{protocol.CloseReplaced, protocol.CloseKicked, protocol.CloseProtocol, protocol.CloseTooManySession} {
		s := newServer(t, 1)
		alice := start(t, s, "alice/phone")
		eventually(t, "connected", func() bool { return alice.last().Connected })
		s.closeAll(code, 0)
		eventually(t, "the end", func() bool {
			alice.Client.mu.Lock()
			defer alice.Client.mu.Unlock()
			return alice.stopped
		})
		var closed *CloseError
		if err := alice.stop(); !errors.As(err, &closed) || closed.Code != code {
			t.Errorf("%d: Run returned %v", code, err)
		}
		if _, err := alice.Send(within(t), chat, Text("x")); !errors.Is(err, ErrStopped) {
			t.Errorf("afterwards: %v", err)
		}
		if _, err := alice.Heads(within(t), chat); !errors.Is(err, ErrStopped) {
			t.Errorf("afterwards: %v", err)
		}
		if n := len(s.tokens()); n != 1 {
			t.Errorf("%d: connected %d times", code, n)
		}
	}
}

// A node that stood still lets in a session that the device had given up, and so ends the one that the device has.
func TestADeviceReplacedByItsOwnLateSessionComesAgain(t *testing.T) {
	s := newServer(t, 1)
	s.refuse = func(string) *envelopev1.Close {
		s.refuse = nil
		return &envelopev1.Close{}
	}
	alice := start(t, s, "alice/phone", func(o *Options) { o.Limits.ConnectTimeout = 100 * time.Millisecond })
	eventually(t, "connected by the second connect", func() bool { return len(s.tokens()) == 2 && alice.last().Connected })
	s.closeAll(protocol.CloseReplaced, 0)
	eventually(t, "connected again", func() bool { return len(s.tokens()) == 3 && alice.last().Connected })
	s.closeAll(protocol.CloseReplaced, 0) // Nothing of its own can have done that.
	eventually(t, "the end", func() bool {
		alice.Client.mu.Lock()
		defer alice.Client.mu.Unlock()
		return alice.stopped
	})
	var closed *CloseError
	if err := alice.stop(); !errors.As(err, &closed) || closed.Code != protocol.CloseReplaced {
		t.Errorf("Run returned %v", err)
	}
}

func TestADrainingNodeIsLeftForAsLongAsItSays(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone")
	eventually(t, "connected", func() bool { return alice.last().Connected })
	began := time.Now()
	s.closeAll(protocol.CloseDraining, 200*time.Millisecond)
	eventually(t, "connected again", func() bool { return len(s.tokens()) == 2 })
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("back after %v", took)
	}
	if all := s.tokens(); all[0] != all[1] {
		t.Error("a token that holds was replaced: a reconnect storm would reach the app's server")
	}
}

func TestARefusedTokenIsReplaced(t *testing.T) {
	s := newServer(t, 1)
	s.refuse = func(token string) *envelopev1.Close {
		if strings.HasSuffix(token, "/1") {
			return protocol.CloseFrame(protocol.CloseUnauthorized, 0)
		}
		return nil
	}
	n := 0
	alice := start(t, s, "alice/phone", func(o *Options) {
		o.Token = func(context.Context) (string, error) {
			if n++; n == 2 {
				return "", errors.New("the app's server is away")
			}
			return fmt.Sprint("alice/phone/", n), nil
		}
	})
	eventually(t, "connected", func() bool { return alice.last().Connected })
	if got := s.tokens(); !slices.Equal(got, []string{"alice/phone/1", "alice/phone/3"}) {
		t.Errorf("tokens %q", got)
	}
}

func TestATokenIsRefreshedInBand(t *testing.T) {
	s := newServer(t, 1)
	s.hello.TokenExpiresUs = (300 * time.Millisecond).Microseconds() // From each hello on.
	n := 0
	alice := start(t, s, "alice/phone", func(o *Options) {
		o.Token = func(context.Context) (string, error) {
			n++
			return fmt.Sprint("alice/phone/", n), nil
		}
	})
	eventually(t, "two refreshes", func() bool { return len(s.tokens()) >= 3 })
	if got := s.tokens()[:3]; !slices.Equal(got, []string{"alice/phone/1", "refresh alice/phone/2", "refresh alice/phone/3"}) {
		t.Errorf("tokens %q", got)
	}
	if !alice.last().Connected {
		t.Error("the session ended")
	}
}

// The newest ticket goes with the token that it was given for, and with no other.
func TestTicketsComeBackWithTheirToken(t *testing.T) {
	s := newServer(t, 1)
	s.hello.TicketMs = 2000
	n := 0
	alice := start(t, s, "alice/phone", func(o *Options) {
		o.Token = func(context.Context) (string, error) {
			n++
			return fmt.Sprint("alice/phone/", n), nil
		}
	})
	session := func(number int, tickets ...string) {
		t.Helper()
		eventually(t, "a session", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.tickets) == number && len(s.sessions) == 1
		})
		eventually(t, "recovered", func() bool { return alice.last().Recovered })
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Equal(s.tickets, tickets) {
			t.Fatalf("tickets %q, want %q", s.tickets, tickets)
		}
	}
	session(1, "")
	s.killAll()
	session(2, "", "ticket 1")
	eventually(t, "the ticket is renewed", func() bool { return slices.Contains(s.tokens(), "refresh alice/phone/1") })
	eventually(t, "and is kept", func() bool {
		alice.Client.mu.Lock()
		defer alice.Client.mu.Unlock()
		return !slices.Contains([]string{"", "ticket 1", "ticket 2"}, string(alice.ticket))
	})
	s.closeAll(protocol.CloseUnauthorized, 0)
	session(3, "", "ticket 1", "")
	if got := s.tokens(); got[len(got)-1] != "alice/phone/2" {
		t.Errorf("tokens %q", got)
	}
}

// Renewing tickets does not put off the end of the token that they are renewed with.
func TestATokenIsReplacedInTimeThoughItsTicketIsRenewed(t *testing.T) {
	s := newServer(t, 1)
	s.hello.TicketMs = 2000
	s.hello.TokenExpiresUs = (3 * time.Second).Microseconds() // From each hello on.
	n := 0
	start(t, s, "alice/phone", func(o *Options) {
		o.Token = func(context.Context) (string, error) {
			n++
			return fmt.Sprint("alice/phone/", n), nil
		}
	})
	eventually(t, "a new token", func() bool { return slices.Contains(s.tokens(), "refresh alice/phone/2") })
	if got := s.tokens(); !slices.Contains(got, "refresh alice/phone/1") {
		t.Errorf("tokens %q: the ticket was not renewed", got)
	}
}

func TestLifeIsProved(t *testing.T) {
	s := newServer(t, 1)
	s.hello.HeartbeatMs = 40
	alice := start(t, s, "alice/phone")
	eventually(t, "pings", func() bool { return s.count(envelopev1.Command_COMMAND_PING) >= 5 })
	if n := len(s.tokens()); n != 1 || !alice.last().Connected {
		t.Errorf("connected %d times", n)
	}
}

func TestADeadServerIsLeft(t *testing.T) {
	s := newServer(t, 1)
	s.hello.HeartbeatMs = 40
	alice := start(t, s, "alice/phone", func(o *Options) { o.Limits.AnswerTimeout = 60 * time.Millisecond })
	eventually(t, "connected", func() bool { return alice.last().Recovered })
	s.mu.Lock() // It accepts, and says nothing more.
	eventually(t, "it is said", func() bool { return !alice.last().Connected })
	s.mu.Unlock()
	eventually(t, "connected again", func() bool { return alice.last().Connected })
}

func TestGroupsWhoseMembersComeAndGo(t *testing.T) {
	s := newServer(t, 1)
	alice, bob := start(t, s, "alice/phone"), start(t, s, "bob/phone")
	ack, err := alice.CreateGroup(within(t), "team")
	if err != nil {
		t.Fatal(err)
	}
	id := ack.Conversation
	say := func(text string) {
		t.Helper()
		if _, err := alice.Send(within(t), id, Text(text)); err != nil {
			t.Fatal(err)
		}
	}
	say("before bob") // 2
	if _, err := alice.Add(within(t), id, "bob"); err != nil {
		t.Fatal(err)
	}
	say("with bob") // 4
	if _, err := bob.Leave(within(t), id); err != nil {
		t.Fatal(err)
	}
	say("without bob") // 6
	eventually(t, "bob's part", func() bool { return slices.Equal(bob.seqs(id), []uint64{3, 4, 5}) })
	if _, err := bob.Send(within(t), id, Text("x")); err != nil {
		t.Log("a former member's write:", err)
	}
	if _, err := alice.Add(within(t), id, "bob"); err != nil {
		t.Fatal(err)
	}
	say("back")
	alice.sees(t, s, id)
	head := s.head(id)
	eventually(t, "bob's second part", func() bool { got := bob.seqs(id); return got[len(got)-1] == head })
	if got := bob.seqs(id); !slices.IsSorted(got) || slices.Contains(got, 6) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("bob saw %v", got)
	}
	if _, err := alice.Remove(within(t), id, "bob"); err != nil {
		t.Fatal(err)
	}
	members, err := alice.Members(within(t), id, &conversationv1.MembersRequest{})
	if err != nil || len(members.Members) != 1 {
		t.Errorf("%v, %v", members, err)
	}
	alice.sees(t, s, id)
	alice.sees(t, s, "u:alice")
	bob.sees(t, s, "u:bob")
}

func TestCursorsAndWatchesOutliveAConnection(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone")
	eventually(t, "connected", func() bool { return alice.last().Connected })
	if cursor, err := alice.MarkRead(within(t), chat, 7); err != nil || cursor.Seq != 7 {
		t.Fatal(cursor, err)
	}
	if seen, err := alice.Watch(within(t), chat, "bob"); err != nil || len(seen) != 1 || !seen[0].Online {
		t.Fatal(seen, err)
	}
	s.killAll()
	eventually(t, "both are repeated", func() bool {
		return s.count(envelopev1.Command_COMMAND_RECEIPT_READ) == 2 && s.count(envelopev1.Command_COMMAND_SIGNAL_WATCH) == 2
	})
	if err := alice.Unwatch(within(t), chat, "bob"); err != nil {
		t.Fatal(err)
	}
	s.killAll()
	eventually(t, "the cursor alone", func() bool { return s.count(envelopev1.Command_COMMAND_RECEIPT_READ) == 3 })
	if n := s.count(envelopev1.Command_COMMAND_SIGNAL_WATCH); n != 2 {
		t.Errorf("watched %d times", n)
	}
}

// What the heads say already is not asked for once more: one record that is missing comes with the head, and a read mark that the server
// has is not repeated.
func TestAReconnectAsksForNoMoreThanItLacks(t *testing.T) {
	s := newServer(t, 1)
	alice, bob := start(t, s, "alice/phone"), start(t, s, "bob/phone")
	send := func(text string) {
		t.Helper()
		if _, err := bob.Send(within(t), chat, Text(text)); err != nil {
			t.Fatal(err)
		}
	}
	send("1")
	alice.sees(t, s, chat)
	eventually(t, "recovered", func() bool { return alice.last().Recovered })
	if _, err := alice.MarkRead(within(t), chat, 1); err != nil {
		t.Fatal(err)
	}
	asked := s.count(envelopev1.Command_COMMAND_CONVERSATION_HISTORY)
	// away has alice miss what is sent meanwhile.
	away := func(meanwhile func()) {
		t.Helper()
		s.mu.Lock()
		s.refuse = func(token string) *envelopev1.Close {
			if strings.HasPrefix(token, "alice/") {
				return protocol.CloseFrame(protocol.CloseOverloaded, time.Millisecond)
			}
			return nil
		}
		for session := range s.sessions {
			if session.user == "alice" {
				session.conn.Close()
			}
		}
		s.mu.Unlock()
		meanwhile()
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		alice.sees(t, s, chat)
	}
	away(func() { send("2") })
	if n := s.count(envelopev1.Command_COMMAND_CONVERSATION_HISTORY) - asked; n != 0 {
		t.Errorf("history was asked for %d times", n)
	}
	if n := s.count(envelopev1.Command_COMMAND_RECEIPT_READ); n != 1 {
		t.Errorf("read marks were sent %d times", n)
	}
	away(func() {
		send("3")
		send("4")
		s.mu.Lock()
		s.logs[chat].read = nil // Its owner was killed before it stored the mark.
		s.mu.Unlock()
	})
	if n := s.count(envelopev1.Command_COMMAND_CONVERSATION_HISTORY) - asked; n != 1 {
		t.Errorf("history was asked for %d times for two records", n)
	}
	eventually(t, "the mark is repeated", func() bool { return s.count(envelopev1.Command_COMMAND_RECEIPT_READ) == 2 })
}

func TestTheOutboxIsBounded(t *testing.T) {
	s := newServer(t, 1)
	s.set(faults{refuse: 1})
	alice := start(t, s, "alice/phone", func(o *Options) { o.Limits.Outbox = 3 })
	for i := range 3 {
		if _, err := alice.SendAsync(chat, Text(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := alice.SendAsync(chat, Text("3")); !errors.Is(err, ErrOutboxFull) {
		t.Errorf("the fourth: %v", err)
	}
	s.set(faults{})
	eventually(t, "room", func() bool { _, err := alice.SendAsync(chat, Text("3")); return err == nil })
	eventually(t, "all", func() bool { return slices.Equal(s.texts(chat), []string{"0", "1", "2", "3"}) })
}

// brokenStore cannot keep a write.
type brokenStore struct{ *MemoryStore }

func (brokenStore) PutWrite(Write) error { return errors.New("disk full") }

func TestWhatCannotBeKeptIsNotSent(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone", func(o *Options) { o.Store = brokenStore{NewMemoryStore()} })
	if _, err := alice.Send(within(t), chat, Text("x")); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
	if err := alice.Typing(chat, true); err != nil && !errors.Is(err, ErrNotConnected) {
		t.Error(err)
	}
	if n := s.head(chat); n != 0 {
		t.Errorf("%d records", n)
	}
}

func TestNothingIsDoneWithBadOptions(t *testing.T) {
	token := func(context.Context) (string, error) { return "", nil }
	for name, o := range map[string]Options{
		"no URL":     {Token: token, Handler: func(Event) {}},
		"http":       {URL: "http://x", Token: token, Handler: func(Event) {}},
		"no host":    {URL: "ws:///v1", Token: token, Handler: func(Event) {}},
		"no token":   {URL: "ws://x", Handler: func(Event) {}},
		"no handler": {URL: "ws://x", Token: token},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBackOffIsFullJitter(t *testing.T) {
	b := backOff{first: 100 * time.Millisecond, most: time.Second}
	for try := range 40 {
		most := min(time.Second, 100*time.Millisecond<<min(try, 10))
		if d := b.next(0); d < 0 || d > most {
			t.Errorf("try %d: %v of at most %v", try, d, most)
		}
	}
	if d := b.next(5 * time.Second); d < 5*time.Second || d > 6*time.Second {
		t.Errorf("with a hint of 5 s: %v", d)
	}
	var low bool
	for range 200 { // Not below a tenth in 200 draws: once in a billion runs.
		low = low || b.next(0) < 100*time.Millisecond
	}
	if !low {
		t.Error("no short waits: the devices of a dead node would come back in a wave")
	}
}

func TestOverTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() { served <- serveTCP(listener) }()
	v := &view{records: map[string][]Record{}}
	c, err := New(Options{
		URL: "tcp://" + listener.Addr().String(), Handler: v.handle,
		Token: func(context.Context) (string, error) { return "alice", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	eventually(t, "the record", func() bool { return slices.Equal(v.seqs(chat), []uint64{1}) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// serveTCP greets one connection, answers heads with none, and pushes a record.
func serveTCP(listener net.Listener) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	write := func(f *envelopev1.Frame, m protocol.Message) error {
		if f.Body, err = m.MarshalVT(); err != nil {
			return err
		}
		data, err := f.MarshalVT()
		if err != nil {
			return err
		}
		_, err = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
		return err
	}
	for {
		var header [4]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return err
		}
		data := make([]byte, binary.BigEndian.Uint32(header[:]))
		if _, err := io.ReadFull(conn, data); err != nil {
			return err
		}
		f := &envelopev1.Frame{}
		if err := f.UnmarshalVT(data); err != nil {
			return err
		}
		answer := &envelopev1.Frame{Command: f.Command, RequestId: f.RequestId}
		switch f.Command {
		case envelopev1.Command_COMMAND_CONNECT:
			if err := write(answer, &envelopev1.Hello{User: "alice", HeartbeatMs: 1000}); err != nil {
				return err
			}
			r := &recordv1.Record{Seq: 1, Joined: []string{"alice", "bob"}}
			if err := write(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Conversation: chat}, r); err != nil {
				return err
			}
		case envelopev1.Command_COMMAND_CONVERSATION_HEADS:
			if err := write(answer, &conversationv1.HeadsReply{}); err != nil {
				return err
			}
		}
	}
}
