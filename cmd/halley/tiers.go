package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/job"
	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/logic/api"
	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/app"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/config"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/link/natslink"
	"github.com/halley-im/halley/pkg/presence/lastknown"
	"github.com/halley-im/halley/pkg/presence/redis"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/cassandra"
	"github.com/halley-im/halley/pkg/store/observed"
)

// adminFlag is the flag of tiers that listen for nobody else.
type adminFlag struct {
	Admin string `name:"admin" placeholder:"HOST:PORT" help:"Address of health, metrics and profiles (admin.address)."`
}

func (f adminFlag) named() []config.Flag {
	return named(map[string]string{"admin.address": f.Admin})
}

type cometCmd struct {
	settingsFlags
	addressFlags
}

// Run serves connections until it is told to stop.
func (c cometCmd) Run(p *program) error {
	return runTier(p, tierComet, c.settingsFlags, c.named(), wireComet)
}

// apiFlag is the flag of those who serve the HTTP API.
type apiFlag struct {
	API string `name:"api" placeholder:"HOST:PORT" help:"Address of the HTTP API (api.address)."`
}

func (f apiFlag) named() []config.Flag { return named(map[string]string{"api.address": f.API}) }

type logicCmd struct {
	settingsFlags
	apiFlag
	adminFlag
}

// Run owns partitions until it is told to stop.
func (c logicCmd) Run(p *program) error {
	return runTier(p, tierLogic, c.settingsFlags, append(c.adminFlag.named(), c.apiFlag.named()...), wireLogic)
}

type jobCmd struct {
	settingsFlags
	adminFlag
}

// Run follows the logs until it is told to stop.
func (c jobCmd) Run(p *program) error {
	return runTier(p, tierJob, c.settingsFlags, c.named(), wireJob)
}

func runTier(p *program, t tier, flags settingsFlags, named []config.Flag, wire func(context.Context, *process) error) error {
	p.takeSlack()
	in, err := flags.input(p, named...)
	if err != nil {
		return err
	}
	proc, err := newProcess(p, t, in)
	if err != nil {
		return err
	}
	if err := proc.probe(); err != nil {
		return err
	}
	return proc.run(func(ctx context.Context, proc *process) (func() error, error) {
		return func() error { proc.log.Info("ready"); return nil }, wire(ctx, proc)
	})
}

// joinCluster connects to the bus and learns what the cluster was created with.
func (p *process) joinCluster(ctx context.Context) (conns, int, error) {
	c, err := p.connect(ctx, p.settings.NATS.bus(""))
	if err != nil {
		return c, 0, err
	}
	partitions, err := bus.Partitions(ctx, c.logs)
	if errors.Is(err, bus.ErrNotCreated) {
		return c, 0, fmt.Errorf("%w; 'halley cluster create' does that, once", err)
	}
	return c, partitions, err
}

// receiver is a node of the link that is named after the link was made: each needs the other. It is set before the link
// runs and never again.
type receiver struct{ link.Node }

// addNode makes the process reachable by owners of partitions as id, and able to ask them.
func (p *process) addNode(id string, conn *bus.Conn, partitions int) (*natslink.Node, *receiver, error) {
	to := &receiver{}
	node, err := natslink.NewNode(conn, id, partitions, p.settings.Link, natslink.NodeDeps{
		Log: p.log, Metrics: p.registry, Receiver: to, EncodeError: partition.EncodeError,
	})
	if err != nil {
		return nil, nil, err
	}
	p.add(app.Component{Name: "link to the owners", Run: node.Run, Ready: app.Closed(node.Ready())})
	return node, to, nil
}

// addOwner makes the process able to send to nodes; as peer, no more than a comet may.
func (p *process) addOwner(conn *bus.Conn, peer bool) (*natslink.Owner, error) {
	owner, err := natslink.NewOwner(conn, p.node, p.settings.Link, natslink.OwnerDeps{
		Log: p.log, Metrics: p.registry, EncodeError: partition.EncodeError, Peer: peer,
	})
	if err != nil {
		return nil, err
	}
	p.add(app.Component{Name: "link to the nodes", Run: owner.Run, Ready: app.Closed(owner.Ready())})
	return owner, nil
}

