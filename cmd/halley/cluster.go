package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/observe"
	"github.com/halley-im/halley/pkg/store/cassandra"
)

// Of a cluster where nothing is set: enough for several times the nodes that one starts with.
const (
	clusterPartitions = 16
	clusterReplicas   = 3
)

type clusterCmd struct {
	Create clusterCreateCmd `cmd:"" help:"Create the logs in NATS and bring the schema in Cassandra up to date; what is there already is left alone."`
}

type clusterCreateCmd struct{ settingsFlags }

// Run may be repeated: it finishes what was interrupted and changes nothing that is done.
func (c clusterCreateCmd) Run(p *program) error {
	in, err := c.input(p)
	if err != nil {
		return err
	}
	s, _, err := loadSettings(tierCluster, in)
	if err != nil {
		return fmt.Errorf("the settings are not valid:\n%w", err)
	}
	log, _, err := observe.NewLogger(s.Log, p.stderr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	conn, err := bus.Connect(ctx, s.NATS.bus("halley cluster create"), log)
	if err != nil {
		return err
	}
	defer conn.Close()
	logs := s.Logs.resolve(clusterPartitions, clusterReplicas)
	if err := bus.CreateLogs(ctx, conn, logs); err != nil {
		return err
	}
	if err := cassandra.Migrate(ctx, s.Cassandra, log); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%d logs in NATS, schema in keyspace %s\n", logs.Partitions, s.Cassandra.Keyspace)
	return err
}
