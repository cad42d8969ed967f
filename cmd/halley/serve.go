package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/job"
	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/logic/api"
	"github.com/halley-im/halley/logic/audit"
	"github.com/halley-im/halley/pkg/app"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/config"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/pkg/store/observed"
	"github.com/halley-im/halley/pkg/store/pebble"
)

// addressFlags are the settings that have a flag of their own.
type addressFlags struct {
	WebSocket string `name:"websocket" placeholder:"HOST:PORT" help:"Address of WebSocket connections (comet.websocket_address)."`
	TCP       string `name:"tcp" placeholder:"HOST:PORT" help:"Address of TCP connections (comet.tcp_address)."`
	adminFlag
}

// flagOf is the flag of a setting, if it has one.
func flagOf(key string) string {
	switch key {
	case "comet.websocket_address":
		return "--websocket"
	case "comet.tcp_address":
		return "--tcp"
	case "api.address":
		return "--api"
	case "admin.address":
		return "--admin"
	case "data_dir":
		return "--data-dir"
	}
	return ""
}

func (f addressFlags) named() []config.Flag {
	return append(f.adminFlag.named(), named(map[string]string{
		"comet.websocket_address": f.WebSocket, "comet.tcp_address": f.TCP,
	})...)
}

// named are the settings among values that were given by their flag.
func named(values map[string]string) []config.Flag {
	var flags []config.Flag
	for key, text := range values {
		if text != "" {
			flags = append(flags, config.Flag{Name: flagOf(key), Key: key, Text: text})
		}
	}
	return flags
}

type serveCmd struct {
	settingsFlags
	addressFlags
	apiFlag
	DataDir string `name:"data-dir" placeholder:"DIR" help:"Where everything is kept (data_dir; ./halley-data)."`
}

// Run serves until it is told to stop.
func (c serveCmd) Run(p *program) error {
	in, err := c.input(p, slices.Concat(c.addressFlags.named(), c.apiFlag.named(), named(map[string]string{"data_dir": c.DataDir}))...)
	if err != nil {
		return err
	}
	proc, err := newProcess(p, tierServe, in)
	if err != nil {
		return err
	}
	s := proc.settings
	if err := guardAddresses(proc.origins, proc.addresses()); err != nil {
		return err
	}
	data, err := openDataDir(s.DataDir)
	if err != nil {
		return err
	}
	defer data.close() //nolint:errcheck // the kernel gives the lock free with the process, whatever this says.
	if err := proc.probe(); err != nil {
		return err
	}
	return proc.run(func(ctx context.Context, proc *process) (func() error, error) { return wireServe(ctx, proc, p, data) })
}

// Of serve where nothing is set. Each partition has a log of its own that is synced for itself: on two processors two of them took a
// quarter less processor time for each message than four, and twice as many messages went into a block.
const (
	servePartitions = 2
	serveReplicas   = 1
)

// bucketBytes is room for what the embedded server keeps beside the logs.
const bucketBytes = 256 << 20

// wireServe is all tiers in one process: the constructors of the tiers with other arguments.
func wireServe(ctx context.Context, p *process, prog *program, data *dataDir) (func() error, error) {
	s := p.settings
	secrets, err := openSecrets(s.Auth, data.path, time.Now())
	if err != nil {
		return nil, err
	}
	logs := s.Logs.resolve(servePartitions, serveReplicas)
	conns, err := openEmbeddedBus(ctx, p, data.file(natsName), logs)
	if err != nil {
		return nil, err
	}
	history, err := pebble.Open(data.file(storeName), s.Pebble, p.log)
	if err != nil {
		return nil, err
	}
	p.onClose("store", history.Close)
	p.addCheck("store", history.Ping)
	seen, err := observed.New(history, p.registry)
	if err != nil {
		return nil, err
	}
	registry := memory.New(time.Now)
	inside := link.NewLocal(logs.Partitions)

	caller := logic.NewCaller(p.node+"-api", inside)
	p.onClose("caller", remover(inside.Register(caller.Node(), caller)))
	owned := &ownership{attached: make([]int, logs.Partitions)}
	deciding, err := logic.New(s.Logic, logic.Deps{
		Node: p.node, Log: conns.logs, Bus: conns.bus, Store: seen, Presence: registry, Sender: inside, Caller: caller,
		Attach: owned.attach(inside),
		Logger: p.log, Metrics: p.registry,
	})
	if err != nil {
		return nil, err
	}
	if s.Comet.Loops == 0 { // The other tiers want processors too, and fewer loops make larger batches.
		s.Comet.Loops = max(1, runtime.GOMAXPROCS(0)/2)
	}
	cert, err := p.openCerts("comet", s.Comet.TLS)
	if err != nil {
		return nil, err
	}
	connections, err := comet.New(s.Comet, comet.Deps{
		Node: p.node, TLS: cert, Router: inside, Presence: registry, Auth: verifier{secrets.keyring}, Tickets: secrets.keyring, Log: p.log, Metrics: p.registry,
		Kick: inside.Send,
	})
	if err != nil {
		return nil, err
	}
	p.onClose("node", remover(inside.Register(p.node, connections)))
	checkDescriptors(p.log, s.Comet.MaxConnections)

	p.addLogic(deciding, owned.ready)
	p.addJob(job.New(s.Job, job.Deps{
		Conn: conns.bus, Partitions: logs.Partitions, Store: seen, Log: p.log, Metrics: p.registry,
	}))
	p.addComet(connections)
	p.audit.set(func(ctx context.Context, want auditScope, emit func(audit.Event) error) error {
		return auditServe(ctx, conns.bus, history, want, emit)
	})
	p.onClose("audit", func() error { p.audit.stop(); return nil })
	chat := newChatDemo(p, data, secrets, connections)
	forServers, err := p.newAPI(ctx, conns.bus, secrets,
		api.Deps{Caller: caller, Presence: registry, Sender: inside, Demo: chat.handler()}, logs.Replicas)
	if err != nil {
		return nil, err
	}
	p.addAPI(forServers)
	chat.add(p)
	return func() error { return announce(p, prog, data, secrets, connections, forServers) }, nil
}

