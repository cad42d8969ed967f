package traffic

import (
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/oracle"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// part is what lives on one worker.
type part struct {
	// static
	traffic *Traffic
	worker  *generator.Worker
	senders []*member // In the order of the schedule.

	live atomic.Pointer[Live]

	// owned by the loop
	conversations []*conversation
	talking       bool
	phase         float64
	began         int64
	measured      int64     // Messages meant to be sent from here on count for latency.
	schedule      *schedule // Nil in a closed loop, and where there is nobody to send.
	who           *busier
	nextSweep     int64
	scratch       scratch
	ack, deliver  generator.Histogram
	back          generator.Histogram
	recent        generator.Histogram // Deliveries since somebody looked.
	count         Live
	refusals      map[string]int64
	held          int64
	corrupted     int64
	strays        int64
	foreign       int64
	repaired      int64
	hidden        int64
	redelivered   int64
	resent        int64
	unanswered    int64
}

// scratch are buffers and messages that each use overwrites.
type scratch struct {
	id, after, text, body, user []byte
	content                     messagev1.Message_Text
	message                     messagev1.Message
	record                      recordv1.Record
	reply                       recordv1.Ack
}

func newPart(t *Traffic, w *generator.Worker) *part {
	p := &part{
		traffic: t, worker: w, refusals: map[string]int64{},
		ack: generator.NewHistogram(), deliver: generator.NewHistogram(), back: generator.NewHistogram(),
		recent: generator.NewCoarseHistogram(),
	}
	p.live.Store(&Live{})
	p.scratch.content.Text = &messagev1.Text{}
	p.scratch.message.Content = &p.scratch.content
	w.EachTick(p.tick)
	return p
}

func (p *part) add(c *conversation) {
	p.conversations = append(p.conversations, c)
	p.traffic.members = append(p.traffic.members, c.members...)
}

// layOut orders the senders such that a schedule goes round the conversations before it comes back to one.
func (p *part) layOut() {
	for i := range p.traffic.cfg.Senders {
		for _, c := range p.conversations {
			p.senders = append(p.senders, c.members[i])
		}
	}
}

func (p *part) begin(start, measured int64) {
	p.talking, p.began, p.measured = true, start, measured
	if cfg := &p.traffic.cfg; cfg.Rate > 0 && len(p.senders) > 0 {
		p.schedule = newSchedule(cfg, float64(len(p.conversations))/float64(cfg.Conversations), p.phase)
		p.who = newBusier(p, cfg.Zipf)
	}
	for range p.traffic.cfg.Outstanding {
		for _, c := range p.conversations {
			c.members[0].post(p.worker.Now())
		}
	}
}

func (p *part) tick(now int64) {
	if p.talking && p.schedule != nil {
		p.send(now)
	}
	if now >= p.nextSweep {
		p.nextSweep = now + int64(time.Second)
		for _, m := range p.senders {
			m.sweep(now)
		}
	}
	p.publish()
}

// send sends all that is due. A message's intended time is the tick at or after its place on the time line; how much later the
// loop comes to it counts into its latency.
func (p *part) send(now int64) {
	for {
		at, n, ok := p.schedule.next(time.Duration(now - p.began))
		if !ok {
			return
		}
		for range n {
			p.who.next().due(p.began + int64(at))
		}
	}
}

func (p *part) publish() {
	l := p.count
	p.live.Store(&l)
}

func (p *part) cut() {
	for _, c := range p.conversations {
		for _, m := range c.members {
			m.session.Close(errCut)
		}
	}
}

func (p *part) reconcile() {
	p.count.Reconciled = 0
	for _, c := range p.conversations {
		for _, m := range c.members {
			m.final, m.reconciled = true, false
			m.compare()
		}
	}
}

// judge is the result of this worker, when the loop has ended.
func (p *part) judge() *Result {
	r := &Result{
		Live: *p.live.Load(), Held: p.held, Corrupted: p.corrupted, Strays: p.strays, Foreign: p.foreign, Repaired: p.repaired,
		Hidden: p.hidden, Redelivered: p.redelivered, Resent: p.resent, Unanswered: p.unanswered, Refusals: p.refusals,
		Ack: p.ack, Deliver: p.deliver, Complete: p.back,
	}
	for _, c := range p.conversations {
		if c.ledger == nil {
			continue
		}
		views := make([]*oracle.View, len(c.members))
		for i, m := range c.members {
			views[i] = &m.view
		}
		r.Verdict.Add(c.ledger.Judge(views))
	}
	return r
}
