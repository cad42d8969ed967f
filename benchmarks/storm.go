package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/halley-im/halley/benchmarks/traffic"
)

// RunStorm has pairs talk while their connections are cut, all at once, and tells how long each device was not complete. As RunP2P
// else.
func RunStorm(ctx context.Context, cfg StormConfig, out io.Writer) (*Report, error) {
	if cfg.Connections%2 != 0 {
		return nil, fmt.Errorf("-n: %d connections are not pairs", cfg.Connections)
	}
	if cfg.Cuts < 0 {
		return nil, fmt.Errorf("--cuts: %d", cfg.Cuts)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return talk(ctx, "storm", cfg.Config, cfg.Load, traffic.Config{
		Conversations: cfg.Connections / 2, Members: 2, Senders: 2,
	}, cfg.storm, out)
}

// storm cuts as often as asked for, and waits for all to be complete. With no cut of its own it waits for what others do.
func (cfg StormConfig) storm(ctx context.Context, r *run, all *traffic.Traffic) {
	if cfg.Cuts == 0 {
		pause(ctx, cfg.Duration)
	}
	bounded, cancel := context.WithTimeoutCause(ctx, cfg.Duration, errors.New("not within --duration"))
	defer cancel()
	for cut := range cfg.Cuts {
		all.Cut()
		if err := all.WaitBack(bounded, int64(cut+1)*int64(cfg.Connections)); err != nil {
			r.report.warn("cut %d of %d: %v", cut+1, cfg.Cuts, err)
			return
		}
	}
}
