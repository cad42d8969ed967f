// Package userlog is the follower that tells users' own logs what happened to them elsewhere: who joined, left or got a first
// message. It asks the owner of u:<user> to write a record there, and from the record, once that is in the log, it keeps the user's list
// in the store. It never writes a log itself, and reads no bodies but those that it asked for.
package userlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/store"
)

// Name is the follower's name in the logs; its place is kept under it.
const Name = "userlog"

// ErrPoisoned means that a block cannot be read. Nobody passes it: what follows it in the partition's log waits, and the log is
// not trimmed, until a person has looked.
var ErrPoisoned = errors.New("userlog: block cannot be read")

// How long one Fetch waits for a first block.
const fetchWait = 5 * time.Second

// Config of the follower.
type Config struct {
	BatchBlocks      int `koanf:"batch_blocks" doc:"Most blocks of a partition that are worked on at once."`
	BatchBytes       int `koanf:"batch_bytes" doc:"Most bytes of blocks that are worked on at once."`
	RequestStandings int `koanf:"request_standings" doc:"Most users' records that one request to an owner asks for."`
	Requests         int `koanf:"requests" doc:"Most requests and writes to the store at once, over all partitions."`
	RequestTimeoutMs int `koanf:"request_timeout_ms" doc:"How long an owner may take to answer."`
	RetryMs          int `koanf:"retry_ms" doc:"When a block is tried again whose records an owner could not write; twice as long after each try, up to 32 times."`
	AckWaitMs        int `koanf:"ack_wait_ms" doc:"When a block that a dead node had taken goes to another node."`
}

// Default lets a group of 10,000 take a second or so.
func Default() Config {
	return Config{
		BatchBlocks: 64, BatchBytes: 2 << 20, RequestStandings: 500, Requests: 16,
		RequestTimeoutMs: 5_000, RetryMs: 500, AckWaitMs: 60_000,
	}
}

// Validate reports every field at fault.
func (c Config) Validate() error {
	var errs []error
	for _, f := range []struct {
		key           string
		value, lo, hi int
	}{
		{"batch_blocks", c.BatchBlocks, 1, 4096},
		{"batch_bytes", c.BatchBytes, 64 << 10, 1 << 30},
		{"request_standings", c.RequestStandings, 1, 1000},
		{"requests", c.Requests, 1, 1024},
		{"request_timeout_ms", c.RequestTimeoutMs, 100, 60_000},
		{"retry_ms", c.RetryMs, 10, 60_000},
		{"ack_wait_ms", c.AckWaitMs, 500, 600_000},
	} {
		if f.value < f.lo || f.value > f.hi {
			errs = append(errs, fmt.Errorf("%s: %d is not in %d..%d", f.key, f.value, f.lo, f.hi))
		}
	}
	if c.AckWaitMs < 2*c.RequestTimeoutMs {
		errs = append(errs, fmt.Errorf("ack_wait_ms: %d is less than twice request_timeout_ms", c.AckWaitMs))
	}
	return errors.Join(errs...)
}

// Store is what the follower reads and writes.
type Store interface {
	store.Users
	// Intervals tell since when a user who leaves was a member.
	Intervals(ctx context.Context, c store.Conversation, user string) ([]store.Interval, error)
}

// Deps of the follower.
type Deps struct {
	Conn       *bus.Conn
	Partitions int
	Store      Store
	Log        *slog.Logger
	Metrics    prometheus.Registerer
}

// Userlog follows any number of logs.
type Userlog struct {
	cfg        Config
	conn       *bus.Conn
	partitions int
	store      Store
	log        *slog.Logger
	calls      chan struct{} // holds a token for each request or write that is under way
	m          metrics
}

// New prepares it.
func New(cfg Config, deps Deps) *Userlog {
	return &Userlog{
		cfg: cfg, conn: deps.Conn, partitions: deps.Partitions, store: deps.Store, log: deps.Log.With("follower", Name),
		calls: make(chan struct{}, cfg.Requests), m: newMetrics(deps.Metrics),
	}
}

// Open opens the follower on a log.
func (u *Userlog) Open(ctx context.Context, l *bus.Log) (*bus.Follower, error) {
	return l.Follow(ctx, Name, bus.FollowOptions{
		UserOnly:      true,
		MaxAckPending: 4 * u.cfg.BatchBlocks,
		AckWait:       time.Duration(u.cfg.AckWaitMs) * time.Millisecond,
	})
}

// Run follows one partition until ctx ends or following breaks: ErrPoisoned, or an error of the bus.
func (u *Userlog) Run(ctx context.Context, partition int, f *bus.Follower) error {
	r := &run{Userlog: u, f: f, partition: partition, progress: map[uint64]*progress{}, most: slices.Repeat([]int{u.cfg.RequestStandings}, u.partitions)}
	for {
		ds, err := f.Fetch(ctx, u.cfg.BatchBlocks, u.cfg.BatchBytes, fetchWait)
		if err == nil {
			err = r.take(ctx, ds)
		}
		if err != nil {
			return err
		}
	}
}
