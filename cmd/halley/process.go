package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/app"
	"github.com/halley-im/halley/pkg/config"
	"github.com/halley-im/halley/pkg/drain"
	"github.com/halley-im/halley/pkg/observe"
)

// process is one running server of any tier: its admin port, which is there from the first moment, and what the tier is
// made of.
type process struct {
	// static
	tier     tier
	settings settings
	origins  config.Origins
	node     string
	log      *slog.Logger
	level    *slog.LevelVar
	registry *prometheus.Registry

	// set by run before the tier is made
	adminAddr net.Addr

	// guarded by mu: the admin server asks for them while the tier is being made.
	mu      sync.Mutex
	checks  []observe.Check
	work    drain.Work // nil while the tier is being made
	reloads []func()

	audit auditPort

	// owned by the goroutine that makes the tier
	components   []app.Component
	closers      []closer
	certificates map[string]app.Component // by section
}

// newProcess reads the settings and makes what every tier has. Nothing is started.
func newProcess(p *program, t tier, in config.Input) (*process, error) {
	s, origins, err := loadSettings(t, in)
	if err != nil {
		return nil, fmt.Errorf("the settings are not valid:\n%w", err)
	}
	log, level, err := observe.NewLogger(s.Log, p.stderr)
	if err != nil {
		return nil, err
	}
	node, err := nodeName(s.Node)
	if err != nil {
		return nil, err
	}
	out := &process{
		tier: t, settings: s, origins: origins, node: node, level: level,
		log:      log.With("tier", string(t), "node", node),
		registry: observe.NewRegistry(build(), string(t)), certificates: map[string]app.Component{},
	}
	out.addCheck("start", func(context.Context) error { return errors.New("starting") })
	return out, nil
}

// nodeName makes a name that no other process has or had. It is part of subjects and keys, so it keeps to their letters.
func nodeName(configured string) (string, error) {
	name := configured
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("name of the host: %w", err)
		}
		name = host
	}
	const longest = 40
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
	suffix := make([]byte, 4)
	rand.Read(suffix) // never fails: it ends the process instead.
	return name[:min(len(name), longest)] + "-" + hex.EncodeToString(suffix), nil
}

// addCheck adds a condition of readiness; another of the same name is replaced.
func (p *process) addCheck(name string, run func(ctx context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.checks {
		if p.checks[i].Name == name {
			p.checks[i].Run = run
			return
		}
	}
	p.checks = append(p.checks, observe.Check{Name: name, Run: run})
}

func (p *process) allChecks() []observe.Check {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]observe.Check(nil), p.checks...)
}

// add puts a component after those that it depends on.
func (p *process) add(c app.Component) { p.components = append(p.components, c) }

// closer puts away something that components stood on.
type closer struct {
	name string
	fn   func() error
}

// onClose has fn called after all components have ended, last added first.
func (p *process) onClose(name string, fn func() error) {
	p.closers = append(p.closers, closer{name, fn})
}

func (p *process) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		begin := time.Now()
		if err := p.closers[i].fn(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", p.closers[i].name, err))
		}
		p.log.Debug("closed", "what", p.closers[i].name, "took", time.Since(begin))
	}
	return errors.Join(errs...)
}

// run serves until a signal comes or something fails. wire opens what the tier stands on and adds its components; ready is
// called once all of them are.
func (p *process) run(wire func(ctx context.Context, p *process) (ready func() error, err error)) error {
	signals := newSignals()
	defer signals.stop()
	ctx, stop := app.WithSignals(context.Background(), signals.ch, func() { os.Exit(exitFailure) })
	defer stop()

	defer p.watchReloads()()

	node := drain.Handler(p.currentWork)
	more := map[string]http.Handler{"/node": node, "/node/": node}
	if p.tier == tierServe {
		more["POST "+auditPath] = &p.audit
	}
	admin, err := observe.ListenAdmin(p.settings.Admin, observe.AdminDeps{
		Log: p.log, Level: p.level, Gatherer: p.registry, Checks: p.allChecks, More: more,
	})
	if err != nil {
		return explainListen(err, "admin.address", p.settings.Admin.Address)
	}
	p.adminAddr = admin.Addr()
	defer admin.Close() //nolint:errcheck // closed by then; this is for the ways out before Run.
	p.settings.Runtime.apply(p.log)
	go giveBack(ctx, restInterval)
	if !isLoopback(p.settings.Admin.Address) {
		p.log.Warn("the admin port is open to other machines", "address", admin.Addr().String())
	}
	// The tier has a runner of its own, which delays its drain and tells of it while the admin port is still there.
	outer := p.settings.Lifecycle
	outer.DrainDelayMs = 0
	return app.New(outer, slog.New(slog.DiscardHandler),
		app.Component{Name: "admin", Run: admin.Run},
		// It bounds its own parts.
		app.Component{Name: string(p.tier), Drain: math.MaxInt64, Run: func(ctx context.Context) error { return p.serve(ctx, wire) }},
	).Run(ctx, func() {})
}

// serve makes the tier, runs it and puts it away.
func (p *process) serve(ctx context.Context, wire func(ctx context.Context, p *process) (func() error, error)) (err error) {
	defer func() { err = errors.Join(err, p.close()) }()
	ready, err := wire(ctx, p)
	if err != nil {
		if ctx.Err() != nil {
			return nil // Asked to stop while it waited for the others to be there.
		}
		return err
	}
	runner := app.New(p.settings.Lifecycle, p.log, p.components...)
	p.addCheck("start", runner.Check)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = runner.Run(ctx, func() {
		if err := ready(); err != nil {
			cancel(err)
		}
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// explainListen says of a port in use which it is and how to choose another.
func explainListen(err error, key, address string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w", key, err)
	}
	_, port, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	how := "--set " + key + "=HOST:PORT"
	if flag := flagOf(key); flag != "" {
		how = flag + " HOST:PORT"
	}
	return fmt.Errorf("port %s is taken (%s is %s); choose another with %s", port, key, address, how)
}

// addresses are where this process listens, by setting; empty where it does not.
func (p *process) addresses() map[string]string {
	s := p.settings
	out := map[string]string{"admin.address": s.Admin.Address}
	if p.tier.uses("comet") {
		out["comet.websocket_address"], out["comet.tcp_address"] = s.Comet.WebSocketAddress, s.Comet.TCPAddress
		out["comet.wss_address"], out["comet.tls_address"] = s.Comet.WSSAddress, s.Comet.TLSAddress
	}
	if p.tier.uses("api") {
		out["api.address"] = s.API.Address
	}
	return out
}

// probe sees whether the addresses that are listened on later are free now, so that the message can be a clear one, and
// comes before minutes of waiting for other servers.
func (p *process) probe() error {
	addresses := p.addresses()
	for _, key := range slices.Sorted(maps.Keys(addresses)) {
		if addresses[key] == "" {
			continue
		}
		ln, err := net.Listen("tcp", addresses[key])
		if err != nil {
			return explainListen(err, key, addresses[key])
		}
		if err := ln.Close(); err != nil {
			return err
		}
	}
	return nil
}

// signals are those that end a server.
type signals struct{ ch chan os.Signal }

func newSignals() signals {
	s := signals{ch: make(chan os.Signal, 2)}
	signal.Notify(s.ch, os.Interrupt, syscall.SIGTERM)
	return s
}

func (s signals) stop() { signal.Stop(s.ch) }

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }
