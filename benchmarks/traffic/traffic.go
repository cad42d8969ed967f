// Package traffic makes members of conversations talk as devices do, by the protocol's rules of retry and repair, and tells
// the oracle what they see. It never decides what is right: that is the oracle's part.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/oracle"
)

// Config says who talks to whom and how much.
type Config struct {
	App string
	// Users are named <Prefix><number>.
	Prefix string
	// Group makes groups; else the two members of each conversation use their 1:1.
	Group         bool
	Conversations int
	// First is the number of the first conversation: those before it belong to other parts of the run.
	First   int
	Members int
	// Senders is how many members of each group send; in a 1:1 both do.
	Senders int
	// Outstanding > 0 is a closed loop: so many messages in flight in each conversation, the next sent by who received.
	Outstanding int
	// Rate > 0 is an open loop: messages per second over all conversations, whatever the server does.
	Rate float64
	// Phases, if there are any, are how the rate changes from Begin on, and Rate is its mean while it is measured.
	Phases []Phase
	// Zipf above 1 is how much busier some conversations of an open loop are than others.
	Zipf float64
	// Part is which part of a run this is, of how many: the schedules of all begin apart, so that not all send at one moment.
	Part, Parts int
	Size        int
	Tick        time.Duration
	// AnswerTimeout is after how long without any answer a request is sent again.
	AnswerTimeout time.Duration
	Seed          uint64
	// Token makes the token of a user's device.
	Token func(user, device string) (string, error)
}

// Traffic is all conversations of a run.
type Traffic struct {
	cfg      Config
	fleet    *generator.Fleet
	run      string
	payloads *oracle.Payloads
	parts    []*part
	members  []*member
}

// New lays the conversations out over the fleet's workers; each lives on one. It starts nothing.
func New(cfg Config, fleet *generator.Fleet) (*Traffic, error) {
	if !cfg.Group && (cfg.Members != 2 || cfg.Senders != 2) {
		return nil, fmt.Errorf("traffic: a 1:1 conversation has 2 members and 2 senders, not %d and %d", cfg.Members, cfg.Senders)
	}
	if cfg.Members < 2 || cfg.Senders < 1 || cfg.Senders > cfg.Members {
		return nil, fmt.Errorf("traffic: %d members with %d senders", cfg.Members, cfg.Senders)
	}
	if (cfg.Outstanding > 0) == (cfg.Rate > 0) {
		return nil, fmt.Errorf("traffic: one of outstanding and rate must be set")
	}
	// The run's mark must differ between runs that share conversations, whatever their seed.
	mark := rand.Uint32()
	t := &Traffic{
		cfg: cfg, fleet: fleet, run: fmt.Sprintf("%08x", mark),
		payloads: oracle.NewPayloads(mark, cfg.Seed, cfg.Size),
	}
	workers := fleet.Workers()
	for i, w := range workers {
		p := newPart(t, w)
		p.phase = (float64(cfg.Part) + float64(i)/float64(len(workers))) / float64(max(1, cfg.Parts))
		t.parts = append(t.parts, p)
	}
	t.members = make([]*member, 0, cfg.Conversations*cfg.Members)
	for i := range cfg.Conversations {
		p := t.parts[i%len(t.parts)]
		p.add(newConversation(p, cfg.First+i))
	}
	for _, p := range t.parts {
		p.layOut()
	}
	return t, nil
}

// Sessions is how many connections the conversations need.
func (t *Traffic) Sessions() int { return len(t.members) }

// Up is the fleet's.
func (t *Traffic) Up() (up, ended int64, last error) { return t.fleet.Up() }

// Connect queues the first connect of session i.
func (t *Traffic) Connect(i int) { t.fleet.Connect(&t.members[i].session.Line) }

// Begin starts the loop on every worker; latencies count for messages meant to be sent after warmup.
func (t *Traffic) Begin(warmup time.Duration) {
	start := t.fleet.Now()
	for _, p := range t.parts {
		p.worker.Post(func() { p.begin(start, start+int64(warmup)) })
	}
}

// Halt ends the sending of new messages; what is in flight goes on.
func (t *Traffic) Halt() {
	for _, p := range t.parts {
		p.worker.Post(func() { p.talking = false })
	}
}

// Reconcile has every device compare its conversation's head and pull what it lacks.
func (t *Traffic) Reconcile() {
	for _, p := range t.parts {
		p.worker.Post(p.reconcile)
	}
}

var errCut = errors.New("cut")

// Cut ends every connection at once, as a network does that fails. The devices come back by themselves.
func (t *Traffic) Cut() {
	for _, p := range t.parts {
		p.worker.Post(p.cut)
	}
}

// Live is what the workers published last, at most a tick ago.
type Live struct {
	Settled, Reconciled int64
	// Away are devices that lost their connection and have not got everything since; Back is how often one has.
	Away, Back                                         int64
	Sent, Acked, Delivered, InFlight, Unacked, Refused int64
}

// Recent takes the delivery latencies since the last call.
func (t *Traffic) Recent(ctx context.Context) generator.Histogram {
	sum := generator.NewCoarseHistogram()
	for _, p := range t.parts {
		taken := make(chan generator.Histogram, 1)
		if p.worker.Ask(ctx, func() { taken <- p.recent; p.recent = generator.NewCoarseHistogram() }) {
			sum.Add(<-taken)
		}
	}
	return sum
}

