package benchmarks

// finish merges what the parts came to, and fills in what the verbs have in common.
func (r *run) finish(answers []answer) {
	r.total = newTally()
	for _, a := range answers {
		r.total.merge(a.Tally)
	}
	rep, t, got := r.report, r.total, r.between()
	rep.Reconnects, rep.Failures, rep.Closes = t.Reconnects, t.Failures, t.Closes
	rep.Connections = t.Result.Held
	rep.ConnectMs, rep.Generator.LagMs = latency(t.Connect), latency(t.Lag)
	rep.AckMs, rep.DeliverMs, rep.CompleteMs = latency(t.Result.Ack), latency(t.Result.Deliver), latency(t.Result.Complete)
	rep.Curves = map[string][][2]float64{
		"connect": curve(t.Connect), "ack": curve(t.Result.Ack), "deliver": curve(t.Result.Deliver), "complete": curve(t.Result.Complete),
	}
	rep.Series = r.watch.points()
	rep.Seconds = r.toAll[0].Spent.At.Sub(r.fromAll[0].Spent.At).Seconds()
	if rep.Seconds > 0 {
		rep.Rate = float64(got.Acked) / rep.Seconds
		rep.DeliveryRate = float64(got.Delivered) / rep.Seconds
	}
	r.serverFigures(got.Acked, got.Delivered)
	r.generatorFigures(got.Acked)
}

func (r *run) serverFigures(messages, deliveries int64) {
	s := &r.report.Server
	if len(r.cfg.Admin) == 0 {
		r.report.warn("no --admin: what the server spent is not known")
		return
	}
	if !r.idle.sameProcesses(r.from) || !r.from.sameProcesses(r.to) {
		*s = Server{RSSBytes: r.to.rss()}
		r.report.warn("a tier was restarted: what the server spent is not known")
		return
	}
	s.RSSBytes = r.to.rss()
	s.CPUSeconds = r.to.cpu() - r.from.cpu()
	if seconds := r.to.at.Sub(r.from.at).Seconds(); seconds > 0 {
		s.Cores = s.CPUSeconds / seconds
	}
	s.CPUUsPerMessage = per(s.CPUSeconds*1e6, messages)
	s.CPUUsPerDelivery = per(s.CPUSeconds*1e6, deliveries)
	reconnects := r.report.Reconnects
	s.RedisPerReconnect = per(r.to.sum(func(t tierSample) float64 { return t.redis })-r.from.sum(func(t tierSample) float64 { return t.redis }), reconnects)
	s.StorePerReconnect = per(r.to.sum(func(t tierSample) float64 { return t.reads })-r.from.sum(func(t tierSample) float64 { return t.reads }), reconnects)
	s.GCCycles = r.to.sum(func(t tierSample) float64 { return t.gcs }) - r.from.sum(func(t tierSample) float64 { return t.gcs })
	s.Goroutines = r.to.sum(func(t tierSample) float64 { return t.goroutines })
	for i, url := range r.cfg.Admin {
		s.Tiers = append(s.Tiers, Tier{
			URL: url, RSSBefore: r.idle.tiers[i].rss, RSSBytes: r.to.tiers[i].rss,
			CPUSeconds: r.to.tiers[i].cpu - r.from.tiers[i].cpu,
		})
	}
}

func (r *run) generatorFigures(messages int64) {
	g := &r.report.Generator
	busiest := 0.0
	for i := range r.fromAll {
		a, b := r.fromAll[i].Spent, r.toAll[i].Spent
		g.CPUSeconds += b.CPU - a.CPU
		g.RSSBytes += b.RSS
		g.GCCycles += b.GCs - a.GCs
		g.GCPauseMs += float64(b.PauseNs-a.PauseNs) / 1e6
		if seconds := b.At.Sub(a.At).Seconds(); seconds > 0 {
			busiest = max(busiest, (b.CPU-a.CPU)/seconds/float64(r.plans[i].Config.Workers))
		}
	}
	g.CPUUsPerMessage = per(g.CPUSeconds*1e6, messages)
	if r.report.Seconds > 0 {
		g.Cores = g.CPUSeconds / r.report.Seconds
	}
	all, atOnce := loops(r.plans)
	if busiest > bottleneck || g.Cores > bottleneck*float64(atOnce) {
		g.Bottleneck = true
		r.report.warn("the generator is the bottleneck: its %d loops used %.2f cores, the busiest process %.2f for each of its loops; "+
			"give it more --workers or a machine of its own", all, g.Cores, busiest)
	}
	if p99 := g.LagMs.P99; p99 > maxLagMs {
		g.Bottleneck = true
		r.report.warn("the generator came late to its ticks (p99 %.0f ms): the machine is too busy for the latencies to be the server's alone", p99)
	}
}

const (
	// bottleneck is the share of what it may use beyond which the generator is what is measured.
	bottleneck = 0.85
	maxLagMs   = 20
)

func per(total float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return total / float64(n)
}
