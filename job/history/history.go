// Package history is the follower that writes every record of the logs to the store. It never reads a body, and it
// acknowledges a block only once the store has all of it.
package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/store"
)

// Name is the follower's name in the logs; its place is kept under it.
const Name = "history"

// ErrPoisoned means that a block cannot be stored, now or ever. Nobody passes it: what follows it in the partition's log
// waits, and the log is not trimmed, until a person has looked.
var ErrPoisoned = errors.New("history: block cannot be stored")

// Pauses between tries while the store refuses.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// How long one Fetch waits for a first block.
const fetchWait = 5 * time.Second

// Config of the follower.
type Config struct {
	Writers     int `koanf:"writers" doc:"Most writes to the store at once, over all partitions."`
	BatchBlocks int `koanf:"batch_blocks" doc:"Most blocks of a partition that are taken from its log at once."`
	BatchBytes  int `koanf:"batch_bytes" doc:"Most bytes of blocks that are taken at once; with what waits behind them, a node holds up to twice this for each partition."`
	WriteBytes  int `koanf:"write_bytes" doc:"Blocks are written to the store in pieces of about this size."`
	LingerMs    int `koanf:"linger_ms" doc:"Time from one batch of a partition to the next, in which blocks are collected: the more records of a conversation are written together, the less each costs the store. Until then they are in the log, and read from the memory of their owner."`
	AckWaitMs   int `koanf:"ack_wait_ms" doc:"When a block that a dead node had taken goes to another node."`
}

// Default suits the store of serve as well as a cluster of Cassandra nodes.
func Default() Config {
	return Config{Writers: 8, BatchBlocks: 512, BatchBytes: 4 << 20, WriteBytes: 1 << 20, LingerMs: 1000, AckWaitMs: 30_000}
}

// Validate reports every field at fault.
func (c Config) Validate() error {
	var errs []error
	for _, f := range []struct {
		key           string
		value, lo, hi int
	}{
		{"writers", c.Writers, 1, 1024},
		{"batch_blocks", c.BatchBlocks, 1, 4096},
		{"batch_bytes", c.BatchBytes, 64 << 10, 1 << 30},
		{"write_bytes", c.WriteBytes, 4 << 10, 1 << 30},
		{"linger_ms", c.LingerMs, 0, 10_000},
		{"ack_wait_ms", c.AckWaitMs, 500, 600_000},
	} {
		if f.value < f.lo || f.value > f.hi {
			errs = append(errs, fmt.Errorf("%s: %d is not in %d..%d", f.key, f.value, f.lo, f.hi))
		}
	}
	if c.AckWaitMs < 3*c.LingerMs {
		errs = append(errs, fmt.Errorf("ack_wait_ms: %d is less than three times linger_ms", c.AckWaitMs))
	}
	return errors.Join(errs...)
}

// Deps of the follower.
type Deps struct {
	Store   store.Records
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// History follows any number of logs.
type History struct {
	cfg     Config
	store   store.Records
	log     *slog.Logger
	writers chan struct{} // holds a token for each write that is under way
	m       metrics
}

// New prepares it.
func New(cfg Config, deps Deps) *History {
	return &History{
		cfg: cfg, store: deps.Store, log: deps.Log.With("follower", Name),
		writers: make(chan struct{}, cfg.Writers), m: newMetrics(deps.Metrics),
	}
}

// Open opens the follower on a log.
func (h *History) Open(ctx context.Context, l *bus.Log) (*bus.Follower, error) {
	return l.Follow(ctx, Name, bus.FollowOptions{
		// Two batches: one in hand, one behind it; and room for as many of other nodes.
		MaxAckPending: 4 * h.cfg.BatchBlocks,
		AckWait:       h.ackWait(),
	})
}

func (h *History) ackWait() time.Duration { return time.Duration(h.cfg.AckWaitMs) * time.Millisecond }

// Blocks are those of one partition that come to this node: a bus.Follower.
type Blocks interface {
	Fetch(ctx context.Context, most, maxBytes int, wait time.Duration) ([]bus.Delivery, error)
}

// Run follows one partition until ctx ends or following breaks: ErrPoisoned, or an error of the bus.
func (h *History) Run(ctx context.Context, partition int, f Blocks) error {
	r := &run{History: h, f: f, partition: strconv.Itoa(partition), some: mostRecords}
	for {
		ds, err := r.fetch(ctx)
		if err == nil {
			err = r.take(ctx, ds)
		}
		if err != nil {
			return err
		}
	}
}
