package observe

import (
	"maps"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// What an old kernel gets has the names and kinds of what a new one gets, and values.
func TestAnOldKernelGetsTheProcessesFigures(t *testing.T) {
	gather := func(c prometheus.Collector) map[string]float64 {
		r := prometheus.NewRegistry()
		r.MustRegister(c)
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			m := f.GetMetric()[0]
			out[f.GetName()+" "+f.GetType().String()+" "+f.GetHelp()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		return out
	}
	all, beside := gather(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})), gather(newProcessBeside())
	if len(beside) != 5 {
		t.Fatalf("%d figures: %v", len(beside), slices.Sorted(maps.Keys(beside)))
	}
	for name, value := range beside {
		if _, ok := all[name]; !ok || value <= 0 {
			t.Errorf("%s: %v, and client_golang's is %v", name, value, all[name])
		}
	}
}
