package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/halley-im/halley/benchmarks"
)

// Costs are what a plan reckons with, of each kind of process in µs of CPU, at full load: what the machine bears is what is asked for. NATS is
// three servers together, with three copies of each log.
type Costs struct {
	Connects    int                `json:"connects"`
	PerConnect  map[string]float64 `json:"cpu_us_per_connect"` // Without what the processes take when nothing happens.
	PerMessage  map[string]float64 `json:"cpu_us_per_message"`
	PerDelivery map[string]float64 `json:"cpu_us_per_delivery"`
	Pairs       []Full             `json:"pairs"`
	Groups      Full               `json:"groups"`
}

// Full is what a message costs, its deliveries included, when every conversation always has so many under way.
type Full struct {
	Outstanding int                `json:"outstanding"`
	Deliveries  int                `json:"deliveries"` // Of each message.
	CPUUs       map[string]float64 `json:"cpu_us_per_message"`
	Report      *benchmarks.Report `json:"report"`
}

// The load: in pairs a message has one delivery, in groups as many as there are other members.
const (
	costComets   = 2
	costConnects = 10_000
	costDevices  = 2000
	costMembers  = 20
)

func (m *million) costs(ctx context.Context) error {
	defer m.phase("cost of a connect, a message and a delivery")()
	if err := m.cluster.grow(ctx, costComets); err != nil {
		return err
	}
	targets := m.cluster.targets(0, costComets)
	costs := &Costs{Connects: costConnects}
	// The first to come find services that have just started, whose code is not compiled yet.
	for seed := range uint64(2) {
		us, err := m.connects(ctx, m.bench(seedCosts+seed, costConnects, targets))
		if err != nil {
			return err
		}
		costs.PerConnect = us
	}
	var errs error
	seed := uint64(seedCosts)
	full := func(members, outstanding int) (Full, error) {
		seed += 100 // Users of its own.
		c := m.bench(seed, costDevices, targets)
		c.Warmup, c.Duration, c.Wait = 20*time.Second, flatDuration, 2*time.Minute // Conversations begin meanwhile.
		f, err := m.full(ctx, c, members, outstanding)
		if err == nil {
			errs = errors.Join(errs, f.Report.Err())
		}
		return f, err
	}
	if _, err := full(2, 4); err != nil { // As above.
		return err
	}
	for _, k := range []int{1, 4} {
		f, err := full(2, k)
		if err != nil {
			return err
		}
		costs.Pairs = append(costs.Pairs, f)
	}
	var err error
	if costs.Groups, err = full(costMembers, 1); err != nil {
		return err
	}
	costs.split(costs.Pairs[0].CPUUs, costs.Groups.CPUUs)
	m.report.Costs = costs
	return errs
}

