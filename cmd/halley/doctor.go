package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/doctor"

	"github.com/halley-im/halley/pkg/presence/redis"
	"github.com/halley-im/halley/pkg/store/cassandra"
)

type doctorCmd struct {
	settingsFlags
	Tier        string `name:"tier" enum:"serve,comet,logic,job" default:"serve" help:"What is to run here: serve, comet, logic or job (${default}). It says which services are asked."`
	Connections int    `name:"connections" short:"n" placeholder:"N" help:"Connections that this machine is to hold; otherwise comet.max_connections for serve and comet."`
	JSON        bool   `name:"json" help:"Print the findings as JSON."`
}

// What a service may take to answer, and how much of it is slow. Clocks may differ by less than what a message's time is of use for.
const (
	lookTimeout = 5 * time.Second
	slowAnswer  = 20 * time.Millisecond
	mostSkew    = 500 * time.Millisecond
)

// Run looks and tells; something that fails makes the exit code 1.
func (c doctorCmd) Run(p *program) error {
	in, err := c.input(p)
	if err != nil {
		return err
	}
	t := tier(c.Tier)
	s, _, err := loadSettings(t, in)
	if err != nil {
		return fmt.Errorf("the settings are not valid:\n%w", err)
	}
	if c.Connections < 0 {
		return fmt.Errorf("--connections: must not be negative, got %d", c.Connections)
	}
	machine, err := doctor.Here()
	if err != nil {
		return err
	}
	need := doctor.Need{Connections: c.Connections}
	if need.Connections == 0 && (t == tierServe || t == tierComet) {
		need.Connections = s.Comet.MaxConnections
	}
	findings := append(machine.Examine(need), services(t, s)...)
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		err = out.Encode(findings)
	} else {
		err = doctor.Print(p.stdout, findings)
	}
	if err == nil && doctor.Worst(findings) == doctor.Fail {
		return errSilent
	}
	return err
}

// services asks those that the tier uses.
func services(t tier, s settings) []doctor.Finding {
	var out []doctor.Finding
	if t.uses("nats") {
		out = append(out, lookAtNATS(s))
	}
	if t.uses("redis") {
		out = append(out, lookAtRedis(s)...)
	}
	if t.uses("cassandra") {
		out = append(out, lookAtCassandra(s)...)
	}
	return out
}

func lookAtNATS(s settings) doctor.Finding {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	server, err := bus.Look(ctx, s.NATS.bus("halley doctor"), slog.New(slog.DiscardHandler))
	f := doctor.Finding{Check: "NATS", State: doctor.OK}
	if server.Version != "" {
		f.Found = fmt.Sprintf("%s, %d servers of cluster %q known, %d partitions, round trip %v",
			server.Version, server.Servers, server.Cluster, server.Partitions, server.RoundTrip.Round(time.Microsecond))
	}
	switch {
	case errors.Is(err, bus.ErrNotCreated):
		f.State, f.Advice = doctor.Fail, "'halley cluster create' makes the logs, once"
	case err != nil:
		f.State, f.Found, f.Advice = doctor.Fail, err.Error(), "nats.urls, nats.user and the server's log tell more"
	case server.RoundTrip > slowAnswer:
		f.State, f.Advice = doctor.Warn, "each message waits for several of these: nodes and NATS belong into one region"
	case server.Servers < 3:
		f.State, f.Advice = doctor.Warn, "a log has three copies only where there are three servers"
	}
	return f
}

func lookAtRedis(s settings) []doctor.Finding {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	server, err := redis.Look(ctx, s.Redis)
	f := doctor.Finding{Check: "Redis", State: doctor.OK}
	if err != nil {
		f.State, f.Found, f.Advice = doctor.Fail, err.Error(), "chat works without it, and presence does not: redis.addresses, redis.username"
		return []doctor.Finding{f}
	}
	f.Found = fmt.Sprintf("%s, %s, maxmemory-policy %s, round trip %v", server.Version, server.Role, server.Eviction, server.RoundTrip.Round(time.Microsecond))
	switch {
	case server.Eviction != "noeviction":
		f.State, f.Advice = doctor.Fail, "maxmemory-policy noeviction: a device whose entry is evicted gets no pushes, and nothing tells"
	case server.RoundTrip > slowAnswer:
		f.State, f.Advice = doctor.Warn, "look-ups have 100 ms before presence counts as degraded"
	}
	return []doctor.Finding{f, skew("clock of Redis", server.Ahead)}
}

func lookAtCassandra(s settings) []doctor.Finding {
	ctx, cancel := context.WithTimeout(context.Background(), 2*lookTimeout)
	defer cancel()
	server, err := cassandra.Look(ctx, s.Cassandra, slog.New(slog.DiscardHandler))
	f := doctor.Finding{Check: "Cassandra", State: doctor.OK}
	if server.Version != "" {
		f.Found = fmt.Sprintf("%s in datacenter %s, round trip %v", server.Version, server.Datacenter, server.RoundTrip.Round(time.Microsecond))
	}
	switch {
	case errors.Is(err, cassandra.ErrSchema):
		f.State, f.Found, f.Advice = doctor.Fail, f.Found+"; "+err.Error(), "'halley cluster create' brings the schema up to date"
	case err != nil:
		f.State, f.Found, f.Advice = doctor.Fail, err.Error(), "cassandra.hosts, cassandra.username; 'halley cluster create' makes the keyspace"
	case server.RoundTrip > slowAnswer:
		f.State, f.Advice = doctor.Warn, "conversations that are not in memory wait for several of these"
	}
	if server.Version == "" {
		return []doctor.Finding{f}
	}
	return []doctor.Finding{f, skew("clock of Cassandra", server.Ahead)}
}

func skew(check string, ahead time.Duration) doctor.Finding {
	f := doctor.Finding{Check: check, State: doctor.OK, Found: fmt.Sprintf("%v from this machine's", ahead.Round(time.Millisecond))}
	if ahead.Abs() > mostSkew {
		f.State, f.Advice = doctor.Warn, "messages carry the time of their owner's machine, and tokens end by each machine's own: keep them in step"
	}
	return f
}
