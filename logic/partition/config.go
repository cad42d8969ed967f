// Package partition is the write path: one owner per partition, one append in flight, persist then acknowledge then deliver.
// It knows leases, fences, group commit, retries and order, and nothing of what a record says: features decide that.
package partition

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Config bounds one partition.
type Config struct {
	LeaseTTLMs        int `koanf:"lease_ttl_ms" doc:"Time after which a silent owner of a partition may be replaced, milliseconds."`
	QueueRequests     int `koanf:"queue_requests" doc:"Requests that may wait for one partition; beyond them: busy."`
	QueueBytes        int `koanf:"queue_bytes" doc:"Bytes of requests that may wait for one partition; beyond them: busy."`
	HoldRequests      int `koanf:"hold_requests" doc:"Requests that may wait for one conversation that is being loaded; beyond them: busy."`
	BlockRecords      int `koanf:"block_records" doc:"Most records in one block."`
	BlockBytes        int `koanf:"block_bytes" doc:"Most bytes of records in one block; below NATS's max_payload."`
	Conversations     int `koanf:"conversations" doc:"Conversations of one partition held in memory; idle ones beyond it are let go."`
	Absent            int `koanf:"absent" doc:"Ids of which nothing was written that one partition remembers, in some 40 bytes each: most are the logs of users who never got anything. Each beyond them that is asked for is a read of the store."`
	WindowRecords     int `koanf:"window_records" doc:"Newest records of a conversation kept in memory beyond those that history has not yet stored."`
	TailBytes         int `koanf:"tail_bytes" doc:"Bytes of records that one partition keeps in memory of those that history has not yet stored; older ones are read again from the log."`
	TailRecords       int `koanf:"tail_records" doc:"Records that may wait for the history store in one partition; at nine tenths of them: busy."`
	SearchRecords     int `koanf:"search_records" doc:"How far back a retry is looked for in history; beyond it: expired."`
	AppendTimeoutMs   int `koanf:"append_timeout_ms" doc:"One try to append a block, milliseconds."`
	AppendPatienceMs  int `koanf:"append_patience_ms" doc:"All tries to append one block, milliseconds; then its senders get retry and the partition is taken over anew."`
	DeliveryParcels   int `koanf:"delivery_parcels" doc:"Committed blocks that may wait for delivery; beyond them deliveries are dropped and nodes resync."`
	CursorFlushMs     int `koanf:"cursor_flush_ms" doc:"How long read cursors are gathered before they are stored, milliseconds."`
	LargeMembers      int `koanf:"large_members" doc:"A conversation with more members is large: its messages go once to each node that has a member. It stays so until it has fewer than three quarters of them."`
	RefusedWrites     int `koanf:"refused_writes" doc:"Writes refused for good that are remembered, so that no late copy of them is written; beyond them: a new epoch, which needs none of them."`
	RedeliverWithinMs int `koanf:"redeliver_within_ms" doc:"A new owner delivers again what was committed this long before the last block, milliseconds."`
}

// Default is the shipped configuration.
func Default() Config {
	return Config{
		LeaseTTLMs: 4000, QueueRequests: 32768, QueueBytes: 64 << 20, HoldRequests: 4096,
		BlockRecords: 1000, BlockBytes: 256 << 10, Conversations: 200_000, Absent: 200_000, WindowRecords: 32, TailBytes: 64 << 20, TailRecords: 4 << 20,
		SearchRecords: 10_000, AppendTimeoutMs: 2000, AppendPatienceMs: 15_000, DeliveryParcels: 256,
		CursorFlushMs: 2000, LargeMembers: 200, RefusedWrites: 16_384, RedeliverWithinMs: 10_000,
	}
}

// Validate refuses values that cannot work.
func (c Config) Validate() error {
	for _, f := range []struct {
		key      string
		value    int
		min, max int
	}{
		{"lease_ttl_ms", c.LeaseTTLMs, 1000, 60_000},
		{"queue_requests", c.QueueRequests, 16, 1 << 20},
		{"queue_bytes", c.QueueBytes, 1 << 20, 1 << 30},
		{"hold_requests", c.HoldRequests, 16, 1 << 20},
		{"block_records", c.BlockRecords, 1, 10_000},
		{"block_bytes", c.BlockBytes, 64 << 10, 900 << 10},
		{"conversations", c.Conversations, 1000, 100 << 20},
		{"absent", c.Absent, 0, 100 << 20},
		{"window_records", c.WindowRecords, 1, 10_000},
		{"tail_bytes", c.TailBytes, 64 << 10, 16 << 30},
		{"tail_records", c.TailRecords, 10_000, 1 << 28},
		{"search_records", c.SearchRecords, 100, 1 << 20},
		{"append_timeout_ms", c.AppendTimeoutMs, 100, 60_000},
		{"append_patience_ms", c.AppendPatienceMs, 100, 600_000},
		{"delivery_parcels", c.DeliveryParcels, 1, 1 << 16},
		{"cursor_flush_ms", c.CursorFlushMs, 10, 60_000},
		{"large_members", c.LargeMembers, minLarge, maxLarge},
		{"refused_writes", c.RefusedWrites, 1, 1 << 20},
		{"redeliver_within_ms", c.RedeliverWithinMs, 0, 600_000},
	} {
		if f.value < f.min || f.value > f.max {
			return errors.New("logic.partition." + f.key + ": must lie between its bounds")
		}
	}
	return nil
}

// Log is a partition's log. *bus.Log is the one there is; the simulation has another, which fails as a seed tells it to.
type Log interface {
	Append(ctx context.Context, block []byte, user bool, last uint64) (uint64, error)
	Get(ctx context.Context, seq uint64) (bus.Message, error)
	Scan(ctx context.Context, from uint64, fn func(bus.Message) error) error
	State(ctx context.Context) (bus.LogState, error)
	Witness(ctx context.Context, seq uint64) error
}

// Leases say who serves a partition: *bus.Leases, and the simulation's.
type Leases interface {
	TTL() time.Duration
	Acquire(ctx context.Context, key string, value []byte) (*bus.Lease, error)
	Renew(ctx context.Context, l *bus.Lease) error
	Release(ctx context.Context, l *bus.Lease) error
}

// Deps is what a partition works with.
type Deps struct {
	Node   string // This logic process.
	Log    Log
	Leases Leases
	Floor  func(ctx context.Context) (uint64, error) // History's floor W: every block up to it is in the store.
	// How far users' logs were told what happened in the conversations of this one, and users' lists what their logs here tell.
	UserlogFloor func(ctx context.Context) (uint64, error)
	Presence     presence.Registry
	Sender       link.Sender
	// Attach opens the partition to requests until detach is called.
	Attach   func(epoch uint64, in link.Inbox) (detach func(), err error)
	Handlers map[envelopev1.Command]feature.Handler
	Features []feature.Feature
	Services feature.Services
	// Go runs fn in another goroutine; false: too many run already. Load is the same with slots of its own: what runs there
	// never waits for another owner, so that owners whose reads wait for each other's loads do get them.
	Go      func(fn func(ctx context.Context)) bool
	Load    func(fn func(ctx context.Context)) bool
	Logger  *slog.Logger
	Metrics *Metrics
	Now     func() time.Time
}