func remover(remove func()) func() error {
	return func() error { remove(); return nil }
}

// ownership knows which partitions are served in this process. In serve that must be all of them: after a crash the dead
// process's lease stands for some seconds, in which a part of the partitions seems to be in good hands.
type ownership struct {
	mu       sync.Mutex
	attached []int // inboxes at each partition
}

func (o *ownership) attach(to *link.Local) func(partition int, epoch uint64, in link.Inbox) (func(), error) {
	return func(partition int, epoch uint64, in link.Inbox) (func(), error) {
		detach := to.Attach(partition, epoch, in)
		o.count(partition, 1)
		return func() {
			o.count(partition, -1)
			detach()
		}, nil
	}
}

func (o *ownership) count(partition, by int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attached[partition] += by
}

func (o *ownership) ready() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for p, n := range o.attached {
		if n == 0 {
			return fmt.Errorf("partition %d is not served yet", p)
		}
	}
	return nil
}

// addLogic adds the tier that decides; it is ready when the partitions that fall to it are served.
func (p *process) addLogic(l *logic.Logic, ready func() error) {
	p.addCheck("partitions", func(context.Context) error { return ready() })
	p.add(app.Component{
		Name: "logic", Run: l.Run, Ready: app.Holds(ready),
		Drain: millis(p.settings.Logic.DrainTimeoutMs) + app.DefaultDrain,
	})
}

// addComet adds the tier of connections; it is ready when it listens.
func (p *process) addComet(c *comet.Comet) {
	p.setWork(cometWork{p.node, p.tier, c})
	p.addCheck("connections", func(context.Context) error { return c.Ready() })
	p.add(app.Component{
		Name: "comet", Run: c.Run, Ready: app.Closed(c.Started()),
		Drain: millis(p.settings.Comet.DrainNoticeMs) + millis(p.settings.Comet.DrainTimeoutMs) + app.DefaultDrain,
	})
	p.addCertificates("comet")
}

// idempotencyBucket holds the Idempotency-Keys of the HTTP API.
const idempotencyBucket = "halley_idempotency"

// newAPI completes what the HTTP API of serve and of a logic node work with.
func (p *process) newAPI(ctx context.Context, conn *bus.Conn, secrets *secrets, deps api.Deps, replicas int) (*api.API, error) {
	if secrets.apiKeys == nil {
		return nil, errors.New("auth.api_keys_file is not set: nobody could use the HTTP API")
	}
	seen, err := bus.OpenLeases(ctx, conn, idempotencyBucket, api.IdempotencyTTL, replicas)
	if err != nil {
		return nil, fmt.Errorf("idempotency keys: %w", err)
	}
	if deps.TLS, err = p.openCerts("api", p.settings.API.TLS, "h2", "http/1.1"); err != nil {
		return nil, err
	}
	deps.Keys, deps.SigningKey, deps.Idempotency = secrets.apiKeys, secrets.keys[0], seen
	deps.Version, deps.Logger, deps.Audience = build().Version, p.log, p.settings.Auth.Audience
	return api.New(p.settings.API, deps)
}

