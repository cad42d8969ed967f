package benchmarks

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
)

// Report is the result of a run, as it stands in --out.
type Report struct {
	Verb    string    `json:"verb"`
	Command string    `json:"command,omitempty"`
	Started time.Time `json:"started"`
	Config  Settings  `json:"config"`

	Sent       int64 `json:"sent"`
	Acked      int64 `json:"acked"`
	Delivered  int64 `json:"delivered"` // (message, device of another member) pairs.
	Unacked    int64 `json:"unacked"`   // Without an answer at the end of the wait.
	Lost       int64 `json:"lost"`      // (acknowledged message, device) pairs that are missing.
	Duplicated int64 `json:"duplicated"`
	Reordered  int64 `json:"reordered"`
	Gaps       int64 `json:"gaps"`      // (device, seq) pairs missing below the head, after the device asked for them.
	Corrupted  int64 `json:"corrupted"` // Records whose text or sender is not what was sent.
	Strays     int64 `json:"strays"`    // Frames that were none of the device's business, or that nobody can read.

	Repaired    int64            `json:"repaired"`    // Deliveries pulled by the device, for the push did not come.
	Hidden      int64            `json:"hidden"`      // Of these, found by the last comparison only: the server had not told.
	Redelivered int64            `json:"redelivered"` // Pushes of a seq that the device had; it drops them.
	Resent      int64            `json:"resent"`
	Unanswered  int64            `json:"unanswered"` // Requests that got no answer at all in time; they were sent again.
	Foreign     int64            `json:"foreign"`    // Records that other programs wrote meanwhile.
	Refused     int64            `json:"refused"`    // Messages that the server refused for good.
	Refusals    map[string]int64 `json:"refusals,omitempty"`

	Connections int64            `json:"connections"` // Authenticated, and held throughout.
	Reconnects  int64            `json:"reconnects"`
	Failures    int64            `json:"connect_failures"`
	Closes      map[string]int64 `json:"closes,omitempty"`
	ConnectRate float64          `json:"connects_per_s"`

	Seconds      float64 `json:"seconds"`         // The measured interval.
	Rate         float64 `json:"rate"`            // Acknowledged messages per second in it.
	DeliveryRate float64 `json:"deliveries_rate"` // Deliveries per second in it.

	AckMs     Latency `json:"ack_ms"`
	DeliverMs Latency `json:"deliver_ms"`
	ConnectMs Latency `json:"connect_ms"`
	// From the loss of a connection until the device was back and had everything.
	CompleteMs Latency `json:"complete_ms"`
	Away       int64   `json:"away"` // Devices of which that is not so at the end.

	Server      Server      `json:"server"`
	Floor       *Floor      `json:"floor,omitempty"`
	Generator   Generator   `json:"generator"`
	Environment Environment `json:"environment"`
	Warnings    []string    `json:"warnings,omitempty"`

	Phases []PhaseFigures `json:"phases,omitempty"` // Of a scenario.
	Search []Trial        `json:"search,omitempty"` // The rates that --find-max tried; the report is of the highest that held.
	// Curves are the distributions of ack, deliver, connect and complete: percentiles, and milliseconds.
	Curves map[string][][2]float64 `json:"curves,omitempty"`
	Series []Point                 `json:"series,omitempty"` // What was seen each second.
}

// Point is one second of a run.
type Point struct {
	AtS         float64 `json:"at_s"` // Since its start.
	Phase       string  `json:"phase"`
	Connections int64   `json:"connections"`
	Acked       float64 `json:"acked_per_s"`
	Delivered   float64 `json:"delivered_per_s"`
	InFlight    int64   `json:"in_flight"`
	DeliverP50  float64 `json:"deliver_p50_ms"` // Of what was delivered in this second.
	DeliverP99  float64 `json:"deliver_p99_ms"`
	DeliverMax  float64 `json:"deliver_max_ms"`
}

// Settings are the settings that a run can be repeated with.
type Settings struct {
	Connections int      `json:"connections"`
	DurationS   float64  `json:"duration_s"`
	WarmupS     float64  `json:"warmup_s"`
	RampS       float64  `json:"ramp_s"`
	Transport   string   `json:"transport"`
	Codec       string   `json:"codec"`
	Size        int      `json:"size_bytes"`
	Seed        uint64   `json:"seed"`
	Processes   int      `json:"processes"`
	Workers     int      `json:"workers"` // Loops, over all processes.
	Targets     []string `json:"targets"`
	Sources     []string `json:"sources,omitempty"`
	Outstanding int      `json:"outstanding,omitempty"`
	Rate        float64  `json:"rate,omitempty"`
	Zipf        float64  `json:"zipf,omitempty"`
	Groups      int      `json:"groups,omitempty"`
	Members     int      `json:"members,omitempty"`
	Senders     int      `json:"senders,omitempty"`
}

