package traffic

import (
	"strconv"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/oracle"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

const (
	// gapPatience is how long a device waits for what it lacks before it asks: its own ack may be on the way.
	gapPatience = 250 * time.Millisecond
	retryPull   = 300 * time.Millisecond
	historyPage = 200
	deviceName  = "bench"
)

// member is one member's device in its one conversation.
type member struct {
	// static
	session generator.Session
	conv    *conversation
	index   uint32  // Among the members.
	out     *outbox // Nil where it does not send.

	// owned by the loop
	view       oracle.View
	headed     bool   // It learnt the head before the run.
	started    bool   // The view began.
	known      uint64 // The highest seq that the device heard of.
	asked      uint32 // Counts heads and history requests; answers to earlier ones are stale.
	asking     bool   // It compares heads or fills a gap.
	holding    bool   // Since the last hello it did not catch up yet, so it sends nothing.
	gapTimer   bool
	lostAt     int64 // When the connection went that it has not made up for; 0: it has everything, as far as it knows.
	final      bool  // The run's last comparison.
	reconciled bool
}

var _ generator.Device = (*member)(nil)

func (m *member) user() string { return string(m.appendUser(nil)) }

func (m *member) appendUser(b []byte) []byte {
	b = append(b, m.conv.part.traffic.cfg.Prefix...)
	return strconv.AppendUint(b, uint64(m.conv.first+m.index), 10)
}

// Token implements generator.Device.
func (m *member) Token() (string, error) { return m.conv.part.traffic.cfg.Token(m.user(), deviceName) }

// Up implements generator.Device.
func (m *member) Up(_ *envelopev1.Hello, first bool) {
	m.asking, m.holding = false, true
	m.conv.arrive(m, first)
}

// Down implements generator.Device.
func (m *member) Down(bool) {
	m.asking = false
	if p := m.conv.part; m.started && m.lostAt == 0 {
		m.lostAt = p.worker.Now()
		p.count.Away++
	}
}

// ready says that the conversation can be talked in.
func (m *member) ready() {
	m.started, m.asking, m.holding = true, false, false
	m.known = m.view.Low()
}

// Frame implements generator.Device.
func (m *member) Frame(f *envelopev1.Frame) {
	ask, n, epoch := splitRequest(f.RequestId)
	switch {
	case f.Command == envelopev1.Command_COMMAND_RECORD:
		m.push(f)
	case f.Command == envelopev1.Command_COMMAND_HEAD:
		m.headPushed(f)
	case f.Command == envelopev1.Command_COMMAND_RESYNC:
		m.resync(f)
	case ask == askSend && m.out != nil && m.started:
		m.answered(f, n, epoch)
	case ask == askSetup:
		m.conv.made(f, int(n))
	case ask == askHeads && n == m.asked:
		m.heads(f)
	case ask == askHistory && n == m.asked:
		m.history(f)
	}
}

func (m *member) push(f *envelopev1.Frame) {
	p := m.conv.part
	if f.Conversation != m.conv.id {
		if len(f.Conversation) < 2 || f.Conversation[:2] != "u:" { // The user's own log moves when groups are joined.
			p.strays++
		}
		return
	}
	r := &p.scratch.record
	r.Reset()
	if err := r.UnmarshalVTUnsafe(f.Body); err != nil {
		p.strays++
		return
	}
	m.record(r, true)
	if m.started && !m.view.Whole() && !m.gapTimer {
		m.gapTimer = true
		p.worker.After(gapPatience, m.gap)
	}
}

// record takes in one record, pushed or pulled.
func (m *member) record(r *recordv1.Record, pushed bool) {
	c, p := m.conv, m.conv.part
	if !m.started || r.Seq <= c.ledger.Base() {
		return
	}
	id := identify(r.ClientId, p.traffic.run, c.first, len(c.members))
	if !c.ledger.Record(r.Seq, id) {
		return
	}
	m.known = max(m.known, r.Seq)
	fresh := false
	if pushed {
		fresh = m.view.Push(r.Seq, m.asking)
	} else {
		fresh = m.view.Add(r.Seq)
	}
	switch {
	case !fresh && pushed:
		p.redelivered++
		return
	case !fresh:
		return
	case id == oracle.Foreign:
		p.foreign++
		return
	case !pushed && id.Member() != m.index:
		p.repaired++
		if m.final {
			p.hidden++
		}
	}
	sender := c.members[id.Member()]
	p.scratch.user = sender.appendUser(p.scratch.user[:0])
	if !p.traffic.payloads.Check(r.GetMessage().GetText().GetText(), c.first+id.Member(), id.Counter()) ||
		r.Sender != string(p.scratch.user) {
		p.corrupted++
	}
	if sender != m && sender.out != nil {
		sender.reached(id.Counter())
	}
}

// own notes a record that the device wrote itself.
func (m *member) own(seq uint64) {
	m.known = max(m.known, seq)
	m.view.Add(seq)
}

// gap asks for what did not come in the meantime.
func (m *member) gap() {
	m.gapTimer = false
	if !m.view.Whole() {
		m.pull()
	}
}

func (m *member) headPushed(f *envelopev1.Frame) {
	var h conversationv1.Head
	if f.Conversation != m.conv.id || !m.started || h.UnmarshalVT(f.Body) != nil {
		return
	}
	m.conv.ledger.Saw(h.Seq)
	m.known = max(m.known, h.Seq)
	if h.Seq > m.view.Low() {
		m.pull()
	}
}

func (m *member) resync(f *envelopev1.Frame) {
	var r envelopev1.Resync
	if r.UnmarshalVT(f.Body) == nil {
		m.conv.part.worker.After(time.Duration(r.DelayMs)*time.Millisecond, m.compare)
	}
}

// compare asks for the head; what follows from the answer ends in settled or in a restart.
func (m *member) compare() {
	if !m.session.IsUp() || m.conv.stage < stageHeading {
		return
	}
	body, err := (&conversationv1.HeadsRequest{Conversations: []string{m.conv.id}}).MarshalVT()
	if err != nil {
		return
	}
	m.asking = true
	m.asked++
	m.session.SendFrame(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HEADS, RequestId: request(askHeads, m.asked), Body: body,
	})
	m.expect(m.compare)
}

