package benchmarks

import (
	"context"
	"io"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/traffic"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// idler is a device that only holds its session, and hears broadcasts. There may be a million of them on one machine.
type idler struct {
	session generator.Session
	all     *idlers
	number  uint32
	got     uint32 // Messages of the broadcast, a bit for each.
}

var _ generator.Device = (*idler)(nil)

// Token implements generator.Device. Whenever it is made, its id is the same: the ticket of the session is bound to that.
func (d *idler) Token() (string, error) {
	user := d.all.cfg.user(int(d.number))
	return d.all.cfg.tokenCalled(user, user, "bench")
}

// Up implements generator.Device. A token is made again where the session needs another: it would be a third of what a device takes.
func (d *idler) Up(*envelopev1.Hello, bool) { d.session.ForgetToken() }

// Frame implements generator.Device.
func (d *idler) Frame(f *envelopev1.Frame) { d.all.hear(d, f) }

// Down implements generator.Device.
func (d *idler) Down(bool) {}

// idlers is the work of a share whose devices only hold their sessions.
type idlers struct {
	still
	cfg     *Config
	fleet   *generator.Fleet
	devices []idler
	first   int
	ears    []ear // By worker.
}

func newIdlers(p plan, fleet *generator.Fleet) *idlers {
	workers := fleet.Workers()
	w := &idlers{
		cfg: &p.Config, fleet: fleet, first: p.First, devices: make([]idler, p.Config.Connections), ears: make([]ear, len(workers)),
	}
	for i := range w.devices {
		d := &w.devices[i]
		d.all, d.number = w, uint32(p.First+i)
		d.session.Init(workers[i%len(workers)], int(d.number), d)
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
	return hold(ctx, cfg, goOn, out)
}

// RunHeld connects everybody and holds them while something else is done. An error of that ends the run.
func RunHeld(ctx context.Context, cfg ConnConfig, meanwhile func(ctx context.Context, h *Held) error, out io.Writer) (*Report, error) {
	return hold(ctx, cfg, func(ctx context.Context, r *run) error { return meanwhile(ctx, &Held{r}) }, out)
}

func hold(ctx context.Context, cfg ConnConfig, during interval, out io.Writer) (*Report, error) {
	r, err := execute(ctx, plan{Verb: verbConn, Config: cfg.Config, Members: 1}, during, out)
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
