package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/traffic"
	"github.com/halley-im/halley/pkg/auth"
)

// The verbs.
const (
	verbConn  = "conn"
	verbP2P   = "p2p"
	verbGroup = "group"
	verbStorm = "storm"
	verbFloor = "floor"
)

const (
	// maxConnecting bounds the connects on their way; more of them would only wait in the server's backlog.
	maxConnecting = 256
	dialers       = 16
	tickClosed    = 10 * time.Millisecond
	tickIdle      = 100 * time.Millisecond // Fifty processes that hold idle connections must not wake up for nothing.
	tickOpen      = time.Millisecond
	tokenLifetime = 12 * time.Hour
)

var errLate = errors.New("timed out")

// ErrAbandoned, as the cause of the end of a run's context, ends the run at once and without a verdict: what it ran against is gone.
// Every other end of the context only cuts the measured interval short.
var ErrAbandoned = errors.New("the run was abandoned")

// outlasting is a context that goes on when ctx ends, unless the run is abandoned.
func outlasting(ctx context.Context) (context.Context, context.CancelFunc) {
	last, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); errors.Is(cause, ErrAbandoned) {
			cancel(cause)
		}
	})
	return last, func() { stop(); cancel(nil) }
}

// part is a part of a run: a share of this process, or a process that holds one.
type part interface {
	do(ctx context.Context, o order) (answer, error)
	look(ctx context.Context) (moment, error)
	close()
}

// run is what the verbs share: the parts, what was measured when, and the report.
type run struct {
	plan   plan
	cfg    Config
	plans  []plan
	parts  []part
	report *Report
	watch  *watch

	idle, connected sample // Before the first connect, and after the last.
	from, to        sample // The ends of the measured interval.
	fromAll, toAll  []mark // Of each part.
	total           *tally
}

// interval is what happens while is measured.
type interval func(ctx context.Context, r *run) error

func goOn(ctx context.Context, r *run) error {
	pause(ctx, r.cfg.Duration)
	return nil
}

// execute carries a run out, up to the figures that all verbs have. An interrupt while is measured cuts that short, and the
// verdict is given all the same.
func execute(ctx context.Context, p plan, during interval, out io.Writer) (*run, error) {
	r, err := newRun(p, out)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer r.close()
	if err := r.start(ctx, cancel); err != nil {
		return nil, err
	}
	r.watch = startWatch(r.parts, p.Config, r.report.Started, out)
	defer r.watch.stop()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	if err := r.measure(ctx, during); err != nil {
		return nil, err
	}
	// What was begun is judged, interrupted or not.
	last, end := outlasting(ctx)
	defer end()
	r.watch.enter("settling")
	if _, err := r.each(last, order{Step: stepSettle}); err != nil {
		return nil, err
	}
	r.watch.stop()
	answers, err := r.each(last, order{Step: stepJudge})
	if err != nil {
		return nil, err
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrAbandoned) {
		return nil, cause
	}
	r.finish(answers)
	return r, nil
}

func newRun(p plan, out io.Writer) (*run, error) {
	if err := p.Config.Validate(); err != nil {
		return nil, err
	}
	if len(p.Config.Sources) == 0 {
		p.Config.Sources = loopbackSources(p.Config, localPorts(readLine))
	}
	plans, err := p.split(descriptors())
	if err != nil {
		return nil, err
	}
	cfg, all := p.Config, 0
	for _, part := range plans {
		all += part.Config.Workers
	}
	r := &run{plan: p, cfg: cfg, plans: plans}
	r.report = &Report{
		Verb: p.Verb, Command: cfg.Command, Started: time.Now().UTC(), Environment: Surroundings(),
		Closes: map[string]int64{},
		Config: Settings{
			Connections: cfg.Connections, DurationS: cfg.Duration.Seconds(), WarmupS: cfg.Warmup.Seconds(),
			RampS: cfg.Ramp.Seconds(), Transport: cfg.Transport, Codec: cfg.Codec, Size: cfg.Size, Seed: cfg.Seed,
			Processes: len(plans), Workers: all, Targets: cfg.Targets, Sources: cfg.Sources,
			Outstanding: p.Load.Outstanding, Rate: p.Load.Rate, Zipf: p.Load.Zipf,
		},
	}
	if p.Group {
		s := &r.report.Config
		s.Groups, s.Members, s.Senders = cfg.Connections/p.Members, p.Members, p.Senders
	}
	for _, text := range advice(cfg, readLine) {
		r.report.warn("%s", text)
		_, _ = fmt.Fprintln(out, text) // Now: at the end it is too late to change anything.
	}
	return r, nil
}

