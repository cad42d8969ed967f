package trim

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	floor, lag, used *prometheus.GaugeVec
	trimmed          prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := metrics{
		floor: gauge("halley_job_floor", "The block up to which a follower has done all of a log.", "follower", "partition"),
		lag:   gauge("halley_job_lag_blocks", "Blocks of a log that a follower has not done yet.", "follower", "partition"),
		used:  gauge("halley_job_log_used_ratio", "Size of a log as a part of its limit; at 0.9 clients get busy.", "partition"),
		trimmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_trimmed_blocks_total", Help: "Blocks that this node removed from logs."}),
	}
	reg.MustRegister(m.floor, m.lag, m.used, m.trimmed)
	return m
}