// expect asks again where no answer comes.
func (m *member) expect(again func()) {
	asked, p := m.asked, m.conv.part
	p.worker.After(p.traffic.cfg.AnswerTimeout, func() {
		if m.asking && m.asked == asked && m.session.IsUp() {
			p.unanswered++
			again()
		}
	})
}

// later asks again after a refusal.
func (m *member) later(e *envelopev1.Error, again func()) {
	p, asked := m.conv.part, m.asked
	if e != nil {
		p.refusals["read_"+string([]byte(e.Code))]++
	}
	wait := time.Duration(e.GetRetryAfterMs())*time.Millisecond + retryPull/2 +
		time.Duration(p.worker.Rand().Int64N(int64(retryPull)))
	p.worker.After(wait, func() {
		if m.asked == asked {
			again()
		}
	})
}

func (m *member) heads(f *envelopev1.Frame) {
	var reply conversationv1.HeadsReply
	if f.Error != nil || reply.UnmarshalVTUnsafe(f.Body) != nil {
		m.later(f.Error, m.compare)
		return
	}
	var head uint64
	for _, h := range reply.Heads {
		if h.Conversation == m.conv.id {
			head = h.Seq
		}
	}
	switch {
	case !m.started && head < m.conv.base && m.conv.part.traffic.cfg.Group:
		m.later(nil, m.compare) // The join was acknowledged, so it must show.
	case !m.started:
		m.asking = false
		if !m.headed {
			m.headed = true
			m.conv.settle(head)
		}
	default:
		m.conv.ledger.Saw(head)
		m.known = max(m.known, head)
		if head > m.view.Low() {
			m.asking = false
			m.pull()
			return
		}
		m.repaired()
	}
}

// pull asks for the records after the last one before the gap.
func (m *member) pull() {
	if m.asking || !m.session.IsUp() {
		return
	}
	body, err := (&conversationv1.HistoryRequest{AfterSeq: m.view.Low(), Limit: historyPage}).MarshalVT()
	if err != nil {
		return
	}
	m.asking = true
	m.asked++
	m.session.SendFrame(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, RequestId: request(askHistory, m.asked),
		Conversation: m.conv.id, Body: body,
	})
	m.expect(m.pullAgain)
}

func (m *member) pullAgain() {
	m.asking = false
	m.pull()
}

func (m *member) history(f *envelopev1.Frame) {
	var reply conversationv1.HistoryReply
	if f.Error != nil || reply.UnmarshalVTUnsafe(f.Body) != nil {
		m.later(f.Error, m.pullAgain)
		return
	}
	before := m.view.Low()
	for _, r := range reply.Records {
		m.record(r, false)
	}
	m.conv.ledger.Saw(reply.HeadSeq)
	if m.view.Low() < reply.HeadSeq && m.view.Low() > before {
		m.pullAgain()
		return
	}
	m.repaired()
}

// repaired ends a comparison: what was held back meanwhile goes out.
func (m *member) repaired() {
	m.asking = false
	if p := m.conv.part; m.lostAt != 0 && m.view.Low() >= m.known {
		generator.Record(p.back, p.worker.Now()-m.lostAt)
		m.lostAt = 0
		p.count.Away--
		p.count.Back++
	}
	if m.holding {
		m.holding = false
		m.restart()
	}
	if !m.final || m.reconciled {
		return
	}
	if m.view.Low() >= m.conv.ledger.Head() {
		m.reconciled = true
		m.conv.part.count.Reconciled++
		return
	}
	m.later(nil, m.compare)
}
