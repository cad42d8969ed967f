package loop

import (
	"testing"

	"github.com/panjf2000/gnet/v2"
)

// stuck is a socket that takes nothing.
type stuck struct {
	gnet.Conn
	waiting int
}

// OutboundBuffered implements gnet.Conn.
func (s *stuck) OutboundBuffered() int { return s.waiting }

func TestAnswersOfTLSThatNobodyReadsAreBounded(t *testing.T) {
	socket := &stuck{waiting: 200 << 10} // of the handler, which bounds it itself
	s := &secured{gc: socket}
	answered := func(n int) bool {
		before := socket.waiting
		socket.waiting += n
		return s.unread(before)
	}
	for n := 0; n <= maxAnswers-64; n += 64 {
		if answered(64) {
			t.Fatalf("ended after %d bytes", n)
		}
	}
	if !answered(128) {
		t.Errorf("%d bytes of answers wait unread", s.answers)
	}
	socket.waiting = 0 // all was read
	if answered(0) || answered(64) {
		t.Error("ended though all was read")
	}
}
