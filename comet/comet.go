// Package comet holds the sessions of devices: it authenticates them, passes their requests on unopened to the owners of
// conversations, and writes deliveries to their sockets. It never opens a body, stores nothing and keeps no state of a request.
package comet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet/transport/loop"
	"github.com/halley-im/halley/comet/transport/proxy"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/looptls"
	"github.com/halley-im/halley/pkg/presence"
)

// Deps are what a comet works with.
type Deps struct {
	Node     string // the node's name; unique in the cluster
	Router   link.Router
	Presence presence.Registry
	Auth     Authenticator
	Tickets  Sealer // nil: devices get no tickets
	// TLS shows the certificate; required where a transport goes over TLS.
	TLS     *tls.Config
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Kick takes the close of a replaced session to the node that holds it: link.Sender.Send.
	Kick func(node string, b *link.Batch)
}

// Comet is one node of the connection tier.
type Comet struct {
	// Static.
	cfg        Config
	node       string
	router     link.Router
	partitions int
	presence   presence.Registry
	auth       Authenticator
	tickets    Sealer
	log        *slog.Logger
	sendKick   func(node string, b *link.Batch)
	transports []listener
	loops      []*eventLoop
	engine     *loop.Engine
	metrics    *metrics
	limit      int // of connections
	rate       int32
	burst      int32 // in tenths of a frame
	ttl        time.Duration
	renewEvery time.Duration
	settle     time.Duration

	helloTicks, silenceTicks, lingerTicks uint32

	tokens    *queue[*admission]
	registrar *registrar
	keeper    *keeper
	lease     *lease
	users     *users
	gate      *gate
	farewell  farewell
	creations *creations
	epochs    link.Epochs
	stale     counter // deliveries dropped for their epoch

	clock       clock
	connections atomic.Int64
	refusals    atomic.Int64 // connections that wait to be refused
	draining    atomic.Bool
	refusing    atomic.Bool
}

// New makes a comet that runs nothing yet.
func New(cfg Config, deps Deps) (*Comet, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Node == "" || deps.Router == nil || deps.Presence == nil || deps.Auth == nil || deps.Log == nil ||
		deps.Metrics == nil || deps.Kick == nil {
		return nil, errors.New("comet: a dependency is missing")
	}
	if cfg.Secure() && deps.TLS == nil {
		return nil, errors.New("comet: a transport over TLS has no certificate")
	}
	c := &Comet{
		cfg: cfg, node: deps.Node, router: deps.Router, partitions: deps.Router.Partitions(),
		presence: deps.Presence, auth: deps.Auth, tickets: deps.Tickets, log: deps.Log, sendKick: deps.Kick,
		transports: transports(cfg),
		rate:       int32(cfg.FramesPerSecond), burst: int32(cfg.FramesBurst) * frameCost,
		ttl: presence.TTL, renewEvery: presence.RenewEvery, settle: presence.Settle,
		helloTicks:   ticksOf(ms(cfg.HelloTimeoutMs)),
		silenceTicks: ticksOf(ms(cfg.HeartbeatMs) * 3 / 2),
		lingerTicks:  ticksOf(ms(cfg.LingerMs)),
		tokens:       newQueue[*admission](cfg.PendingConnects),
		users:        newUsers(cfg.SessionsPerUser),
		gate:         newGate(cfg),
		creations:    newCreations(cfg.GroupsPerMinute),
		epochs:       make(link.Epochs, deps.Router.Partitions()),
	}
	var fewer bool
	if c.limit, fewer = cfg.connectionLimit(); fewer {
		c.log.Warn("fewer connections than configured: the process may not have as many descriptors",
			"max_connections", cfg.MaxConnections, "limit", c.limit)
	}
	c.clock.init()
	c.farewell.comet, c.farewell.rate = c, cfg.DrainRate
	c.registrar = newRegistrar(c)
	c.keeper = newKeeper(c)
	c.lease = &lease{comet: c}
	c.loops = make([]*eventLoop, cfg.loops())
	for i := range c.loops {
		c.loops[i] = newEventLoop(c, i)
	}
	c.metrics = newMetrics(c)
	listeners := make([]loop.Listener, len(c.transports))
	for i := range c.transports {
		listeners[i].Address = c.transports[i].Address
		if c.transports[i].Secure {
			listeners[i].TLS = deps.TLS
		}
	}
	proxies, err := proxy.ParseTrusted(cfg.ProxyProtocolFrom)
	if err != nil {
		return nil, err
	}
	c.engine = loop.New(loop.Config{
		Loops: cfg.Loops, ReadBytes: cfg.ReadBytes, Listeners: listeners, Proxies: proxies,
		Handshakes: looptls.DeskConfig{
			Handshakes: cfg.Handshakes, Timeout: ms(cfg.HandshakeTimeoutMs),
			Observe: func(took time.Duration) { c.metrics.tlsSeconds.Observe(took.Seconds()) },
		},
	}, c, c.log)
	if err := c.metrics.register(deps.Metrics); err != nil {
		return nil, fmt.Errorf("comet metrics: %w", err)
	}
	return c, nil
}

