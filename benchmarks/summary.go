package benchmarks

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Row is one line of a report for people.
type Row struct{ Name, Text string }

// Summary writes the report for people.
func (r *Report) Summary(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, text string) { _, _ = fmt.Fprintf(t, "%s\t%s\n", name, text) }
	c := r.Config
	line("halley bench "+r.Verb, fmt.Sprintf("%d connections, %s, %d bytes, seed %d", c.Connections, c.Transport, c.Size, c.Seed))
	for _, row := range r.rows() {
		line(row.Name, row.Text)
	}
	if r.Sent > 0 || r.Failed() {
		line("verdict", r.verdict())
	}
	for _, warning := range r.Warnings {
		line("warning", warning)
	}
	_ = t.Flush()
}

// verdict is whether promises were kept.
func (r *Report) verdict() string {
	verdict := "every message accounted for"
	switch {
	case r.Failed():
		verdict = "FAILED"
	case r.Sent == 0:
		return fmt.Sprintf("no messages; %d of %d connections were held throughout", r.Connections, r.Config.Connections)
	}
	return fmt.Sprintf("%s: %d lost, %d duplicated, %d reordered, %d gaps, %d corrupted, %d strays",
		verdict, r.Lost, r.Duplicated, r.Reordered, r.Gaps, r.Corrupted, r.Strays)
}

// rows are its figures.
func (r *Report) rows() (rows []Row) {
	line := func(name, format string, args ...any) { rows = append(rows, Row{name, fmt.Sprintf(format, args...)}) }
	line("connections", "%d held throughout, %d reconnects, %.0f connects/s", r.Connections, r.Reconnects, r.ConnectRate)
	quantiles := func(name string, l Latency) {
		if l.Count > 0 {
			line(name, "p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f", l.P50, l.P90, l.P99, l.P999, l.Max)
		}
	}
	quantiles("connect ms", r.ConnectMs)
	quantiles("complete ms", r.CompleteMs)
	if r.Sent > 0 {
		line("messages", "%d sent, %d acked, %d delivered, %d unacked, %d refused", r.Sent, r.Acked, r.Delivered, r.Unacked, r.Refused)
		line("rate", "%.0f messages/s, %.0f deliveries/s over %.1f s", r.Rate, r.DeliveryRate, r.Seconds)
		quantiles("ack ms", r.AckMs)
		quantiles("deliver ms", r.DeliverMs)
		line("beside", "%d repaired (%d hidden), %d redelivered, %d resent", r.Repaired, r.Hidden, r.Redelivered, r.Resent)
	}
	for _, p := range r.Phases {
		line("phase "+p.Name, "%d s: %.0f messages/s, %.0f deliveries/s, worst second's p99 %.2f ms", p.Seconds, p.Acked, p.Delivered, p.DeliverP99)
	}
	for _, t := range r.Search {
		if t.Why == "" {
			line("tried", "%.0f messages/s: held, p99 %.1f ms", t.Rate, t.DeliverP99Ms)
		} else {
			line("tried", "%.0f messages/s: %s", t.Rate, t.Why)
		}
	}
	if s := r.Server; len(s.Tiers) > 0 {
		line("server", "%.2f cores, %.0f MiB", s.Cores, s.RSSBytes/(1<<20))
		line("server CPU µs", "%.1f per message, %.1f per delivery, %.0f per connect",
			s.CPUUsPerMessage, s.CPUUsPerDelivery, s.CPUUsPerConnect)
		if r.CompleteMs.Count > 0 {
			line("for each reconnect", "%.2f commands to Redis, %.2f reads of the store", s.RedisPerReconnect, s.StorePerReconnect)
		}
		if s.RSSBytesPerConnection != 0 {
			line("server memory", "%.0f bytes per connection", s.RSSBytesPerConnection)
		}
	}
	if f := r.Floor; f != nil {
		line("floor", "%.0f messages/s, %.1f µs each: the server is %.2f times the floor", f.Rate, f.CPUUsPerMessage, f.Multiple)
	}
	g := r.Generator
	line("generator", "%.2f cores, %.1f µs per message, %.0f MiB, %.0f heap bytes per connection",
		g.Cores, g.CPUUsPerMessage, g.RSSBytes/(1<<20), g.HeapBytesPerConnected)
	return rows
}
