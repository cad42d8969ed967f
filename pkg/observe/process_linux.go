package observe

import (
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/procfs"
)

const openFiles = "/proc/self/fd"

// newProcess collects the process's figures. Before Linux 6.2, whose /proc says how many files are open, client_golang counts them by listing
// them all: with a million connections each scrape would read a million names. There process_open_fds is left out; comets count
// their connections themselves.
func newProcess() prometheus.Collector {
	if s, err := os.Stat(openFiles); err == nil && s.Size() == 0 {
		return newProcessBeside()
	}
	return collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
}

// processBeside is what client_golang's collector has of the process beside its open files, under the same names.
type processBeside struct{ cpu, start, rss, virtual, maxFiles *prometheus.Desc }

func newProcessBeside() *processBeside {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &processBeside{
		cpu:      desc("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
		start:    desc("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
		rss:      desc("process_resident_memory_bytes", "Resident memory size in bytes."),
		virtual:  desc("process_virtual_memory_bytes", "Virtual memory size in bytes."),
		maxFiles: desc("process_max_fds", "Maximum number of open file descriptors."),
	}
}

// Describe implements prometheus.Collector.
func (p *processBeside) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.cpu, p.start, p.rss, p.virtual, p.maxFiles} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out.
func (p *processBeside) Collect(ch chan<- prometheus.Metric) {
	self, err := procfs.Self()
	if err != nil {
		return
	}
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64) {
		ch <- prometheus.MustNewConstMetric(d, kind, v)
	}
	if s, err := self.Stat(); err == nil {
		send(p.cpu, prometheus.CounterValue, s.CPUTime())
		send(p.rss, prometheus.GaugeValue, float64(s.ResidentMemory()))
		send(p.virtual, prometheus.GaugeValue, float64(s.VirtualMemory()))
		if start, err := s.StartTime(); err == nil {
			send(p.start, prometheus.GaugeValue, start)
		}
	}
	if l, err := self.Limits(); err == nil {
		send(p.maxFiles, prometheus.GaugeValue, float64(l.OpenFiles))
	}
}
