// Package trim makes room in the logs: it removes blocks that every follower that counts has done with, once they are old enough.
// It never removes a block that one of those has not acknowledged. Any number of nodes may do it at once.
package trim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Least is what is kept of a log whatever the pressure: a new owner reads that much to know the client ids of late retries.
const Least = 10 * time.Minute

// Config of trimming.
type Config struct {
	KeepMinutes     int `koanf:"keep_minutes" doc:"How much of each log is kept where there is room, for audits and repairs; at least 10."`
	IntervalMs      int `koanf:"interval_ms" doc:"How often each log is looked at."`
	PressurePercent int `koanf:"pressure_percent" doc:"Above this part of a log's size limit less is kept than keep_minutes, down to 10 minutes."`
}

// Default keeps a day.
func Default() Config { return Config{KeepMinutes: 24 * 60, IntervalMs: 30_000, PressurePercent: 70} }

// Validate reports every field at fault.
func (c Config) Validate() error {
	var errs []error
	if time.Duration(c.KeepMinutes)*time.Minute < Least {
		errs = append(errs, fmt.Errorf("keep_minutes: %d is less than 10", c.KeepMinutes))
	}
	if c.IntervalMs < 10 {
		errs = append(errs, fmt.Errorf("interval_ms: %d is less than 10", c.IntervalMs))
	}
	if c.PressurePercent < 1 || c.PressurePercent > 95 {
		errs = append(errs, fmt.Errorf("pressure_percent: %d is not in 1..95", c.PressurePercent))
	}
	return errors.Join(errs...)
}

// Follower is one whose work must be done before a block may go.
type Follower struct {
	Name string
	*bus.Follower
}

// Trim looks after any number of logs.
type Trim struct {
	cfg Config
	log *slog.Logger
	m   metrics
}

// New prepares it.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Trim {
	return &Trim{cfg: cfg, log: log, m: newMetrics(reg)}
}

// Run looks after one log until ctx ends. What fails is logged and tried again the next time.
func (t *Trim) Run(ctx context.Context, l *bus.Log, followers []Follower) error {
	interval := time.Duration(t.cfg.IntervalMs) * time.Millisecond
	// Spread, so that a node's logs are not all asked for at once.
	next := time.NewTimer(rand.N(interval))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
		}
		if err := t.Pass(ctx, l, followers); err != nil && ctx.Err() == nil {
			if errors.Is(err, bus.ErrIncarnation) {
				return err
			}
			t.log.Warn("log is not trimmed this time", "partition", l.Partition(), "err", err)
		}
		next.Reset(interval)
	}
}

// Pass looks at the log once: it sets the metrics and trims.
func (t *Trim) Pass(ctx context.Context, l *bus.Log, followers []Follower) error {
	p := strconv.Itoa(l.Partition())
	done := ^uint64(0) // what all followers have done with
	for _, f := range followers {
		floor, pending, err := f.Floor(ctx)
		if err != nil {
			return err
		}
		t.m.floor.WithLabelValues(f.Name, p).Set(float64(floor))
		t.m.lag.WithLabelValues(f.Name, p).Set(float64(pending))
		done = min(done, floor)
	}
	state, err := l.State(ctx)
	if err != nil {
		return err
	}
	t.m.used.WithLabelValues(p).Set(float64(state.Bytes) / float64(state.MaxBytes))
	if state.Last == 0 || state.First > state.Last {
		return nil
	}
	below, err := t.below(ctx, l, state, done)
	if err != nil {
		return err
	}
	if below <= state.First {
		return nil
	}
	if err := l.Trim(ctx, below); err != nil {
		return err
	}
	t.m.trimmed.Add(float64(below - state.First))
	t.log.Debug("log is trimmed", "partition", l.Partition(), "below", below)
	return nil
}

// below is the lowest sequence that is kept: nothing that is not done, nothing younger than keep, or under pressure as much of
// that as must go to be below it again, but nothing younger than Least.
func (t *Trim) below(ctx context.Context, l *bus.Log, state bus.LogState, done uint64) (uint64, error) {
	limit := min(done+1, state.Last)
	if limit <= state.First {
		return state.First, nil
	}
	// Ages are measured from the newest block, on the owners' clock, which the blocks carry: a node whose own clock is ahead
	// must not trim what is young.
	newest, err := blockTime(ctx, l, state.Last)
	if err != nil {
		return 0, err
	}
	least, err := firstSince(ctx, l, newest.Add(-Least), state.First, limit)
	if err != nil {
		return 0, err
	}
	below, err := firstSince(ctx, l, newest.Add(-time.Duration(t.cfg.KeepMinutes)*time.Minute), state.First, least)
	if err != nil {
		return 0, err
	}
	if target := state.MaxBytes / 100 * int64(t.cfg.PressurePercent); state.Bytes > target {
		// Blocks are of about one size over a stretch as long as this; the next pass corrects.
		blocks := float64(state.Last - state.First + 1)
		excess := uint64(float64(state.Bytes-target)/float64(state.Bytes)*blocks) + 1
		below = max(below, min(least, state.First+excess))
	}
	return below, nil
}

// firstSince is the first sequence in [lo, hi) whose block is not older than the time; hi if there is none. Times rise with
// sequences.
func firstSince(ctx context.Context, l *bus.Log, since time.Time, lo, hi uint64) (uint64, error) {
	for lo < hi {
		mid := lo + (hi-lo)/2
		at, err := blockTime(ctx, l, mid)
		switch {
		case errors.Is(err, bus.ErrNoMessage): // another node has just trimmed it
			lo = mid + 1
		case err != nil:
			return 0, err
		case at.Before(since):
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, nil
}

func blockTime(ctx context.Context, l *bus.Log, seq uint64) (time.Time, error) {
	m, err := l.Get(ctx, seq)
	if err != nil {
		return time.Time{}, err
	}
	var b logv1.Block
	if err := logblock.Decode(m.Data, &b); err != nil {
		return time.Time{}, fmt.Errorf("block %d: %w", seq, err)
	}
	return time.UnixMicro(b.TimeUs), nil
}
