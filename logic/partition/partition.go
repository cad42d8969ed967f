package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/pkg/bus"
)

// settings are the configuration and what is fixed for the cluster.
type settings struct {
	Config
	partitions int
}

// Partition serves one partition whenever it holds the lease.
type Partition struct {
	Deps
	cfg     settings
	number  int
	metrics *Metrics
	// Log.Append, but for tests that lose its answers.
	appendLog func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error)
}

// New makes the partition with this number of a cluster of partitions. Nothing is started.
func New(number, partitions int, cfg Config, deps Deps) *Partition {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	deps.Logger = deps.Logger.With("partition", number)
	return &Partition{
		Deps: deps, cfg: settings{cfg, partitions}, number: number, metrics: deps.Metrics,
		appendLog: func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
			return deps.Log.Append(ctx, block, user, last)
		},
	}
}

// ErrHeld is Run's answer where another node owns the partition.
var ErrHeld = bus.ErrHeld

// ErrInDoubt is Run's answer where the lease's bucket does not answer. Leases may have run out there with their owners alive, so
// the caller gives these one time to live to take theirs again, and asks only then.
var ErrInDoubt = errors.New("the leases cannot be read")

// Candidate is the state of a partition as read from the log, by one who does not own it yet. It is used by one goroutine and
// by one Run.
type Candidate struct{ o *owner }

// Candidate makes one that has read nothing.
func (p *Partition) Candidate() *Candidate {
	return &Candidate{&owner{
		Partition: p, queue: newQueue(p.cfg.QueueRequests, p.cfg.QueueBytes), cells: make(map[key]*cell), dirty: make(map[*cell]struct{}),
		absent: newAbsent(p.cfg.Absent), stage: newStage(p), reply: p.newReplier(),
		reads: reads{turns: newReadTurns()},
	}}
}

// CatchUp reads to the tail of the log, so that a takeover finds little left to read.
func (c *Candidate) CatchUp(ctx context.Context) error {
	if !c.o.begun {
		return c.o.begin(ctx)
	}
	// One that waits long must not keep all that was written meanwhile.
	floor, err := c.o.Floor(ctx)
	if err != nil {
		return fmt.Errorf("history's floor: %w", err)
	}
	c.o.noteFloor(floor)
	return c.o.catchUp(ctx)
}

// Run takes the partition over and serves it until ctx ends (nil), another owner deposes this one, or the log fails. It returns
// ErrHeld at once where another has the lease; otherwise with everything it started ended and the lease released, and
// the candidate is spent. status is told when serving begins and ends.
func (p *Partition) Run(ctx context.Context, c *Candidate, status func(serving bool)) error {
	r, err := acquire(ctx, p.Leases, p.number, p.Node, p.Logger)
	if err != nil && !errors.Is(err, ErrHeld) {
		err = fmt.Errorf("%w: %w", ErrInDoubt, err)
	}
	if err != nil {
		return fmt.Errorf("lease of partition %d: %w", p.number, err)
	}
	keepCtx, stopKeeping := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		r.keep(keepCtx)
	}()
	defer func() {
		stopKeeping()
		<-kept
		r.release()
	}()
	c.o.reign = r
	return c.o.rule(ctx, status)
}

// rule is a reign from the takeover to the end.
func (o *owner) rule(ctx context.Context, status func(bool)) error {
	asyncCtx, stopAsync := context.WithCancel(context.Background())
	o.async.ctx = asyncCtx
	if err := o.takeOver(ctx); err != nil {
		stopAsync()
		return fmt.Errorf("take over partition %d: %w", o.number, err)
	}
	staged := make(chan struct{})
	go func() {
		defer close(staged)
		o.stage.run()
	}()
	err := o.serve(ctx, status)
	// The order matters: nothing is taken any more, what waits is answered, and only then is the key given up (Run).
	o.reign.stopReads()
	o.stop()
	if err == nil {
		o.flushLastCursors()
	}
	stopAsync()
	o.async.wg.Wait()
	o.count(reported{})
	close(o.stage.parcels)
	<-staged
	if errors.Is(err, errDeposed) {
		o.metrics.deposed.Inc()
	}
	return err
}

func (o *owner) serve(ctx context.Context, status func(bool)) error {
	detach, err := o.Attach(o.epoch, o.queue)
	if err != nil {
		return fmt.Errorf("open partition %d to requests: %w", o.number, err)
	}
	defer detach()
	o.metrics.owned.Inc()
	status(true)
	defer func() {
		o.metrics.owned.Dec()
		status(false)
	}()
	o.deliverAgain()
	return o.run(ctx)
}

func (p *Partition) newReplier() *replier { return &replier{sender: p.Sender, partition: p.number} }