// Started is closed when the comet listens.
func (c *Comet) Started() <-chan struct{} { return c.engine.Started() }

// Addr is where the transport listens; nil if it does not. Valid when Started is closed.
func (c *Comet) Addr(transport string) net.Addr {
	for i := range c.transports {
		if c.transports[i].Name == transport {
			return c.engine.Addr(i)
		}
	}
	return nil
}

// Ready says why the node should get no new connections; nil: it may. Presence is no reason: a node that cannot reach it serves
// on, and so would have to any other.
func (c *Comet) Ready() error {
	select {
	case <-c.engine.Started():
	default:
		return errors.New("comet: not listening yet")
	}
	switch {
	case c.draining.Load():
		return errors.New("comet: draining")
	case c.connections.Load() >= int64(c.limit):
		return fmt.Errorf("comet: at its limit of %d connections", c.limit)
	}
	return c.gate.guards.ready()
}

// Run serves until ctx ends, drains, and returns when every session is gone. It can be called once.
func (c *Comet) Run(ctx context.Context) error {
	var stages sync.WaitGroup
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	c.lease.beat(work) // within its time-out; without presence the node serves all the same

	workers := c.cfg.VerifyWorkers
	if workers == 0 {
		workers = max(2, runtime.GOMAXPROCS(0))
	}
	keeping, stopKeeping := context.WithCancel(work)
	defer stopKeeping()
	for range workers {
		stages.Go(func() { c.verifier(work) })
	}
	stages.Go(func() { c.registrar.run(work) })
	stages.Go(func() { c.keeper.run(work) })
	stages.Go(func() { c.lease.keep(keeping) })
	stages.Go(func() { c.keepTime(work) })
	stages.Go(func() { c.gate.guards.run(work, c.log) })

	ended := make(chan error, 1)
	go func() { ended <- c.engine.Run() }()

	err := c.serve(ctx, ended)
	stopKeeping() // before the release: a renewal after it would take the lease again
	stopWork()
	stages.Wait()
	c.lease.release(context.WithoutCancel(ctx))
	return err
}

// serve waits for the end of ctx or of the engine, whichever is first; in the former case it drains.
func (c *Comet) serve(ctx context.Context, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-c.engine.Started():
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	c.drain()
	c.engine.Stop()
	return <-ended
}

// slowReaders is what the log says of them so far.
type slowReaders struct {
	count int64
	at    time.Time
}

// slowEvery is how often the log tells of slow readers: in a storm they are many.
const slowEvery = 10 * time.Second

// tellSlow logs how many sessions were closed since it did so last because their devices did not read.
func (c *Comet) tellSlow(told *slowReaders) {
	var count int64
	for _, l := range c.loops {
		count += l.stats.slow.n.Load()
	}
	if count == told.count || time.Since(told.at) < slowEvery {
		return
	}
	c.log.Warn("devices do not read what they are sent; their sessions are closed as slow readers",
		"sessions", count-told.count, "outbox_bytes", c.cfg.OutboxBytes)
	*told = slowReaders{count, time.Now()}
}
