package traffic

import (
	"fmt"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

type stage uint8

const (
	stageGathering stage = iota // Not all members were up yet.
	stageMaking                 // The group is being created and filled.
	stageHeading                // Members learn the head.
	stageSettled
)

// Members of one create and one add, from the protocol's bounds.
const (
	membersInCreate = 999
	membersInAdd    = 1000
)

// conversation is one 1:1 or group with all its members' devices.
type conversation struct {
	// static
	part    *part
	id      string
	first   uint32 // Number of members[0] in the run.
	members []*member

	// owned by the loop
	ledger  *oracle.Ledger // From stageSettled on.
	stage   stage
	arrived int
	headed  int
	step    int    // Of making a group: 0 creates, then each adds.
	base    uint64 // The highest head that was heard of before the run.
	turn    int    // Who sends next in a closed loop of a group.
}

func newConversation(p *part, number int) *conversation {
	cfg := &p.traffic.cfg
	c := &conversation{part: p, first: uint32(number * cfg.Members)}
	slab := make([]member, cfg.Members)
	for i := range slab {
		m := &slab[i]
		m.conv, m.index = c, uint32(i)
		if i < cfg.Senders {
			m.out = &outbox{next: 1, first: 1}
		}
		m.session.Init(p.worker, int(c.first)+i, m)
		c.members = append(c.members, m)
	}
	if cfg.Group {
		c.id = protocol.Group(cfg.App, c.members[0].user(), c.setupID(0))
	} else {
		c.id = protocol.Direct(c.members[0].user(), c.members[1].user())
	}
	return c
}

// arrive goes on where the member's absence, or that of all, had left the conversation.
func (c *conversation) arrive(m *member, first bool) {
	if first {
		c.arrived++
	}
	switch c.stage {
	case stageGathering:
		if c.arrived == len(c.members) {
			c.begin()
		}
	case stageMaking:
		if m.index == 0 {
			c.make()
		}
	case stageHeading, stageSettled:
		m.compare()
	}
}

func (c *conversation) begin() {
	if c.part.traffic.cfg.Group {
		c.stage = stageMaking
		c.make()
		return
	}
	c.head()
}

func (c *conversation) head() {
	c.stage = stageHeading
	for _, m := range c.members {
		m.compare()
	}
}

func (c *conversation) setupID(step int) string {
	return fmt.Sprintf("%s.g%d.%d", c.part.traffic.run, c.first, step)
}

// make sends the present step. A step sent twice is the same write, for its client id is.
func (c *conversation) make() {
	f := &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, Conversation: c.id,
		RequestId: request(askSetup, uint32(c.step)), ClientId: c.setupID(c.step), Since: c.base,
	}
	var err error
	from, to := c.span(c.step)
	names := make([]string, 0, to-from)
	for _, m := range c.members[from:to] {
		names = append(names, m.user())
	}
	if c.step == 0 {
		f.Body, err = (&conversationv1.CreateRequest{Name: c.id[:12], Members: names}).MarshalVT()
	} else {
		f.Command = envelopev1.Command_COMMAND_CONVERSATION_ADD
		f.Body, err = (&conversationv1.AddRequest{Members: names}).MarshalVT()
	}
	if err == nil {
		c.members[0].session.SendFrame(f)
	}
}

// span is which members a step brings in; the creator is one by itself.
func (c *conversation) span(step int) (from, to int) {
	from, to = 1, 1+membersInCreate
	if step > 0 {
		from = to + (step-1)*membersInAdd
		to = from + membersInAdd
	}
	n := len(c.members)
	return min(from, n), min(to, n)
}

func (c *conversation) made(f *envelopev1.Frame, step int) {
	if c.stage != stageMaking || step != c.step {
		return
	}
	ack := &c.part.scratch.reply
	ack.Reset()
	if f.Error != nil || ack.UnmarshalVTUnsafe(f.Body) != nil {
		if f.Error != nil {
			c.part.refusals["setup_"+string([]byte(f.Error.Code))]++
		}
		c.part.worker.After(200*time.Millisecond+time.Duration(f.GetError().GetRetryAfterMs())*time.Millisecond, func() {
			if c.stage == stageMaking && step == c.step {
				c.make()
			}
		})
		return
	}
	c.base = max(c.base, ack.Seq)
	c.step++
	if from, to := c.span(c.step); from < to {
		c.make()
		return
	}
	c.head()
}

// settle notes that one more member knows the head; with the last of them the conversation is ready.
func (c *conversation) settle(head uint64) {
	c.base = max(c.base, head)
	if c.headed++; c.headed < len(c.members) {
		return
	}
	c.stage = stageSettled
	c.ledger = oracle.NewLedger(len(c.members), c.base)
	for _, m := range c.members {
		m.view.Start(c.base)
		m.ready()
	}
	c.part.count.Settled++
}

// finished is called when a message is acknowledged and everywhere: in a closed loop the next one follows.
func (c *conversation) finished(sender *member, refused bool) {
	p := c.part
	p.count.InFlight--
	if !p.talking || p.traffic.cfg.Outstanding == 0 {
		return
	}
	next := c.members[1-min(sender.index, 1)]
	if p.traffic.cfg.Group {
		c.turn = (c.turn + 1) % p.traffic.cfg.Senders
		next = c.members[c.turn]
	}
	if !refused {
		next.post(p.worker.Now())
		return
	}
	// A server that refuses everything must not be asked as fast as it can refuse.
	p.worker.After(100*time.Millisecond, func() {
		if p.talking {
			next.post(p.worker.Now())
		}
	})
}
