package generator

import (
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// requestConnect is the request id of Connect; devices use ids from FirstRequestID on.
const requestConnect = 1

// FirstRequestID is the lowest request id that a Device may use.
const FirstRequestID = 16

// Back-off of reconnects, before jitter.
const (
	backoffFirst = 250 * time.Millisecond
	backoffMost  = 10 * time.Second
	helloTimeout = 30 * time.Second
)

// Device is what a session is for. All calls come from its worker's loop; frames are valid during the call only.
type Device interface {
	// Token is asked for at the first connect, and again when the server does not take it any more.
	Token() (string, error)
	// Up says that the server's hello came; first is false after a reconnect.
	Up(hello *envelopev1.Hello, first bool)
	// Frame is any frame that does not concern the session itself.
	Frame(f *envelopev1.Frame)
	// Down says that the session is gone; ended where it will not come back.
	Down(ended bool)
}

type sessionState uint8

const (
	stateDown sessionState = iota
	stateConnecting
	stateUp
	stateEnded
)

// Session is one device's session: it connects, keeps the heartbeat, and comes back as the server says.
type Session struct {
	Line
	device Device

	// owned by the loop
	state     sessionState
	everUp    bool
	dropped   bool // It was up and went down at least once.
	attempt   uint8
	heartbeat int64 // Nanoseconds.
	began     int64
	bye       *envelopev1.Close
	token     string
	ticket    []byte
}

// Init puts the session on a worker. To be called before the fleet starts.
func (s *Session) Init(w *Worker, index int, d Device) {
	s.device = d
	s.Line.Init(w, index, s)
	w.sessions = append(w.sessions, s)
}

// IsUp reports whether frames may be sent.
func (s *Session) IsUp() bool { return s.state == stateUp }

// Held reports whether the session came up and never went down since.
func (s *Session) Held() bool { return s.state == stateUp && !s.dropped }

// ForgetToken has the device asked for a token again at the next connect.
func (s *Session) ForgetToken() { s.token = "" }

// SendFrame queues f until the end of the callback; it does nothing while the session is down.
func (s *Session) SendFrame(f *envelopev1.Frame) {
	if s.state != stateUp && f.Command != envelopev1.Command_COMMAND_CONNECT {
		return
	}
	if b := s.reserve(f.SizeVT()); b != nil {
		// The size was just computed from the same frame, so this cannot fail.
		_, _ = f.MarshalToSizedBufferVT(b)
		s.seal(b)
	}
}

// Opened implements Endpoint: the transport stands, so authenticate.
func (s *Session) Opened() {
	s.state, s.began, s.bye = stateConnecting, s.worker.now, nil
	var err error
	if s.token == "" {
		if s.token, err = s.device.Token(); err != nil {
			s.Close(fmt.Errorf("token: %w", err))
			return
		}
	}
	body, err := (&envelopev1.Connect{Token: s.token, Client: "halley-bench", Ticket: s.ticket}).MarshalVT()
	if err != nil {
		s.Close(err)
		return
	}
	s.SendFrame(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: requestConnect, Body: body})
}

// Payload implements Endpoint.
func (s *Session) Payload(p []byte) {
	f := &s.worker.frame
	f.Reset()
	if err := f.UnmarshalVTUnsafe(p); err != nil {
		s.Close(fmt.Errorf("frame: %w", err))
		return
	}
	switch {
	case f.Command == envelopev1.Command_COMMAND_PING:
		s.SendFrame(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PONG, RequestId: f.RequestId})
	case f.Command == envelopev1.Command_COMMAND_PONG:
	case f.Command == envelopev1.Command_COMMAND_CLOSE:
		s.bye = new(envelopev1.Close)
		if err := s.bye.UnmarshalVT(f.Body); err != nil {
			s.bye = nil
		}
	case s.state == stateConnecting:
		s.hello(f)
	case s.state == stateUp:
		s.device.Frame(f)
	}
}

