package partition

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are shared by all partitions of a process.
type Metrics struct {
	acked        prometheus.Counter
	duplicates   prometheus.Counter
	refused      *prometheus.CounterVec
	acks         prometheus.Histogram
	commits      prometheus.Histogram
	blockRecords prometheus.Histogram
	takeovers    prometheus.Counter
	takeoverTime prometheus.Histogram
	handoverTime prometheus.Histogram
	owned        prometheus.Gauge
	deposed      prometheus.Counter
	deliveries   prometheus.Counter
	expanded     prometheus.Counter
	dropped      prometheus.Counter
	lookupFailed prometheus.Counter
	tailBytes    prometheus.Gauge
	tailRecords  prometheus.Gauge
	logReads     prometheus.Counter
	searches     prometheus.Counter
	full         prometheus.Gauge
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		acked:      prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_records_acked_total", Help: "Records committed to the log and acknowledged."}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_retries_total", Help: "Writes answered with the answer to an earlier transmission."}),
		refused:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "halley_logic_refused_total", Help: "Requests refused, by code."}, []string{"code"}),
		acks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_logic_ack_seconds", Help: "From the arrival of the oldest request of a block until its acks left; one for each block.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_logic_commit_seconds", Help: "Time to append one block to the log, on a quorum of disks.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}),
		blockRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_logic_block_records", Help: "Records of one block.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		takeovers: prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_takeovers_total", Help: "Partitions taken over."}),
		takeoverTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_logic_takeover_seconds", Help: "From the lease to the accepted fence.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		handoverTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_logic_handover_seconds", Help: "Planned hand-overs by the clock of the old owner: from when it is told to go until its successor serves.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		owned:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "halley_logic_partitions_owned", Help: "Partitions that this process serves."}),
		deposed:      prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_deposed_total", Help: "Times another owner's fence stopped a partition here."}),
		deliveries:   prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_deliveries_total", Help: "Frames sent to devices' nodes, acks not counted."}),
		expanded:     prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_expansions_total", Help: "Frames of large conversations sent to nodes, which expand them."}),
		dropped:      prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_delivery_blocks_dropped_total", Help: "Blocks not delivered because the delivery stage was full; nodes resync."}),
		lookupFailed: prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_presence_failures_total", Help: "Presence look-ups that failed."}),
		tailBytes:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "halley_logic_tail_bytes", Help: "Bytes of records held in memory that history has not stored yet."}),
		tailRecords:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "halley_logic_tail_records", Help: "Records, with the names of who joined and left, that history has not stored yet."}),
		logReads:     prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_log_reads_total", Help: "Blocks read again from the log, for records that history has not stored and memory does not hold."}),
		searches:     prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_logic_retry_searches_total", Help: "Pages of history read to judge retries of writes that memory does not know."}),
		full:         prometheus.NewGauge(prometheus.GaugeOpts{Name: "halley_logic_partitions_full", Help: "Partitions whose senders are told that the server is busy, for the log waits for history."}),
	}
	reg.MustRegister(m.acked, m.duplicates, m.refused, m.acks, m.commits, m.blockRecords, m.takeovers, m.takeoverTime, m.handoverTime, m.owned,
		m.deposed, m.deliveries, m.expanded, m.dropped, m.lookupFailed, m.tailBytes, m.tailRecords, m.logReads, m.searches, m.full)
	return m
}

// HandedOver counts a partition that a successor serves now.
func (m *Metrics) HandedOver(took time.Duration) { m.handoverTime.Observe(took.Seconds()) }