// start makes the parts: one in this process, or each in a process of its own. died ends the run.
func (r *run) start(ctx context.Context, died func(error)) error {
	if len(r.plans) == 1 {
		s, err := newShare(r.plans[0])
		if err == nil {
			r.parts = []part{s}
		}
		return err
	}
	for _, p := range r.plans {
		w, err := startProcess(ctx, p, died)
		if err != nil {
			return err
		}
		r.parts = append(r.parts, w)
	}
	return nil
}

func (r *run) close() {
	var wait sync.WaitGroup
	for _, p := range r.parts {
		wait.Go(p.close)
	}
	wait.Wait()
}

// each has every part take a step, and waits for the last of them.
func (r *run) each(ctx context.Context, o order) ([]answer, error) {
	answers, errs := make([]answer, len(r.parts)), make([]error, len(r.parts))
	var wait sync.WaitGroup
	for i, p := range r.parts {
		wait.Go(func() { answers[i], errs[i] = p.do(ctx, o) })
	}
	wait.Wait()
	var warned []string
	for _, a := range answers {
		for _, text := range a.Warnings {
			if !slices.Contains(warned, text) {
				warned = append(warned, text)
			}
		}
	}
	// Fifty parts that say the same need not all be quoted.
	if most := 4; len(warned) > most {
		warned = append(warned[:most], fmt.Sprintf("%d more of that kind", len(warned)-most))
	}
	r.report.Warnings = append(r.report.Warnings, warned...)
	return answers, firstErrors(errs)
}

// firstErrors joins the first few of many.
func firstErrors(errs []error) error {
	var some []error
	for _, err := range errs {
		if err != nil && len(some) < 3 && !slices.ContainsFunc(some, func(e error) bool { return e.Error() == err.Error() }) {
			some = append(some, err)
		}
	}
	return errors.Join(some...)
}

// prefix is how this run's users are named. Runs of one seed share their users, as days of one app do.
func (c Config) prefix() string { return fmt.Sprintf("bench.%d.", c.Seed) }

// token signs the token of one of the run's users.
func (c Config) token(user, device string) (string, error) { return c.tokenCalled("", user, device) }

// tokenCalled signs one with an id of its own; empty: a new one.
func (c Config) tokenCalled(id, user, device string) (string, error) {
	now := time.Now()
	return auth.Issue(c.Key, auth.Claims{
		App: c.App, User: user, Device: device, TokenID: id, Audience: c.Audience, IssuedAt: now, Expires: now.Add(tokenLifetime),
	})
}

// sample reads the tiers; a tier that does not answer is a warning, for the verdict does not depend on it.
func (r *run) sample(ctx context.Context) sample {
	s, err := scrape(context.WithoutCancel(ctx), r.cfg.Admin)
	if err != nil {
		r.report.warn("server figures are incomplete: %v", err)
	}
	return s
}

// connect brings all connections up.
func (r *run) connect(ctx context.Context) error {
	r.idle = r.sample(ctx)
	start, n := time.Now(), float64(r.cfg.Connections)
	r.watch.enter("connecting")
	answers, err := r.each(ctx, order{Step: stepConnect})
	if err != nil {
		return err
	}
	r.connected = r.sample(ctx)
	r.report.ConnectRate = n / time.Since(start).Seconds()
	r.report.Server.CPUUsPerConnect = (r.connected.cpu() - r.idle.cpu()) / n * 1e6
	for _, a := range answers {
		r.report.Generator.HeapBytesPerConnected += a.HeapBytes / n
	}
	return nil
}

// measure is the measured interval.
func (r *run) measure(ctx context.Context, during interval) (err error) {
	steady, end := outlasting(ctx)
	defer end()
	r.watch.enter("warming up")
	if _, err := r.each(steady, order{Step: stepBegin}); err != nil {
		return err
	}
	pause(ctx, r.cfg.Warmup)
	r.watch.enter("measuring")
	if r.from, r.fromAll, err = r.mark(steady); err != nil {
		return err
	}
	if err := during(ctx, r); err != nil {
		return err
	}
	if r.to, r.toAll, err = r.mark(steady); err != nil {
		return err
	}
	_, err = r.each(steady, order{Step: stepHalt})
	return err
}

func (r *run) mark(ctx context.Context) (sample, []mark, error) {
	s := r.sample(ctx)
	answers, err := r.each(ctx, order{Step: stepMark})
	if err != nil {
		return s, nil, err
	}
	marks := make([]mark, len(answers))
	for i, a := range answers {
		marks[i] = *a.Mark
	}
	return s, marks, nil
}

// between is what was acknowledged and delivered in the measured interval.
func (r *run) between() (l traffic.Live) {
	for i := range r.fromAll {
		l.Acked += r.toAll[i].Live.Acked - r.fromAll[i].Live.Acked
		l.Delivered += r.toAll[i].Live.Delivered - r.fromAll[i].Live.Delivered
	}
	return l
}
