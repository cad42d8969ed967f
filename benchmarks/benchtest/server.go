// Package benchtest is a server of the protocol in memory, small enough to be believed by reading, that breaks its promises
// on demand. It shows that the oracle sees each of them broken, and none where all are kept.
package benchtest

import (
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// Faults are what goes wrong; each number n means with every n-th message (or push), 0 never.
type Faults struct {
	LoseAcked  int // Acknowledged under a seq that the next message gets.
	StoreTwice int // Stored under two seqs.
	SwapSends  int // Given its seq after the sender's next message.
	SkipSeq    int // A seq is left out before it.
	Corrupt    int // Its text is changed.
	Forge      int // Its sender is changed.
	AckTwice   int // Acknowledged a second time, under another seq.

	DropPush   int // Not pushed; history has it.
	Vanish     int // Not pushed, and history does not show it to anyone but the sender.
	SwapPushes int // Pushed after the one that follows.
	RepeatPush int // Pushed twice.
	Misroute   int // Pushed to a stranger as well.

	Kill   int  // Stored, then the sender's connection dies before the ack.
	Drain  int  // The sender's session is closed with a word, and told to come back.
	Busy   int  // Refused as busy, once.
	Refuse int  // Refused for good.
	Ignore int  // Neither stored nor answered, once.
	Resync int  // A push is not made; instead the device is told to compare its heads.
	Mute   bool // Pushes stop after the first hundred messages, and only heads tell.
}

// Server is the fake. Its lock is held for a whole request: it is meant to be right, not fast.
type Server struct {
	target   string
	faults   Faults
	verify   func(token string) (user string, err error)
	listener net.Listener
	wait     sync.WaitGroup

	mu            sync.Mutex
	closed        bool
	sessions      map[string]*session
	conversations map[string]*conversation
	messages      int
	pushes        int
	refusedOnce   map[string]bool
	Resends       int // Answers `resend`.
	Duplicates    int // Retries that got their first answer.
}

type conversation struct {
	id       string
	members  []string
	records  []*recordv1.Record // By seq−1; nil where a seq was skipped.
	byClient map[string]uint64  // sender + client id → seq.
	hidden   map[uint64]bool
	held     *envelopev1.Frame // A send whose seq waits for the next one.
	heldBy   *session
}

// Start serves until the test ends.
func Start(t *testing.T, transport string, faults Faults, verify func(token string) (string, error)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		target: l.Addr().String(), faults: faults, verify: verify, listener: l,
		sessions: map[string]*session{}, conversations: map[string]*conversation{}, refusedOnce: map[string]bool{},
	}
	s.wait.Go(func() { s.accept(transport) })
	t.Cleanup(s.stop)
	return s
}

// Target is its address.
func (s *Server) Target() string { return s.target }

func (s *Server) accept(transport string) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wait.Go(func() { s.serve(c, transport) })
	}
}

func (s *Server) serve(c net.Conn, transport string) {
	defer c.Close() //nolint:errcheck // a fake's connection.
	p := &session{server: s, conn: c, frames: tcpFrames{}, out: make(chan []byte, 1<<14), gone: make(chan struct{})}
	if transport == "ws" {
		u := ws.Upgrader{
			Protocol: func(p []byte) bool { return string(p) == protocol.SubprotocolProto },
			OnRequest: func(uri []byte) error {
				if string(uri) != "/v1/connect" {
					return ws.RejectConnectionError(ws.RejectionStatus(http.StatusNotFound))
				}
				return nil
			},
		}
		if hs, err := u.Upgrade(c); err != nil || hs.Protocol != protocol.SubprotocolProto {
			return
		}
		p.frames = wsFrames{}
	}
	s.wait.Go(p.writeLoop)
	p.readLoop()
	close(p.gone)
	s.mu.Lock()
	if s.sessions[p.user] == p {
		delete(s.sessions, p.user)
	}
	s.mu.Unlock()
}

func (s *Server) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for _, p := range s.sessions {
		_ = p.conn.Close()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wait.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		panic("benchtest: a connection of the fake server does not end")
	}
}

// Preload gives a 1:1 conversation n records, as an earlier run would have.
func (s *Server) Preload(a, b string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.direct(protocol.Direct(a, b))
	for range n {
		c.append(&recordv1.Record{Sender: a, ClientId: "older"})
	}
}

// Write appends a message in a server's name to a conversation, with these members if it is new, and pushes it.
func (s *Server) Write(id string, members []string, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.direct(id)
	if len(c.records) == 0 {
		c.members = members
	}
	r := &recordv1.Record{Body: &recordv1.Record_Message{Message: &messagev1.Message{
		Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: text}},
	}}}
	c.append(r)
	s.push(c, r)
}

// Stats are Resends and Duplicates.
func (s *Server) Stats() (resends, duplicates int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Resends, s.Duplicates
}

func (s *Server) direct(id string) *conversation {
	c := s.conversations[id]
	if c == nil {
		c = &conversation{id: id, byClient: map[string]uint64{}, hidden: map[uint64]bool{}}
		if protocol.KindOf(id) == protocol.KindDirect {
			a, b := protocol.Peers(id)
			c.members = []string{a, b}
		}
		s.conversations[id] = c
	}
	return c
}

func (c *conversation) append(r *recordv1.Record) uint64 {
	c.records = append(c.records, r)
	seq := uint64(len(c.records))
	if r != nil {
		r.Seq = seq
	}
	return seq
}

func (c *conversation) member(user string) bool {
	for _, m := range c.members {
		if m == user {
			return true
		}
	}
	return false
}

// every reports whether the n-th of a fault is reached.
func every(n, count int) bool { return n > 0 && count%n == 0 }

// Faultless reports whether the server gives everything that is waited for, sooner or later.
func (s *Server) Faultless() bool { return s.faults == Faults{} }
