package bus

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Server is what a look at the bus tells.
type Server struct {
	Name, Version, Cluster string
	// Servers is how many of the cluster this one knows of, itself included.
	Servers   int
	RoundTrip time.Duration
	Encrypted bool
	// Partitions of the cluster; 0 before it was created.
	Partitions int
}

// Look connects, asks and leaves.
func Look(ctx context.Context, cfg Config, log *slog.Logger) (Server, error) {
	c, err := Connect(ctx, cfg, log)
	if err != nil {
		return Server{}, err
	}
	defer c.Close()
	s := Server{
		Name: c.nc.ConnectedServerName(), Version: c.nc.ConnectedServerVersion(), Cluster: c.nc.ConnectedClusterName(), Servers: len(c.nc.Servers()),
	}
	_, err = c.nc.TLSConnectionState()
	s.Encrypted = err == nil
	if s.RoundTrip, err = c.nc.RTT(); err != nil {
		return s, fmt.Errorf("bus: %w", err)
	}
	s.Partitions, err = Partitions(ctx, c)
	return s, err
}
