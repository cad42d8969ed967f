package userlog

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	blocks, retries, touches prometheus.Counter
	notices                  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		blocks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_userlog_blocks_total", Help: "Blocks from which everything that follows for users is written."}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_userlog_retries_total", Help: "Blocks given back because an owner or the store did not take all of it."}),
		touches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_job_userlog_touches_total", Help: "Rows of users' lists whose time of activity was raised."}),
		notices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_job_userlog_notices_total", Help: "Records of users' logs by what the owner answered: written, or refused for good."},
			[]string{"result"}),
	}
	reg.MustRegister(m.blocks, m.retries, m.touches, m.notices)
	return m
}
