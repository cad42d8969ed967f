package comet

import (
	"time"

	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
)

// displaced is an entry that a session took the place of when it registered. Its own session is told a little later, by what has become of
// the other until then: that one may be what its device gave up for this one, and came late over a slow network. To stay away is right
// only where the other lives.
type displaced struct {
	by   uint64 // the session
	old  presence.Entry
	tick uint32
}

const displacedAfter = time.Second

// displace notes that s took the place of old.
func (l *eventLoop) displace(s *session, old *presence.Entry) {
	l.displaced = append(l.displaced, displaced{s.id(), *old, l.wheel.now + ticksOf(displacedAfter)})
}

// tellDisplaced closes the sessions whose time has come; they are in order.
func (l *eventLoop) tellDisplaced() {
	n := 0
	for ; n < len(l.displaced) && int32(l.wheel.now-l.displaced[n].tick) >= 0; n++ {
		d := &l.displaced[n]
		code := protocol.CloseUnavailable
		if l.sessions.get(d.by) != nil {
			code = protocol.CloseReplaced
		}
		l.comet.kick(&d.old, code)
		*d = displaced{}
	}
	if l.displaced = l.displaced[n:]; len(l.displaced) == 0 {
		l.displaced = nil
	}
}
