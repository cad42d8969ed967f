package observe

import (
	"math"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestPausesAreNeverToldShorter(t *testing.T) {
	h := &metrics.Float64Histogram{
		Counts: []uint64{1, 2, 4, 8}, Buckets: []float64{0, 0.001, 0.0045, 0.0055, math.Inf(1)},
	}
	count, sum, upTo := gather(h, []float64{0.0005, 0.001, 0.005, 0.01})
	want := map[float64]uint64{0.0005: 0, 0.001: 1, 0.005: 3, 0.01: 7}
	if diff := cmp.Diff(want, upTo); diff != "" {
		t.Error(diff)
	}
	if count != 15 {
		t.Errorf("%d pauses, want 15", count)
	}
	if want := 1*0.001 + 2*0.0045 + 4*0.0055 + 8*0.0055; math.Abs(sum-want) > 1e-9 {
		t.Errorf("sum %v, want %v", sum, want)
	}
}

func TestCollectionsShowAsPauses(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(newPauses())
	seen := func() uint64 {
		families, err := r.Gather()
		if err != nil || len(families) != 1 || families[0].GetName() != "halley_gc_pause_seconds" {
			t.Fatalf("%v: %v", err, families)
		}
		return families[0].GetMetric()[0].GetHistogram().GetSampleCount()
	}
	before := seen()
	runtime.GC()
	if after := seen(); after <= before {
		t.Errorf("a collection left the count of pauses at %d", after)
	}
}
