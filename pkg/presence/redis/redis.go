// Package redis is presence in Redis: one server, Sentinel or Cluster. It never retries within a call and never waits longer
// than the contract allows; what it does not know it calls unavailable.
//
// Keys, with every user's and every node's in one slot of a cluster:
//
//	p:{<app>/<user>}   hash, device → generation|epoch|conn|codec|node
//	g:{<app>/<id>}     hash, node → epoch| ; the nodes in the room of a large conversation
//	node:{<id>}        the node's epoch; lives as long as its lease
//	node-last:{<id>}   its last epoch, so that epochs rise even if the clock of Redis steps back
//	canary:{<n>}       random; a new value means that data was lost
//	janitor            the process that clears away what dead nodes left
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"

	"github.com/halley-im/halley/pkg/presence"
)

// What a call may take (presence.Registry).
const (
	lookupTimeout = 100 * time.Millisecond
	callTimeout   = time.Second
)

// Deps is what a Registry needs from outside.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Now ages what is remembered of leases; nil means time.Now.
	Now func() time.Time
}

// Registry is presence in Redis. All methods are safe for concurrent use.
type Registry struct {
	// static
	cfg     Config
	began   time.Time
	log     *slog.Logger
	now     func() time.Time
	client  goredis.UniversalClient
	metrics *metrics
	// Two breakers, for a slow Redis may still serve a registration when look-ups have given up. Leases have none: they are
	// rare, and a node must not lose its own over other calls' failures.
	lookups, writes *gobreaker.CircuitBreaker[struct{}]

	leases      leases
	lastRefresh atomic.Int64 // of leases, UnixNano
	ahead       atomic.Int64 // of the time since began the clock of Redis is, in microseconds; 0: unknown
}

var _ presence.Registry = (*Registry)(nil)

// New makes a Registry; it connects with the first call.
func New(cfg Config, deps Deps) (*Registry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	r := &Registry{
		cfg: cfg, began: time.Now(), log: deps.Log, now: deps.Now, client: goredis.NewUniversalClient(opts),
		metrics: newMetrics(deps.Metrics), leases: leases{nodes: make(map[string]*nodeState)},
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.client.AddHook(counting{r.metrics.commands})
	r.lookups, r.writes = r.breaker("lookup"), r.breaker("write")
	return r, nil
}

// Close ends the connections. No call may be made after it.
func (r *Registry) Close() error { return r.client.Close() }

// errCaller marks a call that the caller gave up: no fault of Redis.
var errCaller = errors.New("given up by the caller")

func (r *Registry) breaker(name string) *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: name, MaxRequests: 1, Timeout: r.cfg.breakerOpen(),
		ReadyToTrip: func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= r.cfg.BreakerFailures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errCaller) },
		OnStateChange: func(name string, from, to gobreaker.State) {
			r.log.Warn("presence: breaker", "calls", name, "from", from.String(), "to", to.String())
		},
	})
}

// call runs f within the time allowed and turns every failure into ErrUnavailable. b may be nil.
func (r *Registry) call(
	ctx context.Context, op string, timeout time.Duration, b *gobreaker.CircuitBreaker[struct{}], f func(context.Context) error,
) error {
	start := time.Now()
	run := func() (struct{}, error) {
		bounded, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		err := f(bounded)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errCaller, err)
		}
		return struct{}{}, err
	}
	var err error
	if b == nil {
		_, err = run()
	} else {
		_, err = b.Execute(run)
	}
	r.metrics.observe(op, time.Since(start), err)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", presence.ErrUnavailable, op, err)
	}
	return nil
}

// exec runs a pipeline. Commands that failed are left to whoever reads their replies. An error that no command carries is that of
// a connection which Redis refused (a wrong password, for example): go-redis leaves the commands as if they had succeeded.
func exec(ctx context.Context, p goredis.Pipeliner) error {
	cmds, err := p.Exec(ctx)
	if slices.ContainsFunc(cmds, func(c goredis.Cmder) bool { return c.Err() != nil }) {
		return nil
	}
	return err
}

// metrics of one registry.
type metrics struct {
	commands    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	unavailable *prometheus.CounterVec
	removed     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_presence_redis_commands_total", Help: "Commands sent to Redis, each of a pipeline counted.",
		}, []string{"command"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "halley_presence_redis_seconds", Help: "Time of calls to Redis.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1},
		}, []string{"op"}),
		unavailable: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_presence_redis_unavailable_total", Help: "Calls that Redis did not answer in time, or that the breaker refused.",
		}, []string{"op"}),
		removed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_presence_redis_removed_total", Help: "Entries of dead nodes that the janitor of this process removed.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.commands, m.seconds, m.unavailable, m.removed)
	}
	return m
}

func (m *metrics) observe(op string, d time.Duration, err error) {
	m.seconds.WithLabelValues(op).Observe(d.Seconds())
	if err != nil {
		m.unavailable.WithLabelValues(op).Inc()
	}
}

// counting counts commands on their way to Redis.
type counting struct{ commands *prometheus.CounterVec }

var _ goredis.Hook = counting{}

// DialHook implements goredis.Hook.
func (c counting) DialHook(next goredis.DialHook) goredis.DialHook { return next }

// ProcessHook implements goredis.Hook.
func (c counting) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		c.commands.WithLabelValues(cmd.Name()).Inc()
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements goredis.Hook.
func (c counting) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		for _, cmd := range cmds {
			c.commands.WithLabelValues(cmd.Name()).Inc()
		}
		return next(ctx, cmds)
	}
}
