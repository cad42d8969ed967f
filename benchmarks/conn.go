package benchmarks

import (
	"context"
	"io"
	"strconv"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/traffic"
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

// idlers is the work of a share whose devices only hold their sessions.
type idlers struct {
	still
	fleet   *generator.Fleet
	devices []idler
}

func newIdlers(p plan, fleet *generator.Fleet) *idlers {
	workers := fleet.Workers()
	w := &idlers{fleet: fleet, devices: make([]idler, p.Config.Connections)}
	for i := range w.devices {
		d := &w.devices[i]
		d.cfg, d.number = &p.Config, p.First+i
		d.session.Init(workers[i%len(workers)], d.number, d)
	}
	return w
}

// Connect implements work.
func (w *idlers) Connect(i int) { w.fleet.Connect(&w.devices[i].session.Line) }

// Up implements work.
func (w *idlers) Up() (up, ended int64, last error) { return w.fleet.Up() }

// Judge implements work.
func (w *idlers) Judge() *traffic.Result {
	r := traffic.NewResult()
	for i := range w.devices {
		if w.devices[i].session.Held() {
			r.Held++
		}
	}
	return r
}

// RunConn connects everybody and holds them idle: what a connection costs to make and to keep.
func RunConn(ctx context.Context, cfg ConnConfig, out io.Writer) (*Report, error) {
	cfg.Warmup = cfg.Settle // Idle connections settle before they are measured.
	r, err := execute(ctx, plan{Verb: verbConn, Config: cfg.Config, Members: 1}, goOn, out)
	if err != nil {
		return nil, err
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