func (s *Session) hello(f *envelopev1.Frame) {
	if f.RequestId != requestConnect {
		return
	}
	if f.Error != nil {
		e := protocol.FromWire(f.Error)
		// The text lies in the read buffer, which the error outlives.
		e.Code, e.Message = protocol.Code([]byte(e.Code)), string([]byte(e.Message))
		s.Close(fmt.Errorf("connect refused: %w", e))
		return
	}
	var h envelopev1.Hello
	if err := h.UnmarshalVT(f.Body); err != nil {
		s.Close(fmt.Errorf("hello: %w", err))
		return
	}
	c := &s.worker.Counts
	s.worker.up.Add(1)
	c.Connects++
	if s.everUp {
		c.Reconnects++
	}
	Record(c.ConnectNs, s.worker.now-s.began)
	s.state, s.attempt = stateUp, 0
	s.heartbeat = int64(h.HeartbeatMs) * int64(time.Millisecond)
	if w := s.worker; w.shortest == 0 || s.heartbeat < w.shortest {
		w.shortest = s.heartbeat
	}
	s.ticket = h.Ticket
	first := !s.everUp
	s.everUp = true
	s.device.Up(&h, first)
}

// Closed implements Endpoint: count it, and come back after the server's delay and a full jitter.
func (s *Session) Closed(err error) {
	c := &s.worker.Counts
	wasUp := s.state == stateUp
	if wasUp {
		s.worker.up.Add(-1)
		s.dropped = true
	} else {
		c.Failures++
		s.Elsewhere()
	}
	word, again, least := s.farewell(err)
	if s.bye != nil && s.bye.Reconnect == envelopev1.Reconnect_RECONNECT_NEW_TOKEN {
		s.token, s.ticket = "", nil
	}
	c.Closes[word]++
	if err != nil {
		s.worker.last.Store(&err)
	}
	s.state = stateDown
	if !again {
		s.state = stateEnded
		s.worker.ended.Add(1)
	}
	if wasUp || !again {
		s.device.Down(!again)
	}
	if !again {
		return
	}
	ceiling := min(backoffFirst<<min(s.attempt, 8), backoffMost)
	s.attempt++
	s.worker.After(least+time.Duration(s.worker.rand.Int64N(int64(ceiling))), s.Redial)
}

// farewell reads from the close frame, the close code or the error what the server wants.
func (s *Session) farewell(err error) (word string, again bool, least time.Duration) {
	var closed *CloseError
	var refused *protocol.Error
	switch {
	case s.bye != nil:
		code := protocol.CloseCode(s.bye.Code)
		return reason(code), s.bye.Reconnect != envelopev1.Reconnect_RECONNECT_NO,
			time.Duration(s.bye.RetryAfterMs) * time.Millisecond
	case errors.As(err, &closed):
		code := protocol.CloseCode(closed.Code)
		known, ok := protocol.Closings[code]
		return reason(code), !ok || known.Reconnect != envelopev1.Reconnect_RECONNECT_NO, closed.RetryAfter
	case errors.As(err, &refused):
		return "refused_" + string(refused.Code), refused.Code.Retryable(), refused.RetryAfter
	case s.state == stateDown:
		return "dial_failed", true, 0
	}
	return "dropped", true, 0
}

func reason(code protocol.CloseCode) string {
	if c, ok := protocol.Closings[code]; ok {
		return c.Reason
	}
	return fmt.Sprintf("code_%d", code)
}

// beat keeps the heartbeat that the hello asked for, and gives up a peer that is silent for far longer.
func (s *Session) beat(now int64) {
	switch {
	case s.state == stateConnecting && now-s.began > int64(helloTimeout):
		s.Close(errors.New("no hello"))
	case s.state != stateUp || s.heartbeat == 0:
	case now-s.lastRead > 3*s.heartbeat:
		s.Close(errors.New("server silent for three heartbeats"))
	case now-s.lastSent > pingAfter(s.heartbeat):
		s.worker.Counts.Pings++
		s.SendFrame(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING})
	}
}

// beatMargin is how long before the heartbeat's end a ping leaves: sessions are looked at now and then (Worker.beat), and a machine may be busy.
const beatMargin = int64(10 * time.Second)

// pingAfter is after how much silence a session pings.
func pingAfter(heartbeat int64) int64 { return max(heartbeat*2/3, heartbeat-beatMargin) }
