// Package logic is the tier that decides: it owns partitions, one writer each, spread over the live logic nodes. It never holds
// a device's connection.
package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/feature/all"
	"github.com/halley-im/halley/logic/feature/signal"
	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/store"
)

// Names of the lease buckets.
const (
	leaseBucket  = "halley_partitions"
	memberBucket = "halley_logic"
)

// Config configures a logic node.
type Config struct {
	Partition      partition.Config `koanf:"partition" doc:"The write path of each partition."`
	Reads          int              `koanf:"reads" doc:"Reads under way at once in this process; beyond them they wait, as many as logic.partition.queue_requests for each partition, and for five seconds: then busy."`
	DrainTimeoutMs int              `koanf:"drain_timeout_ms" doc:"How long a node that stops waits for others to take its partitions over, milliseconds."`
	Replicas       int              `koanf:"replicas" doc:"Replicas of the lease buckets in NATS: 3 in a cluster, 1 on one server."`
}

// Default is the shipped configuration.
func Default() Config {
	return Config{Partition: partition.Default(), Reads: 256, DrainTimeoutMs: 10_000, Replicas: 1}
}

// Validate refuses values that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Reads < 1 || c.Reads > 1<<16:
		return errors.New("logic.reads: must lie between 1 and 65536")
	case c.DrainTimeoutMs < 0:
		return errors.New("logic.drain_timeout_ms: must not be negative")
	case c.Replicas < 1 || c.Replicas > 5:
		return errors.New("logic.replicas: must lie between 1 and 5")
	}
	return c.Partition.Validate()
}

// Deps is what a logic node works with.
type Deps struct {
	// Node is this process's name, unique in the cluster and at each start.
	Node string
	// Log is the connection of the partitions' logs and leases; Bus carries the requests of job's followers.
	Log, Bus *bus.Conn
	Store    store.Store
	Presence presence.Registry
	Sender   link.Sender
	Caller   *Caller
	// Attach opens a partition to the requests of nodes.
	Attach  func(partition int, epoch uint64, in link.Inbox) (detach func(), err error)
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Logic is one logic node.
type Logic struct {
	cfg     Config
	deps    Deps
	reads   *crew
	loads   *crew
	work    sync.WaitGroup
	metrics *partition.Metrics
	watches *signal.Watches
	owned   ownership
	// drained: an operator took the node out of work. wishes wakes who acts on it.
	drained atomic.Bool
	wishes  chan struct{} // cap 1
}

// New makes a logic node. Nothing is started.
func New(cfg Config, deps Deps) (*Logic, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Logic{
		cfg: cfg, deps: deps, reads: newCrew(cfg.Reads), loads: newCrew(cfg.Reads),
		metrics: partition.NewMetrics(deps.Metrics), wishes: make(chan struct{}, 1),
		watches: signal.NewWatches(deps.Presence, deps.Sender, deps.Logger, deps.Metrics),
	}, nil
}

// Run takes part in the cluster until ctx ends; then others take its partitions over, one by one, and it returns.
func (l *Logic) Run(ctx context.Context) error {
	m, err := l.prepare(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // who is stopped before it has joined has nothing to hand over.
		}
		return err
	}
	l.owned.join()
	// To the end of the last partition: what is watched in it goes on until another owner is asked.
	watchCtx, stopWatches := context.WithCancel(context.Background())
	l.work.Go(func() { l.watches.Run(watchCtx) })
	m.run(ctx)
	stopWatches()
	l.work.Wait()
	l.reads.dismiss()
	l.loads.dismiss()
	return nil
}

