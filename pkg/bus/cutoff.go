package bus

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A server that is cut off from its peers keeps its clients, who notice nothing by themselves: their pings are answered, and what they
// publish reaches nobody. So a connection asks, now and then, for something that only the leader of a replicated stream answers.
const (
	askEvery   = 3 * time.Second
	askTimeout = 2 * time.Second
	// So many questions in a row without an answer, and another server is tried; each time without success takes twice as many, for it
	// may be that nobody leads.
	askedFirst = 3
	askedMost  = 24
)

// leaveCutOff runs until ctx ends.
func (c *Conn) leaveCutOff(ctx context.Context) {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	missed, patience := 0, askedFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch {
		case !c.Connected():
			missed = 0
		case c.clusterAnswers(ctx):
			missed, patience = 0, askedFirst
		default:
			missed++
		}
		if missed < patience || ctx.Err() != nil {
			continue
		}
		c.log.Warn("nats: the cluster does not answer through this server; trying another", "server", c.nc.ConnectedServerName())
		missed, patience = 0, min(2*patience, askedMost)
		if err := c.nc.ForceReconnect(); err != nil {
			c.log.Warn("nats: cannot leave a server", "err", err)
		}
	}
}

// clusterAnswers reports whether the leader of the cluster's facts said anything, be it that there are none yet.
func (c *Conn) clusterAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := c.bucketGet(ctx, factsBucket, factLogs)
	var said *jetstream.APIError
	switch {
	case err == nil, errors.Is(err, ErrNoMessage), errors.Is(err, jetstream.ErrStreamNotFound):
		return true
	case errors.As(err, &said):
		return said.Code != http.StatusServiceUnavailable // What a server says that knows of no leader.
	}
	return false
}
