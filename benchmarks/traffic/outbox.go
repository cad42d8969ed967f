package traffic

import (
	"time"
	"unsafe"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// maxInFlight bounds what one device has unanswered; an open loop's messages beyond it wait, and their wait counts.
const maxInFlight = 256

// outbox is what one device sent and did not see through yet.
type outbox struct {
	first   uint32 // Counter of flights[0].
	next    uint32 // Counter of the next message.
	flights []flight
	owed    []int64 // Intended times of messages that the bound holds back; the schedule's length bounds it.
	epoch   uint16  // Counts restarts: refusals of earlier transmissions say nothing new.
	attempt uint8
	waiting bool // A restart is due.
}

// flight is one message on its way.
type flight struct {
	intended int64
	sent     int64 // When last transmitted; 0 before.
	since    uint64
	missing  int32 // Devices that it has not reached.
	answered bool
	refused  bool
}

func (f *flight) done() bool { return f.answered && (f.missing == 0 || f.refused) }

// due is a message of the open loop's schedule.
func (m *member) due(intended int64) {
	if o := m.out; len(o.flights) >= maxInFlight {
		o.owed = append(o.owed, intended)
		return
	}
	m.post(intended)
}

// post makes the next message and transmits it where the device may.
func (m *member) post(intended int64) {
	o := m.out
	o.flights = append(o.flights, flight{intended: intended, missing: int32(len(m.conv.members) - 1)})
	counter := o.next
	o.next++
	c := &m.conv.part.count
	c.Sent++
	c.Unacked++
	c.InFlight++
	if m.maySend() {
		m.transmit(counter)
	}
}

func (m *member) maySend() bool { return m.session.IsUp() && m.started && !m.holding && !m.out.waiting }

// transmit sends a message, naming the one before it that has no answer yet.
func (m *member) transmit(counter uint32) {
	p, o := m.conv.part, m.out
	f := &o.flights[counter-o.first]
	if f.sent == 0 {
		f.since = m.known
	} else {
		p.resent++
	}
	f.sent = max(p.worker.Now(), 1)
	s := &p.scratch
	number := m.conv.first + m.index
	s.id = appendClientID(s.id[:0], p.traffic.run, number, counter)
	s.after = s.after[:0]
	for prev := counter; prev > o.first; prev-- {
		if !o.flights[prev-1-o.first].answered {
			s.after = appendClientID(s.after, p.traffic.run, number, prev-1)
			break
		}
	}
	s.text = p.traffic.payloads.Append(s.text[:0], number, counter)
	s.content.Text.Text = alias(s.text)
	n := s.message.SizeVT()
	if cap(s.body) < n {
		s.body = make([]byte, n)
	}
	s.body = s.body[:n]
	_, _ = s.message.MarshalToSizedBufferVT(s.body) // Its size is known, so this cannot fail.
	m.session.SendFrame(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: sendRequest(counter, o.epoch),
		Conversation: m.conv.id, Body: s.body, ClientId: alias(s.id), After: alias(s.after), Since: f.since,
	})
}

// restart transmits everything unanswered again, oldest first.
func (m *member) restart() {
	o := m.out
	if o == nil {
		return
	}
	o.waiting = false
	if !m.maySend() {
		return // Whatever holds it back ends in a restart.
	}
	o.epoch++
	for i := range o.flights {
		if !o.flights[i].answered {
			m.transmit(o.first + uint32(i))
		}
	}
}

// sweep starts again where the oldest message has waited too long for its answer.
func (m *member) sweep(now int64) {
	o := m.out
	if !m.maySend() {
		return
	}
	for i := range o.flights {
		if f := &o.flights[i]; !f.answered {
			if now-f.sent > int64(m.conv.part.traffic.cfg.AnswerTimeout) {
				m.conv.part.unanswered++
				m.restart()
			}
			return
		}
	}
}

// answered handles the answer to a transmission.
func (m *member) answered(f *envelopev1.Frame, counter uint32, epoch uint16) {
	if f.Error != nil {
		m.refused(f.Error, counter, epoch)
		return
	}
	c, p := m.conv, m.conv.part
	ack := &p.scratch.reply
	ack.Reset()
	if err := ack.UnmarshalVTUnsafe(f.Body); err != nil || counter == 0 || counter >= m.out.next {
		p.strays++
		return
	}
	if c.ledger.Acked(oracle.MakeID(m.index, counter), ack.Seq) {
		m.own(ack.Seq)
	}
	m.out.attempt = 0
	if flight := m.out.at(counter); flight != nil && !flight.answered {
		flight.answered = true
		p.count.Acked++
		p.count.Unacked--
		if flight.intended >= p.measured {
			generator.Record(p.ack, p.worker.Now()-flight.intended)
		}
		m.settleFlight(flight)
	}
}

// refused starts again, later, where the server says that it may help, and else gives the message up.
func (m *member) refused(e *envelopev1.Error, counter uint32, epoch uint16) {
	p, o := m.conv.part, m.out
	code := protocol.Code([]byte(e.Code)) // e lies in the read buffer.
	p.refusals[string(code)]++
	if !e.Retryable {
		if flight := o.at(counter); flight != nil && !flight.answered {
			flight.answered, flight.refused = true, true
			p.count.Refused++
			p.count.Unacked--
			m.settleFlight(flight)
		}
		return
	}
	if epoch != o.epoch || o.waiting {
		return
	}
	o.waiting = true
	wait := time.Duration(e.RetryAfterMs) * time.Millisecond
	if code != protocol.CodeResend || o.attempt > 0 {
		longest := 5 * time.Second
		if code == protocol.CodeRetry { // The owner changes, and is back soon.
			longest = time.Second
		}
		ceiling := min(50*time.Millisecond<<min(o.attempt, 7), longest)
		wait += time.Duration(p.worker.Rand().Int64N(int64(ceiling)))
	}
	o.attempt = min(o.attempt+1, 100)
	p.worker.After(wait, func() {
		if o.waiting {
			m.restart()
		}
	})
}

// reached notes that one more device has the message.
func (m *member) reached(counter uint32) {
	p := m.conv.part
	p.count.Delivered++
	flight := m.out.at(counter)
	if flight == nil || flight.missing == 0 {
		return
	}
	flight.missing--
	if flight.intended >= p.measured {
		took := p.worker.Now() - flight.intended
		generator.Record(p.deliver, took)
		generator.Record(p.recent, took)
	}
	m.settleFlight(flight)
}

// settleFlight drops what is done from the front; flight must not be used afterwards.
func (m *member) settleFlight(flight *flight) {
	if !flight.done() {
		return
	}
	refused, o := flight.refused, m.out
	n := 0
	for n < len(o.flights) && o.flights[n].done() {
		n++
	}
	if n > 0 {
		o.flights = o.flights[:copy(o.flights, o.flights[n:])]
		o.first += uint32(n)
	}
	m.conv.finished(m, refused)
	for len(o.owed) > 0 && len(o.flights) < maxInFlight && m.conv.part.talking {
		intended := o.owed[0]
		o.owed = o.owed[1:]
		m.post(intended)
	}
}

func (o *outbox) at(counter uint32) *flight {
	if o == nil || counter < o.first || counter >= o.next {
		return nil
	}
	return &o.flights[counter-o.first]
}

// alias is b as a string without a copy, for a frame that is encoded before b changes.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