// prepare learns of the cluster what a node needs to take part.
func (l *Logic) prepare(ctx context.Context) (*manager, error) {
	partitions, err := bus.Partitions(ctx, l.deps.Log)
	if err != nil {
		return nil, fmt.Errorf("the cluster's partitions: %w", err)
	}
	ttl := time.Duration(l.cfg.Partition.LeaseTTLMs) * time.Millisecond
	leases, err := bus.OpenLeases(ctx, l.deps.Log, leaseBucket, ttl, l.cfg.Replicas)
	if err != nil {
		return nil, fmt.Errorf("partition leases: %w", err)
	}
	nodes, err := bus.OpenLeases(ctx, l.deps.Log, memberBucket, ttl, l.cfg.Replicas)
	if err != nil {
		return nil, fmt.Errorf("leases of logic nodes: %w", err)
	}
	features := all.Features(l.watches)
	handlers, err := all.Handlers(features)
	if err != nil {
		return nil, err
	}
	m := &manager{
		Logic: l, partitions: partitions, leases: leases, nodes: nodes,
		live: map[string]bool{}, successors: map[int]string{}, handovers: map[int]*handover{}, running: map[int]*runner{},
		changed: make(chan struct{}, 1), vacant: make([]chan struct{}, partitions),
	}
	for p := range m.vacant {
		m.vacant[p] = make(chan struct{}, 1)
	}
	m.open = func(ctx context.Context, p int) (*partition.Partition, func(), error) {
		log, err := bus.OpenLog(ctx, l.deps.Log, p)
		if err != nil {
			return nil, nil, err
		}
		deps := partition.Deps{
			Node: l.deps.Node, Log: log, Leases: leases, Presence: l.deps.Presence, Sender: l.deps.Sender,
			Floor:        func(ctx context.Context) (uint64, error) { return log.Floor(ctx, "history", false) },
			UserlogFloor: func(ctx context.Context) (uint64, error) { return log.Floor(ctx, "userlog", true) },
			Attach:       func(epoch uint64, in link.Inbox) (func(), error) { return l.attach(p, epoch, in) },
			Handlers:     handlers, Features: features,
			Services: feature.Services{Store: l.deps.Store, Presence: l.deps.Presence, Call: l.deps.Caller.Call},
			Go:       l.reads.do,
			Load:     l.loads.do,
			Logger:   l.deps.Logger, Metrics: l.metrics,
		}
		return partition.New(p, partitions, l.cfg.Partition, deps), log.Close, nil
	}
	return m, nil
}

// Ready reports whether every partition that falls to this node is served.
func (l *Logic) Ready() error {
	if l.drained.Load() {
		return errors.New("drained by an operator")
	}
	return l.owned.ready()
}

// Drain takes the node out of work until Undrain: the others take its partitions over, each when its new owner is ready for it, and
// it takes none, not even when it is the last. It returns at once; Partitions tells how far it has come.
func (l *Logic) Drain() { l.wish(true) }

// Undrain has the node take its share of the partitions again.
func (l *Logic) Undrain() { l.wish(false) }

// Drained reports whether an operator's drain holds.
func (l *Logic) Drained() bool { return l.drained.Load() }

// Partitions is how many partitions the node serves or waits for.
func (l *Logic) Partitions() int {
	l.owned.mu.Lock()
	defer l.owned.mu.Unlock()
	return l.owned.held
}

func (l *Logic) wish(drained bool) {
	if l.drained.Swap(drained) == drained {
		return
	}
	l.deps.Logger.Info("an operator changed the node's work", "drained", drained, "partitions", l.Partitions())
	select {
	case l.wishes <- struct{}{}:
	default:
	}
}

// ownership is what the readiness check knows.
type ownership struct {
	mu      sync.Mutex
	started bool
	wanted  int
	serving int
	held    int // served or waited for
}

func (o *ownership) join() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started, o.wanted = true, -1
}

func (o *ownership) hold(held int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = held
}

func (o *ownership) set(wanted, serving int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted, o.serving = wanted, serving
}

func (o *ownership) ready() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.started || o.wanted < 0:
		return errors.New("the node has not joined the cluster yet")
	case o.serving < o.wanted:
		return fmt.Errorf("%d of %d partitions are served", o.serving, o.wanted)
	}
	return nil
}
