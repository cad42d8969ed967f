package benchmarks

import (
	"context"
	"fmt"
	"io"
)

// RunP2P has pairs talk in their 1:1 conversations. What it shows while it runs goes to out. The report is there whenever
// the error is nil; whether promises were broken is Report.Err.
func RunP2P(ctx context.Context, cfg P2PConfig, out io.Writer) (*Report, error) {
	var bare *Report
	if cfg.Floor.Duration > 0 {
		var err error
		if bare, err = RunFloor(ctx, cfg.Floor, out); err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
	}
	report, err := talk(ctx, pairs(verbP2P, cfg.Config, cfg.Load), goOn, out)
	if err == nil && bare != nil {
		report.Floor = &Floor{Rate: bare.Rate, CPUUsPerMessage: bare.Server.CPUUsPerMessage}
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
	cfg.Connections = cfg.Groups * cfg.Members
	return talk(ctx, plan{
		Verb: verbGroup, Config: cfg.Config, Load: cfg.Load, Group: true, Members: cfg.Members, Senders: cfg.Senders,
	}, goOn, out)
}

// pairs is a run of 1:1 conversations.
func pairs(verb string, cfg Config, load Load) plan {
	return plan{Verb: verb, Config: cfg, Load: load, Members: 2, Senders: 2}
}

// talk is every verb with messages.
func talk(ctx context.Context, p plan, during interval, out io.Writer) (*Report, error) {
	if p.Config.Connections%p.Members != 0 {
		return nil, fmt.Errorf("-n: %d connections do not make conversations of %d", p.Config.Connections, p.Members)
	}
	if err := p.Load.validate(); err != nil {
		return nil, err
	}
	r, err := execute(ctx, p, during, out)
	if err != nil {
		return nil, err
	}
	r.fill()
	return r.report, nil
}

// keepsUp is the share of an open loop's messages that must be acknowledged in the measured interval.
const keepsUp = 0.98

// fill is the verdict.
func (r *run) fill() {
	rep, j := r.report, r.total.Result
	rep.Sent, rep.Acked, rep.Delivered, rep.Unacked, rep.Refused = j.Sent, j.Acked, j.Delivered, j.Unacked, j.Refused
	rep.Lost, rep.Duplicated, rep.Reordered, rep.Gaps = j.Lost, j.Duplicated, j.Reordered, j.Gaps
	rep.Corrupted, rep.Strays = j.Corrupted, j.Strays
	rep.Repaired, rep.Hidden, rep.Redelivered, rep.Resent, rep.Foreign = j.Repaired, j.Hidden, j.Redelivered, j.Resent, j.Foreign
	rep.Refusals, rep.Unanswered = j.Refusals, j.Unanswered
	rep.Away = j.Away
	if j.Hidden > 0 {
		rep.warn("%d deliveries were found by the last comparison only: nothing had told the device that they were missing", j.Hidden)
	}
	if j.Unanswered > 0 {
		rep.warn("%d requests got no answer within %v, neither an ack nor a refusal, and were sent again", j.Unanswered, r.cfg.AnswerTimeout)
	}
	if j.Refused > 0 {
		rep.warn("the server refused %d messages for good: %v", j.Refused, j.Refusals)
	}
	if want := r.report.Config.Rate; want > 0 && rep.Rate < keepsUp*want {
		rep.warn("%.0f of %.0f messages/s were acknowledged: the server does not keep up", rep.Rate, want)
	}
}
