package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/halley-im/halley/benchmarks/traffic"
)

// RunP2P has pairs talk in their 1:1 conversations. What it shows while it runs goes to out. The report is there whenever
// the error is nil; whether promises were broken is Report.Err.
func RunP2P(ctx context.Context, cfg P2PConfig, out io.Writer) (*Report, error) {
	if cfg.Connections%2 != 0 {
		return nil, fmt.Errorf("-n: %d connections are not pairs", cfg.Connections)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	var floor *Report
	if cfg.Floor.Duration > 0 {
		var err error
		if floor, err = RunFloor(ctx, cfg.Floor, out); err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
	}
	report, err := talk(ctx, "p2p", cfg.Config, cfg.Load, traffic.Config{
		Conversations: cfg.Connections / 2, Members: 2, Senders: 2,
	}, goOn, out)
	if err == nil && floor != nil {
		report.Floor = &Floor{Rate: floor.Rate, CPUUsPerMessage: floor.Server.CPUUsPerMessage}
		if f := report.Floor; f.CPUUsPerMessage > 0 {
			f.Multiple = report.Server.CPUUsPerMessage / f.CPUUsPerMessage
		}
	}
	return report, err
}

// RunGroup makes groups, and has their senders post to them. As RunP2P else.
func RunGroup(ctx context.Context, cfg GroupConfig, out io.Writer) (*Report, error) {
	if cfg.Groups < 1 || cfg.Members < 2 || cfg.Senders < 1 || cfg.Senders > cfg.Members {
		return nil, fmt.Errorf("%d groups of %d members with %d senders: at least 1, 2 and 1, and no more senders than members",
			cfg.Groups, cfg.Members, cfg.Senders)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Connections = cfg.Groups * cfg.Members
	return talk(ctx, "group", cfg.Config, cfg.Load, traffic.Config{
		Group: true, Conversations: cfg.Groups, Members: cfg.Members, Senders: cfg.Senders,
	}, goOn, out)
}

// interval is what happens while is measured.
type interval func(ctx context.Context, r *run, all *traffic.Traffic)

func goOn(ctx context.Context, r *run, _ *traffic.Traffic) { pause(ctx, r.cfg.Duration) }

// talk is every verb with messages.
func talk(ctx context.Context, verb string, cfg Config, load Load, t traffic.Config, during interval, out io.Writer) (*Report, error) {
	tick := tickClosed
	if load.Rate > 0 {
		tick = tickOpen
	}
	r, err := newRun(verb, cfg, tick, out)
	if err != nil {
		return nil, err
	}
	t.App, t.Prefix, t.Token, t.Seed, t.Size, t.Tick = cfg.App, cfg.prefix(), cfg.token, cfg.Seed, cfg.Size, tick
	t.Outstanding, t.Rate, t.AnswerTimeout = load.Outstanding, load.Rate, cfg.AnswerTimeout
	s := &r.report.Config
	s.Outstanding, s.Rate = load.Outstanding, load.Rate
	if t.Group {
		s.Groups, s.Members, s.Senders = t.Conversations, t.Members, t.Senders
	}
	all, err := traffic.New(t, r.fleet)
	if err != nil {
		return nil, err
	}
	if err := r.fleet.Start(); err != nil {
		return nil, err
	}
	if err := r.prepare(ctx, all); err != nil {
		r.fleet.Stop()
		return nil, err
	}
	before, after := r.measure(ctx, all, during)
	r.settle(context.WithoutCancel(ctx), all)
	r.finish(after.Acked-before.Acked, after.Delivered-before.Delivered)
	r.fill(all.Judge())
	return r.report, nil
}

// prepare connects everybody and brings every conversation to where messages can be sent.
func (r *run) prepare(ctx context.Context, all *traffic.Traffic) error {
	if err := r.connect(ctx, all.Connect, r.fleet.Up); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.ConnectTimeout, errors.New("timed out"))
	defer cancel()
	return all.WaitSettled(ctx)
}

// measure is the measured interval. An interrupt cuts it short; the verdict is given all the same.
func (r *run) measure(ctx context.Context, all *traffic.Traffic, during interval) (before, after traffic.Live) {
	last, at := all.Live(), time.Now()
	defer progress(r.cfg.Progress, r.out, func() string {
		now := all.Live()
		seconds := time.Since(at).Seconds()
		text := fmt.Sprintf("%.0f acked/s  %.0f delivered/s  %d in flight  %d refused", float64(now.Acked-last.Acked)/seconds,
			float64(now.Delivered-last.Delivered)/seconds, now.InFlight, now.Refused)
		last, at = now, time.Now()
		return text
	})()
	all.Begin(r.cfg.Warmup)
	pause(ctx, r.cfg.Warmup)
	r.from, r.selfFrom, before = r.sample(ctx), spent(), all.Live()
	during(ctx, r, all)
	r.to, r.selfTo, after = r.sample(ctx), spent(), all.Live()
	all.Halt()
	return before, after
}

// settle waits, bounded, for what is in flight, and has every device compare its head with the server's.
func (r *run) settle(ctx context.Context, all *traffic.Traffic) {
	defer progress(r.cfg.Progress, r.out, func() string {
		l := all.Live()
		return fmt.Sprintf("waiting: %d in flight, %d devices compared", l.InFlight, l.Reconciled)
	})()
	for _, step := range []struct {
		start func()
		wait  func(context.Context) error
	}{{func() {}, all.WaitQuiet}, {all.Reconcile, all.WaitReconciled}} {
		bounded, cancel := context.WithTimeoutCause(ctx, r.cfg.Wait, fmt.Errorf("not within %v", r.cfg.Wait))
		step.start()
		if err := step.wait(bounded); err != nil {
			r.report.warn("%v", err)
		}
		cancel()
	}
	bounded, cancel := context.WithTimeout(ctx, r.cfg.Wait)
	defer cancel()
	all.CountHeld(bounded)
}

func (r *run) fill(j *traffic.Result) {
	rep := r.report
	rep.Sent, rep.Acked, rep.Delivered, rep.Unacked, rep.Refused = j.Sent, j.Acked, j.Delivered, j.Unacked, j.Refused
	rep.Lost, rep.Duplicated, rep.Reordered, rep.Gaps = j.Lost, j.Duplicated, j.Reordered, j.Gaps
	rep.Corrupted, rep.Strays = j.Corrupted, j.Strays
	rep.Repaired, rep.Hidden, rep.Redelivered, rep.Resent, rep.Foreign = j.Repaired, j.Hidden, j.Redelivered, j.Resent, j.Foreign
	rep.Refusals, rep.Unanswered = j.Refusals, j.Unanswered
	rep.Connections = j.Held
	rep.AckMs, rep.DeliverMs, rep.CompleteMs, rep.Away = latency(j.Ack), latency(j.Deliver), latency(j.Complete), j.Away
	if j.Hidden > 0 {
		rep.warn("%d deliveries were found by the last comparison only: nothing had told the device that they were missing", j.Hidden)
	}
	if j.Unanswered > 0 {
		rep.warn("%d requests got no answer within %v, neither an ack nor a refusal, and were sent again", j.Unanswered, r.cfg.AnswerTimeout)
	}
	if j.Refused > 0 {
		rep.warn("the server refused %d messages for good: %v", j.Refused, j.Refusals)
	}
	if want := r.report.Config.Rate; want > 0 && rep.Rate < 0.98*want {
		rep.warn("%.0f of %.0f messages/s were acknowledged: the server does not keep up", rep.Rate, want)
	}
}