// addPresence is presence in Redis, with the janitor that any one process of the cluster runs. Redis is no condition of
// readiness: chat goes on without it.
func (p *process) addPresence() (*redis.Registry, error) {
	registry, err := redis.New(p.settings.Redis, redis.Deps{Log: p.log, Metrics: p.registry})
	if err != nil {
		return nil, err
	}
	p.onClose("presence", registry.Close)
	p.add(app.Component{Name: "presence", Run: registry.Run})
	return registry, nil
}

func wireComet(ctx context.Context, p *process) error {
	secrets, err := openSecrets(p.settings.Auth, "", time.Now())
	if err != nil {
		return err
	}
	c, partitions, err := p.joinCluster(ctx)
	if err != nil {
		return err
	}
	registry, err := p.addPresence()
	if err != nil {
		return err
	}
	owner, err := p.addOwner(c.bus, true)
	if err != nil {
		return err
	}
	node, to, err := p.addNode(p.node, c.bus, partitions)
	if err != nil {
		return err
	}
	cert, err := p.openCerts("comet", p.settings.Comet.TLS)
	if err != nil {
		return err
	}
	connections, err := comet.New(p.settings.Comet, comet.Deps{
		Node: p.node, TLS: cert, Router: node, Presence: registry, Auth: verifier{secrets.keyring}, Tickets: secrets.keyring, Log: p.log, Metrics: p.registry,
		Kick: owner.Send,
	})
	if err != nil {
		return err
	}
	to.Node = connections
	checkDescriptors(p.log, p.settings.Comet.MaxConnections)
	p.addComet(connections)
	return nil
}

func wireLogic(ctx context.Context, p *process) error {
	s := p.settings
	secrets, err := openSecrets(s.Auth, "", time.Now())
	if err != nil {
		return err
	}
	c, partitions, err := p.joinCluster(ctx)
	if err != nil {
		return err
	}
	history, err := p.openCassandra(ctx)
	if err != nil {
		return err
	}
	registry, err := p.addPresence()
	if err != nil {
		return err
	}
	owner, err := p.addOwner(c.bus, false)
	if err != nil {
		return err
	}
	asking := p.node + "-api"
	node, to, err := p.addNode(asking, c.bus, partitions)
	if err != nil {
		return err
	}
	caller := logic.NewCaller(asking, node)
	to.Node = caller
	replicas := s.Logs.resolve(clusterPartitions, clusterReplicas).Replicas
	if !p.origins.Set("logic.replicas") {
		s.Logic.Replicas = replicas
	}
	deciding, err := logic.New(s.Logic, logic.Deps{
		Node: p.node, Log: c.logs, Bus: c.bus, Store: history, Presence: lastknown.New(registry, lastknown.Limit), Sender: owner, Caller: caller,
		Attach: owner.Attach, Logger: p.log, Metrics: p.registry,
	})
	if err != nil {
		return err
	}
	p.addLogic(deciding, deciding.Ready)
	p.setWork(logicWork{p.node, deciding})
	forServers, err := p.newAPI(ctx, c.bus, secrets, api.Deps{Caller: caller, Presence: registry, Sender: owner}, replicas)
	if err != nil {
		return err
	}
	p.addAPI(forServers)
	return nil
}

func wireJob(ctx context.Context, p *process) error {
	c, partitions, err := p.joinCluster(ctx)
	if err != nil {
		return err
	}
	history, err := p.openCassandra(ctx)
	if err != nil {
		return err
	}
	p.setWork(jobWork{p.node})
	p.addJob(job.New(p.settings.Job, job.Deps{
		Conn: c.bus, Partitions: partitions, Store: history, Log: p.log, Metrics: p.registry,
	}))
	return nil
}

// openCassandra waits until Cassandra is there; a schema that does not fit is an error at once. It is a condition of the
// start only: while it is away, conversations in memory go on.
func (p *process) openCassandra(ctx context.Context) (store.Store, error) {
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		s, err := cassandra.Open(ctx, p.settings.Cassandra, p.log)
		if err == nil {
			p.onClose("store", s.Close)
			return observed.New(s, p.registry)
		}
		if errors.Is(err, cassandra.ErrSchema) {
			return nil, fmt.Errorf("%w; 'halley cluster create' brings it up to date", err)
		}
		p.log.Warn("waiting for Cassandra", "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// addJob adds the tier that makes the log readable.
func (p *process) addJob(j *job.Job) { p.add(app.Component{Name: "job", Run: j.Run}) }
