// Package job makes the logs readable: its followers write history and the lists of users, and then let the logs be trimmed. Any
// number of nodes may run at once. It never gives a record its number, and imports neither logic nor comet.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job/history"
	"github.com/halley-im/halley/job/trim"
	"github.com/halley-im/halley/job/userlog"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/store"
)

// Config of a job node.
type Config struct {
	History history.Config `koanf:"history" doc:"The follower that writes history."`
	Userlog userlog.Config `koanf:"userlog" doc:"The follower that writes users' own logs and lists."`
	Trim    trim.Config    `koanf:"trim" doc:"What is kept of the logs."`
}

// Default is right for serve and for a cluster.
func Default() Config {
	return Config{History: history.Default(), Userlog: userlog.Default(), Trim: trim.Default()}
}

// Validate reports every field at fault.
func (c Config) Validate() error {
	var errs []error
	for _, section := range []struct {
		name string
		err  error
	}{{"history", c.History.Validate()}, {"userlog", c.Userlog.Validate()}, {"trim", c.Trim.Validate()}} {
		if section.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", section.name, section.err))
		}
	}
	return errors.Join(errs...)
}

// Deps of a job node.
type Deps struct {
	Conn       *bus.Conn
	Partitions int
	Store      store.Store
	Log        *slog.Logger
	Metrics    prometheus.Registerer
}

// Job is a job node.
type Job struct {
	deps     Deps
	history  *history.History
	userlog  *userlog.Userlog
	trim     *trim.Trim
	poisoned *prometheus.GaugeVec
	restarts prometheus.Counter
}

// New prepares it.
func New(cfg Config, deps Deps) *Job {
	j := &Job{
		deps:    deps,
		history: history.New(cfg.History, history.Deps{Store: deps.Store, Log: deps.Log, Metrics: deps.Metrics}),
		userlog: userlog.New(cfg.Userlog, userlog.Deps{
			Conn: deps.Conn, Partitions: deps.Partitions, Store: deps.Store, Log: deps.Log, Metrics: deps.Metrics,
		}),
		trim: trim.New(cfg.Trim, deps.Log, deps.Metrics),
		poisoned: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "halley_job_poisoned",
			Help: "1 where a follower stopped at a block that it can never pass. A person must look; the log fills up meanwhile.",
		}, []string{"follower", "partition"}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_restarts_total", Help: "Times that following a partition broke and began again.",
		}),
	}
	deps.Metrics.MustRegister(j.poisoned, j.restarts)
	return j
}

// Run follows all logs until ctx ends. A partition that cannot be followed is tried again, and does not disturb the others.
func (j *Job) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for p := range j.deps.Partitions {
		wg.Go(func() { j.keepFollowing(ctx, p) })
	}
	wg.Wait()
	return nil
}

// Pauses between tries to follow a partition.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
	// After this long without a break the next pause is the first again.
	steady = time.Minute
)

func (j *Job) keepFollowing(ctx context.Context, p int) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		start := time.Now()
		err := j.follow(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > steady {
			pause = firstPause
		}
		j.restarts.Inc()
		j.deps.Log.Error("following a partition broke off", "partition", p, "again_in", pause, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow runs the followers of one partition until ctx ends or one of them breaks off. A poisoned one stops alone.
func (j *Job) follow(ctx context.Context, p int) error {
	l, err := bus.OpenLog(ctx, j.deps.Conn, p)
	if err != nil {
		return err
	}
	defer l.Close()
	hist, err := j.history.Open(ctx, l)
	if err != nil {
		return err
	}
	defer hist.Close()
	user, err := j.userlog.Open(ctx, l)
	if err != nil {
		return err
	}
	defer user.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	run := func(name string, fn func() error) {
		gauge := j.poisoned.WithLabelValues(name, strconv.Itoa(p))
		gauge.Set(0)
		wg.Go(func() {
			err := fn()
			if errors.Is(err, history.ErrPoisoned) || errors.Is(err, userlog.ErrPoisoned) {
				gauge.Set(1)
				return // it was logged where the block is known
			}
			cancel(err)
		})
	}
	run(history.Name, func() error { return j.history.Run(ctx, p, hist) })
	run(userlog.Name, func() error { return j.userlog.Run(ctx, p, user) })
	wg.Go(func() {
		cancel(j.trim.Run(ctx, l, []trim.Follower{{Name: history.Name, Follower: hist}, {Name: userlog.Name, Follower: user}}))
	})
	wg.Wait()
	return context.Cause(ctx)
}
