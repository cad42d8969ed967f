package benchmarks

import (
	"context"
	"fmt"
	"io"
	"time"
)

// RunStorm has pairs talk while their connections are cut, all at once, and tells how long each device was not complete. As RunP2P
// else.
func RunStorm(ctx context.Context, cfg StormConfig, out io.Writer) (*Report, error) {
	if cfg.Cuts < 0 {
		return nil, fmt.Errorf("--cuts: %d", cfg.Cuts)
	}
	return talk(ctx, pairs(verbStorm, cfg.Config, cfg.Load), cfg.storm, out)
}

// storm cuts as often as asked for, and waits for all to be complete. With no cut of its own it waits for what others do.
func (cfg StormConfig) storm(ctx context.Context, r *run) error {
	if cfg.Cuts == 0 {
		pause(ctx, cfg.Duration)
	}
	end := time.Now().Add(cfg.Duration)
	for cut := range cfg.Cuts {
		_, err := r.each(ctx, order{Step: stepCut})
		warned := len(r.report.Warnings)
		if err == nil {
			_, err = r.each(ctx, order{Step: stepBack, Times: int64(cut + 1), For: time.Until(end)})
		}
		if err != nil || len(r.report.Warnings) > warned {
			r.report.warn("cut %d of %d: not all came back within --duration", cut+1, cfg.Cuts)
			break // The verdict is given all the same.
		}
	}
	return nil
}
