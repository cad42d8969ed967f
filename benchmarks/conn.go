package benchmarks

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/halley-im/halley/benchmarks/generator"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// idler is a device that only holds its session.
type idler struct {
	session generator.Session
	cfg     *Config
	number  int
}

var _ generator.Device = (*idler)(nil)

// Token implements generator.Device.
func (d *idler) Token() (string, error) {
	return d.cfg.token(d.cfg.prefix()+strconv.Itoa(d.number), "bench")
}

// Up implements generator.Device.
func (d *idler) Up(*envelopev1.Hello, bool) {}

// Frame implements generator.Device.
func (d *idler) Frame(*envelopev1.Frame) {}

// Down implements generator.Device.
func (d *idler) Down(bool) {}

// RunConn connects everybody and holds them idle: what a connection costs to make and to keep.
func RunConn(ctx context.Context, cfg ConnConfig, out io.Writer) (*Report, error) {
	r, err := newRun("conn", cfg.Config, tickClosed, out)
	if err != nil {
		return nil, err
	}
	workers := r.fleet.Workers()
	devices := make([]idler, cfg.Connections)
	for i := range devices {
		d := &devices[i]
		d.cfg, d.number = &r.cfg, i
		d.session.Init(workers[i%len(workers)], i, d)
	}
	if err := r.fleet.Start(); err != nil {
		return nil, err
	}
	if err := r.connect(ctx, func(i int) { r.fleet.Connect(&devices[i].session.Line) }, r.fleet.Up); err != nil {
		r.fleet.Stop()
		return nil, err
	}
	stop := progress(cfg.Progress, out, func() string {
		up, _, _ := r.fleet.Up()
		return fmt.Sprintf("holding %d of %d", up, cfg.Connections)
	})
	pause(ctx, cfg.Settle)
	r.from, r.selfFrom = r.sample(ctx), spent()
	pause(ctx, cfg.Duration)
	r.to, r.selfTo = r.sample(ctx), spent()
	stop()
	r.finish(0, 0)
	for i := range devices {
		if devices[i].session.Held() {
			r.report.Connections++
		}
	}
	if len(cfg.Admin) > 0 {
		grown := r.from.rss() - r.idle.rss()
		r.report.Server.RSSBytesPerConnection = per(grown, r.report.Connections)
		if spare := r.idle.spare(); spare > 0.1*grown {
			r.report.warn("the server had %.0f MiB of memory to spare before the first connect, which hides what connections take: "+
				"measure them on a server that was just started, and with enough of them", spare/(1<<20))
		}
	}
	if lost := int64(cfg.Connections) - r.report.Connections; lost > 0 {
		r.report.warn("%d connections were not held throughout: %v", lost, r.report.Closes)
	}
	return r.report, nil
}
