package observe

import (
	"math"
	"runtime/metrics"

	"github.com/prometheus/client_golang/prometheus"
)

// pauses shows how long the garbage collector stopped the process, each stop counted: the runtime's own histogram, in fewer buckets.
// What client_golang makes of it has one bucket for each power of ten, which tells 1 ms from 10 ms and nothing between.
type pauses struct{ desc *prometheus.Desc }

const pausesName = "/sched/pauses/total/gc:seconds"

// pauseBounds are in seconds.
var pauseBounds = []float64{
	1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 7.5e-3, 10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 0.1, 0.2, 0.5, 1,
}

func newPauses() pauses {
	return pauses{prometheus.NewDesc("halley_gc_pause_seconds", "Time for which the garbage collector stopped everything, of each stop.", nil, nil)}
}

// Describe implements prometheus.Collector.
func (p pauses) Describe(ch chan<- *prometheus.Desc) { ch <- p.desc }

// Collect implements prometheus.Collector.
func (p pauses) Collect(ch chan<- prometheus.Metric) {
	sample := []metrics.Sample{{Name: pausesName}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return
	}
	count, sum, buckets := gather(sample[0].Value.Float64Histogram(), pauseBounds)
	ch <- prometheus.MustNewConstHistogram(p.desc, count, sum, buckets)
}

// gather counts what lies up to each bound. A bucket of h counts where its upper end does: no pause is told shorter than it was. The
// sum, which the runtime does not keep, is that of the upper ends.
func gather(h *metrics.Float64Histogram, bounds []float64) (count uint64, sum float64, upTo map[float64]uint64) {
	upTo = make(map[float64]uint64, len(bounds))
	for i, n := range h.Counts {
		upper := h.Buckets[i+1]
		if math.IsInf(upper, 1) {
			upper = h.Buckets[i]
		}
		count += n
		sum += float64(n) * upper
		for _, bound := range bounds {
			if h.Buckets[i+1] <= bound {
				upTo[bound] += n
			}
		}
	}
	for _, bound := range bounds {
		upTo[bound] += 0 // A bound under which there is nothing is shown as well.
	}
	return count, sum, upTo
}
