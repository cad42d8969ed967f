package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/halley-im/halley/job/history"
	"github.com/halley-im/halley/logic/audit"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/store/cassandra"
	"github.com/halley-im/halley/pkg/store/pebble"
)

// auditParallel is how many conversations are read from Cassandra at once; each waits for the network.
const auditParallel = 8

// anyStore is no bound: whoever only reads a folder need not know how large its server was allowed to make it.
const anyStore = 1 << 50

// auditStopped reads the folder of a serve that is not running, with its lock held.
func auditStopped(ctx context.Context, s settings, data *dataDir, limit int, log *slog.Logger, emit func(audit.Event) error) error {
	records, err := pebble.OpenReadOnly(data.file(storeName), s.Pebble, log)
	if err != nil {
		return err
	}
	defer records.Close() //nolint:errcheck // nothing was written.
	server, err := bus.StartEmbedded(bus.EmbeddedConfig{Dir: data.file(natsName), MaxStore: anyStore, SyncAlways: true}, log)
	if err != nil {
		return err
	}
	defer server.Shutdown()
	conn, err := bus.Connect(ctx, bus.Config{Embedded: server, Name: "halley audit"}, log)
	if err != nil {
		return err
	}
	defer conn.Close()
	return auditServe(ctx, conn, records, limit, emit)
}

// auditServe audits the logs and the store of a serve, of which the store can name all that it holds.
func auditServe(ctx context.Context, conn *bus.Conn, records *pebble.Store, limit int, emit func(audit.Event) error) error {
	return runAudit(ctx, conn, limit, 1, audit.Deps{Store: records, Walker: records, Emit: emit})
}

// auditCluster audits NATS and Cassandra.
func auditCluster(ctx context.Context, s settings, limit int, log *slog.Logger, emit func(audit.Event) error) error {
	conn, err := bus.Connect(ctx, s.NATS.bus("halley audit"), log)
	if err != nil {
		return err
	}
	defer conn.Close()
	records, err := cassandra.Open(ctx, s.Cassandra, log)
	if err != nil {
		return err
	}
	defer records.Close() //nolint:errcheck // nothing was written.
	return runAudit(ctx, conn, limit, auditParallel, audit.Deps{Store: records, Emit: emit})
}

// auditPatience is how long NATS may take to tell of the cluster; who runs an audit is there to be told that it does not.
const auditPatience = 10 * time.Second

// runAudit completes deps with the logs behind conn.
func runAudit(ctx context.Context, conn *bus.Conn, limit, parallel int, deps audit.Deps) error {
	asking, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	partitions, err := bus.Partitions(asking, conn)
	if err != nil {
		return err
	}
	cfg := audit.Default(partitions)
	cfg.Limit, cfg.Parallel = limit, parallel
	deps.Open = func(ctx context.Context, partition int) (audit.Log, error) {
		log, err := bus.OpenReader(ctx, conn, partition)
		return auditedLog{log}, inAuditsWords(err)
	}
	_, err = audit.New(cfg, deps).Run(ctx)
	return err
}

// auditedLog is a log of the bus as an audit reads it.
type auditedLog struct{ log *bus.Reader }

func (l auditedLog) Floor(ctx context.Context) (uint64, error) {
	floor, err := l.log.Floor(ctx, history.Name, false)
	return floor, inAuditsWords(err)
}

func (l auditedLog) Scan(ctx context.Context, from uint64, fn func(uint64, []byte) error) error {
	return inAuditsWords(l.log.Scan(ctx, from, func(m bus.Message) error { return fn(m.Seq, m.Data) }))
}

// inAuditsWords says of an error of the bus what it means for the audit.
func inAuditsWords(err error) error {
	switch {
	case errors.Is(err, bus.ErrTrimmed):
		return fmt.Errorf("%w: %w", audit.ErrTrimmed, err)
	case errors.Is(err, bus.ErrHole), errors.Is(err, bus.ErrIncarnation):
		return fmt.Errorf("%w: %w", audit.ErrBroken, err)
	}
	return err
}
