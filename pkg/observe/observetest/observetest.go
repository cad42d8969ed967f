// Package observetest lets tests see what an operator would: the log lines and the metrics of a part, and its memory. It never makes any.
package observetest

import (
	"bytes"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Lines keeps what was logged.
type Lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Logger returns a logger whose lines are kept.
func (l *Lines) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Write implements io.Writer.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// Have reports whether one line has all of these words.
func (l *Lines) Have(words ...string) bool { return l.Count(words...) > 0 }

// Count is how many lines have all of these words.
func (l *Lines) Count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.buf.Bytes()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !bytes.Contains(line, []byte(w)) }) {
			n++
		}
	}
	return n
}

// Metric is the value of a metric, summed over its labels where none are given; labels are "name=value". A histogram counts its
// observations.
func Metric(t testing.TB, from prometheus.Gatherer, name string, labels ...string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName()+"="+l.GetValue() == want
				}
				if !found {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// Heap is what is left of the heap when all garbage is collected, bytes.
func Heap() int64 {
	runtime.GC()
	runtime.GC() // The first one only empties pools halfway.
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
