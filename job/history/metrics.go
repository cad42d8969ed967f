package history

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	blocks, records, errors prometheus.Counter
	seconds                 prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		blocks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_history_blocks_total", Help: "Blocks whose records are all in the store."}),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_history_records_total", Help: "Records written to the store, repetitions included."}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_history_store_errors_total", Help: "Writes that the store refused; each is tried again."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_job_history_write_seconds", Help: "How long one write to the store took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
	}
	reg.MustRegister(m.blocks, m.records, m.errors, m.seconds)
	return m
}