// connects is what each of the connects takes.
func (m *million) connects(ctx context.Context, c benchmarks.Config) (us map[string]float64, err error) {
	if err := sleep(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	begin := readUsage()
	if err := sleep(ctx, baseDuration); err != nil {
		return nil, err
	}
	base := between(begin, readUsage())
	begin = readUsage()
	_, err = benchmarks.RunHeld(ctx, benchmarks.ConnConfig{Config: c}, func(context.Context, *benchmarks.Held) error {
		us = between(begin, readUsage()).each(float64(c.Connections), base)
		return nil
	}, io.Discard)
	return us, err
}

// full has conversations of so many members, one of whom writes, or either of two.
func (m *million) full(ctx context.Context, c benchmarks.Config, members, outstanding int) (Full, error) {
	f := Full{Outstanding: outstanding, Deliveries: members - 1}
	load := benchmarks.Load{Outstanding: outstanding}
	r, spent, err := m.spend(ctx, func() (*benchmarks.Report, error) {
		if members == 2 {
			return benchmarks.RunP2P(ctx, benchmarks.P2PConfig{Config: c, Load: load}, io.Discard)
		}
		return benchmarks.RunGroup(ctx, benchmarks.GroupConfig{
			Config: c, Load: load, Groups: c.Connections / members, Members: members, Senders: 1,
		}, io.Discard)
	})
	if err != nil {
		return f, fmt.Errorf("conversations of %d: %w", members, err)
	}
	f.Report, f.CPUUs = r, spent.each(r.Rate*spent.Seconds, Spent{Seconds: 1})
	m.say("conversations of %d, %d outstanding: %.0f messages/s, %.0f µs of CPU each", members, outstanding, r.Rate, f.all())
	return f, nil
}

func (f Full) all() (us float64) {
	for _, kind := range serverKinds {
		us += f.CPUUs[kind]
	}
	return us
}

// each is what one of n took, in µs, beside what is taken without any.
func (s Spent) each(n float64, base Spent) map[string]float64 {
	us := map[string]float64{}
	for _, kind := range append([]string{kindCompiler}, serverKinds...) {
		us[kind] = max(0, s.CPU[kind]-base.CPU[kind]/base.Seconds*s.Seconds) / max(1, n) * 1e6
	}
	return us
}

// split tells a message from its deliveries: it had one in pairs, and costMembers-1 in groups.
func (c *Costs) split(inPairs, inGroups map[string]float64) {
	c.PerMessage, c.PerDelivery = map[string]float64{}, map[string]float64{}
	for _, kind := range serverKinds {
		each := max(0, inGroups[kind]-inPairs[kind]) / (costMembers - 2)
		c.PerDelivery[kind], c.PerMessage[kind] = each, max(0, inPairs[kind]-each)
	}
}

// constants are those of a plan, by their names.
func (c *Costs) constants() map[string]float64 {
	of := map[string]float64{}
	for name, list := range map[string]struct {
		us    map[string]float64
		kinds []string
	}{
		"connect":  {c.PerConnect, []string{kindComet, kindLogic, kindNATS, kindRedis, kindCassandra}},
		"message":  {c.PerMessage, []string{kindComet, kindLogic, kindJob, kindNATS, kindRedis, kindCassandra}},
		"delivery": {c.PerDelivery, []string{kindComet, kindLogic, kindNATS, kindRedis}},
	} {
		for _, kind := range list.kinds {
			of[kind+"_cpu_us_per_"+name] = list.us[kind]
		}
	}
	return of
}

// write writes the constants as `halley plan --constants` reads them.
func (c *Costs) write(w io.Writer) error {
	values := c.constants()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if _, err := fmt.Fprintf(w, "%s: %s\n", name, strconv.FormatFloat(values[name], 'f', 1, 64)); err != nil {
			return err
		}
	}
	return nil
}

// rows are its figures.
func (c *Costs) rows(row func(name, format string, args ...any)) {
	for _, one := range []struct {
		name string
		us   map[string]float64
	}{{"a connect", c.PerConnect}, {"a message", c.PerMessage}, {"a delivery", c.PerDelivery}} {
		row("CPU of "+one.name, "comets %.1f µs, logic %.1f, job %.1f, NATS %.1f, Redis %.1f, Cassandra %.1f", one.us[kindComet], one.us[kindLogic],
			one.us[kindJob], one.us[kindNATS], one.us[kindRedis], one.us[kindCassandra])
	}
	for _, f := range append(slices.Clone(c.Pairs), c.Groups) {
		us, what := f.CPUUs, fmt.Sprintf("%d pairs", costDevices/2)
		if f.Deliveries > 1 {
			what = fmt.Sprintf("%d groups of %d", costDevices/costMembers, costMembers)
		}
		row(fmt.Sprintf("%s, K = %d", what, f.Outstanding), "%.0f messages/s, delivered p50 %.1f ms, p99 %.1f ms; CPU of a message **%.1f µs** "+
			"(comets %.1f, logic %.1f, job %.1f, NATS %.1f, Redis %.1f, Cassandra %.1f); compiling Cassandra's code %.1f beside", f.Report.Rate, f.Report.DeliverMs.P50, f.Report.DeliverMs.P99,
			f.all(), us[kindComet], us[kindLogic], us[kindJob], us[kindNATS], us[kindRedis], us[kindCassandra], us[kindCompiler])
	}
}