// Latency are quantiles in milliseconds.
type Latency struct {
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
	Mean  float64 `json:"mean"`
	Count int64   `json:"count"`
}

// Server is what all tiers together spent, by their own /metrics.
type Server struct {
	RSSBytes              float64 `json:"rss_bytes"` // At the end of the measured interval.
	RSSBytesPerConnection float64 `json:"rss_bytes_per_connection"`
	CPUUsPerMessage       float64 `json:"cpu_us_per_message"`
	CPUUsPerConnect       float64 `json:"cpu_us_per_connect"`
	CPUUsPerDelivery      float64 `json:"cpu_us_per_delivery"`
	CPUSeconds            float64 `json:"cpu_seconds"`                            // Over the measured interval.
	Cores                 float64 `json:"cores"`                                  // CPU seconds per second of it.
	RedisPerReconnect     float64 `json:"redis_commands_per_reconnect,omitempty"` // All traffic of the interval is in these two.
	StorePerReconnect     float64 `json:"store_reads_per_reconnect,omitempty"`
	GCCycles              float64 `json:"gc_cycles"`
	Goroutines            float64 `json:"goroutines"`
	Tiers                 []Tier  `json:"tiers,omitempty"`
}

// Tier is one process of the server.
type Tier struct {
	URL        string  `json:"url"`
	RSSBefore  float64 `json:"rss_bytes_before"` // Before the first connect.
	RSSBytes   float64 `json:"rss_bytes"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

// Floor is the bare echo server, measured in the same run.
type Floor struct {
	Rate            float64 `json:"rate"`
	CPUUsPerMessage float64 `json:"cpu_us_per_message"`
	Multiple        float64 `json:"multiple"` // The server's CPU per message divided by the floor's.
}

// Generator is what the measuring itself cost.
type Generator struct {
	CPUSeconds            float64 `json:"cpu_seconds"`
	Cores                 float64 `json:"cores"`
	CPUUsPerMessage       float64 `json:"cpu_us_per_message"`
	RSSBytes              float64 `json:"rss_bytes"`
	HeapBytesPerConnected float64 `json:"heap_bytes_per_connection"`
	GCCycles              uint32  `json:"gc_cycles"`
	GCPauseMs             float64 `json:"gc_pause_ms"`
	LagMs                 Latency `json:"lag_ms"`     // How late the loops came to their ticks.
	Bottleneck            bool    `json:"bottleneck"` // It was what limited the run, or part of it.
}

// LatencyOf reads the quantiles.
func LatencyOf(h generator.Histogram) Latency { return latency(h) }

func latency(h generator.Histogram) Latency {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return Latency{
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)),
		P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()), Mean: h.Mean() / 1000, Count: h.TotalCount(),
	}
}

// curve is the distribution, point by point: a percentile and its milliseconds, as far as there are enough values for it.
func curve(h generator.Histogram) (points [][2]float64) {
	for _, q := range curvePercentiles {
		if float64(h.TotalCount())*(1-q/100) >= 1 {
			points = append(points, [2]float64{q, float64(h.ValueAtQuantile(q)) / 1000})
		}
	}
	return points
}

// curvePercentiles are the percentiles that are kept for a plot.
var curvePercentiles = []float64{
	0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.5, 99.7, 99.9, 99.95, 99.97, 99.99, 99.995, 99.999,
}

// Failed reports whether a promise was broken, however fast it went.
func (r *Report) Failed() bool { return r.broken() != 0 }

// broken counts promises that were not kept.
func (r *Report) broken() int64 {
	return r.Lost + r.Duplicated + r.Reordered + r.Gaps + r.Corrupted + r.Strays
}

// FailedError is a run that broke promises.
type FailedError struct{ Report *Report }

func (e *FailedError) Error() string {
	r := e.Report
	return fmt.Sprintf("promises broken: %d lost, %d duplicated, %d reordered, %d gaps, %d corrupted, %d strays",
		r.Lost, r.Duplicated, r.Reordered, r.Gaps, r.Corrupted, r.Strays)
}

// Err is a *FailedError where the run failed; also a rate of its search that failed is an error.
func (r *Report) Err() error {
	if r.Failed() {
		return &FailedError{r}
	}
	for _, t := range r.Search {
		if t.Broken > 0 {
			return fmt.Errorf("at %.0f messages/s %s", t.Rate, t.Why)
		}
	}
	return nil
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteFile has a report written to a file by one of its methods.
func WriteFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}