// Live sums over the workers; it may be called at any time.
func (t *Traffic) Live() (l Live) {
	for _, p := range t.parts {
		l.Add(*p.live.Load())
	}
	return l
}

// Add sums.
func (l *Live) Add(o Live) {
	l.Settled += o.Settled
	l.Reconciled += o.Reconciled
	l.Away += o.Away
	l.Back += o.Back
	l.Sent += o.Sent
	l.Acked += o.Acked
	l.Delivered += o.Delivered
	l.InFlight += o.InFlight
	l.Unacked += o.Unacked
	l.Refused += o.Refused
}

// WaitSettled waits until every conversation exists and each member knows its head.
func (t *Traffic) WaitSettled(ctx context.Context) error {
	return t.poll(ctx, "every conversation to be ready", func(l Live) bool { return l.Settled == int64(t.cfg.Conversations) })
}

// WaitQuiet waits until nothing is in flight.
func (t *Traffic) WaitQuiet(ctx context.Context) error {
	return t.poll(ctx, "what is in flight", func(l Live) bool { return l.InFlight == 0 })
}

// WaitBack waits until devices have come back so often, and none is away.
func (t *Traffic) WaitBack(ctx context.Context, times int64) error {
	return t.poll(ctx, "every device to come back and have everything", func(l Live) bool { return l.Back >= times && l.Away == 0 })
}

// WaitReconciled waits until every device has everything up to the head.
func (t *Traffic) WaitReconciled(ctx context.Context) error {
	return t.poll(ctx, "every device to have everything", func(l Live) bool { return l.Reconciled == int64(len(t.members)) })
}

// Settle waits for what is in flight and has every device compare its head with the server's, each for at most wait. What did
// not end in time is among the errors, and for the verdict to say.
func (t *Traffic) Settle(ctx context.Context, wait time.Duration) (errs []error) {
	bounded := func(f func(context.Context) error) {
		limited, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("not within %v", wait))
		defer cancel()
		if err := f(limited); err != nil {
			errs = append(errs, err)
		}
	}
	bounded(t.WaitQuiet)
	t.Reconcile()
	bounded(t.WaitReconciled)
	bounded(func(ctx context.Context) error { t.CountHeld(ctx); return nil })
	return errs
}

func (t *Traffic) poll(ctx context.Context, what string, done func(Live) bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := t.fleet.Err(); err != nil {
			return err
		}
		if done(t.Live()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (%+v)", what, context.Cause(ctx), t.Live())
		case <-tick.C:
		}
	}
}

// Result is what a run came to.
type Result struct {
	Live
	oracle.Verdict
	Held        int64 // Sessions that were up from their first hello to the end.
	Corrupted   int64 // Records whose text is not what was sent.
	Strays      int64 // Records of conversations that are not the device's.
	Foreign     int64 // Records that no message of this run explains.
	Repaired    int64 // Deliveries that a device had to pull: a push did not come.
	Hidden      int64 // Of these, found only by the final comparison: nothing had told the device.
	Redelivered int64 // Pushes of what the device had.
	Resent      int64 // Transmissions of a message after its first.
	Unanswered  int64 // Requests without any answer on a session that was up all the time.
	Refusals    map[string]int64
	Ack         generator.Histogram
	Deliver     generator.Histogram
	Complete    generator.Histogram // From the loss of a connection until the device has everything again.
}

// NewResult is the result of nothing.
func NewResult() *Result {
	return &Result{
		Refusals: map[string]int64{},
		Ack:      generator.NewHistogram(), Deliver: generator.NewHistogram(), Complete: generator.NewHistogram(),
	}
}

// Merge adds the result of another part of the run.
func (r *Result) Merge(o *Result) {
	r.Live.Add(o.Live)
	r.Verdict.Add(o.Verdict)
	r.Held += o.Held
	r.Corrupted += o.Corrupted
	r.Strays += o.Strays
	r.Foreign += o.Foreign
	r.Repaired += o.Repaired
	r.Hidden += o.Hidden
	r.Redelivered += o.Redelivered
	r.Resent += o.Resent
	r.Unanswered += o.Unanswered
	for code, n := range o.Refusals {
		r.Refusals[code] += n
	}
	r.Ack.Add(o.Ack)
	r.Deliver.Add(o.Deliver)
	r.Complete.Add(o.Complete)
}

// Judge gives the result. To be called when the fleet has stopped; held is of before.
func (t *Traffic) Judge() *Result {
	parts := make([]*Result, len(t.parts))
	var wait sync.WaitGroup
	for i, p := range t.parts {
		wait.Go(func() { parts[i] = p.judge() })
	}
	wait.Wait()
	r := NewResult()
	for _, p := range parts {
		r.Merge(p)
	}
	return r
}

// CountHeld notes which sessions are still held; to be called at the end, before the fleet stops.
func (t *Traffic) CountHeld(ctx context.Context) {
	for _, p := range t.parts {
		p.worker.Ask(ctx, func() {
			p.held = 0
			for _, c := range p.conversations {
				for _, m := range c.members {
					if m.session.Held() {
						p.held++
					}
				}
			}
			p.publish()
		})
	}
}