// addAPI adds the HTTP API. It starts last, for it has something to answer only then.
func (p *process) addAPI(a *api.API) {
	p.add(app.Component{Name: "api", Run: a.Run, Ready: app.Closed(a.Started())})
	p.addCertificates("api")
}

// conns are a process's connections to the bus. The logs' is its own, so that no delivery
// waits behind a block.
type conns struct{ logs, bus *bus.Conn }

// openEmbeddedBus starts the server in this process, connects to it, and creates the logs on the first start.
func openEmbeddedBus(ctx context.Context, p *process, dir string, logs bus.LogConfig) (conns, error) {
	var c conns
	server, err := bus.StartEmbedded(bus.EmbeddedConfig{
		Dir: dir, MaxStore: int64(logs.Partitions)*logs.MaxBytes + bucketBytes, SyncAlways: true,
	}, p.log)
	if err != nil {
		return c, err
	}
	p.onClose("embedded NATS", func() error { server.Shutdown(); return nil })
	// Without its logs serve can do nothing; started anew, it goes on as soon as there is room.
	p.add(app.Component{Name: "embedded NATS", Run: server.Run})
	if c, err = p.connect(ctx, bus.Config{Embedded: server}); err != nil {
		return c, err
	}
	if err := bus.CreateLogs(ctx, c.logs, logs); err != nil {
		return c, err
	}
	return c, nil
}

// connect makes both connections of the tier.
func (p *process) connect(ctx context.Context, cfg bus.Config) (conns, error) {
	var c conns
	for _, one := range []struct {
		name string
		conn **bus.Conn
	}{{"bus", &c.bus}, {"logs", &c.logs}} {
		own := cfg
		// What was meant to be sent while there was no server is stale by the time there is one: better refused at once.
		own.Name, own.NoReconnectBuffer = p.node+" "+one.name, true
		conn, err := bus.Connect(ctx, own, p.log)
		if err != nil {
			return c, err
		}
		*one.conn = conn
		p.onClose(one.name, func() error { conn.Close(); return nil })
		showConn(p.registry, one.name, conn)
		p.addCheck(one.name, func(context.Context) error {
			if !conn.Connected() {
				return errors.New("not connected to NATS")
			}
			return nil
		})
	}
	return c, nil
}

// showConn counts what happens to a connection to NATS.
func showConn(reg prometheus.Registerer, name string, conn *bus.Conn) {
	labels := prometheus.Labels{"conn": name}
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "halley_nats_connected", Help: "Whether the connection to NATS stands.", ConstLabels: labels,
		}, func() float64 {
			if conn.Connected() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "halley_nats_reconnects_total", Help: "Times that a lost connection to NATS was made again.", ConstLabels: labels,
		}, func() float64 { return float64(conn.Reconnects()) }),
	)
}

// announce tells the tools in the same folder and the person at the terminal where everything is.
func announce(p *process, prog *program, data *dataDir, secrets *secrets, c *comet.Comet, a *api.API) error {
	folder, err := filepath.Abs(data.path)
	if err != nil {
		return err
	}
	e := endpoints{
		PID: os.Getpid(), Started: time.Now().UTC(), TCP: local(c.Addr("tcp")), SecretFile: secrets.keysFile,
		API: a.Scheme() + "://" + local(a.Addr()), Admin: "http://" + local(p.adminAddr),
	}
	if ws := local(c.Addr("websocket")); ws != "" {
		e.WS = "ws://" + ws + "/v1/connect"
	}
	if wss := local(c.Addr("wss")); wss != "" {
		e.WSS = "wss://" + wss + "/v1/connect"
	}
	e.TLS = local(c.Addr("tls"))
	if err := data.writeEndpoints(e); err != nil {
		return fmt.Errorf("tell the tools where to connect: %w", err)
	}
	p.onClose("endpoints", data.removeEndpoints)
	return writeBanner(prog.stdout, bannerFacts{
		Build: build(), Folder: folder, Endpoints: e, APIKey: secrets.devKey, Open: !allLoopback(p.addresses()), Demo: p.settings.Comet.WebSocketAddress != "",
	})
}

// local is how a program on this machine reaches a listener; empty where there is none.
func local(a net.Addr) string {
	if a == nil {
		return ""
	}
	at, err := netip.ParseAddrPort(a.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return a.String()
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
}

func allLoopback(addresses map[string]string) bool {
	for _, a := range addresses {
		if a != "" && !isLoopback(a) {
			return false
		}
	}
	return true
}
