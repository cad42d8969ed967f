package benchmarks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// ReadReport reads what --out wrote.
func ReadReport(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Verb == "" {
		return nil, fmt.Errorf("%s is not the report of a run", path)
	}
	return &r, nil
}

// metric is a figure of which one direction is worse.
type metric struct {
	name   string
	of     func(*Report) float64
	higher bool // Higher is better.
}

// metrics are what reports are compared by, under their names in JSON.
var metrics = []metric{
	{"rate", func(r *Report) float64 { return r.Rate }, true},
	{"deliveries_rate", func(r *Report) float64 { return r.DeliveryRate }, true},
	{"connects_per_s", func(r *Report) float64 { return r.ConnectRate }, true},
	{"ack_ms.p50", func(r *Report) float64 { return r.AckMs.P50 }, false},
	{"ack_ms.p99", func(r *Report) float64 { return r.AckMs.P99 }, false},
	{"deliver_ms.p50", func(r *Report) float64 { return r.DeliverMs.P50 }, false},
	{"deliver_ms.p99", func(r *Report) float64 { return r.DeliverMs.P99 }, false},
	{"deliver_ms.p999", func(r *Report) float64 { return r.DeliverMs.P999 }, false},
	{"connect_ms.p99", func(r *Report) float64 { return r.ConnectMs.P99 }, false},
	{"complete_ms.p99", func(r *Report) float64 { return r.CompleteMs.P99 }, false},
	{"server.cpu_us_per_message", func(r *Report) float64 { return r.Server.CPUUsPerMessage }, false},
	{"server.cpu_us_per_delivery", func(r *Report) float64 { return r.Server.CPUUsPerDelivery }, false},
	{"server.cpu_us_per_connect", func(r *Report) float64 { return r.Server.CPUUsPerConnect }, false},
	{"server.rss_bytes_per_connection", func(r *Report) float64 { return r.Server.RSSBytesPerConnection }, false},
	{"server.rss_bytes", func(r *Report) float64 { return r.Server.RSSBytes }, false},
	{"floor.multiple", func(r *Report) float64 {
		if r.Floor == nil {
			return 0
		}
		return r.Floor.Multiple
	}, false},
}

// Thresholds say by how much a figure may be worse, in percent.
type Thresholds struct {
	All float64
	// Only, if not empty, are the figures that count, each with its own.
	Only map[string]float64
}

// of is the threshold of a figure; false where it does not count.
func (t Thresholds) of(name string) (float64, bool) {
	if len(t.Only) == 0 {
		return t.All, true
	}
	limit, ok := t.Only[name]
	return limit, ok
}

func (t Thresholds) validate() error {
	if t.All < 0 {
		return errors.New("--threshold: below 0")
	}
	for name, limit := range t.Only {
		if limit < 0 || !slices.ContainsFunc(metrics, func(m metric) bool { return m.name == name }) {
			names := make([]string, len(metrics))
			for i, m := range metrics {
				names[i] = m.name
			}
			return fmt.Errorf("--limit %s=%g: want one of %s, and a percentage", name, limit, strings.Join(names, ", "))
		}
	}
	return nil
}

// Compare writes what changed from one report to another, and fails where the second is worse by more than is allowed, or
// broke a promise.
func Compare(w io.Writer, before, after *Report, allowed Thresholds) error {
	if err := allowed.validate(); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	put := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")) }
	put("", "before", "after", "change", "")
	var worse []string
	for _, m := range metrics {
		a, b := m.of(before), m.of(after)
		if a == 0 && b == 0 {
			continue
		}
		if a == 0 || b == 0 {
			put(m.name, short(a), short(b), "", "only one of them has it")
			continue
		}
		change := (b - a) / math.Abs(a) * 100
		loss := change
		if m.higher {
			loss = -change
		}
		note := ""
		if limit, counts := allowed.of(m.name); counts && loss > limit {
			note = fmt.Sprintf("worse by more than %g %%", limit)
			worse = append(worse, m.name)
		}
		put(m.name, short(a), short(b), fmt.Sprintf("%+.1f %%", change), note)
	}
	put("promises broken", fmt.Sprint(before.broken()), fmt.Sprint(after.broken()), "", "")
	_ = t.Flush()
	for _, d := range differences(before, after) {
		_, _ = fmt.Fprintln(w, d)
	}
	if err := after.Err(); err != nil {
		return err
	}
	if len(worse) > 0 {
		return fmt.Errorf("worse than allowed: %s", strings.Join(worse, ", "))
	}
	return nil
}

// differences are settings and surroundings in which two runs were not alike.
func differences(a, b *Report) (list []string) {
	if a.Verb != b.Verb {
		list = append(list, fmt.Sprintf("not the same: verb %s, %s", a.Verb, b.Verb))
	}
	for _, pair := range [][2]any{{a.Config, b.Config}, {a.Environment, b.Environment}} {
		left, right := fields(pair[0]), fields(pair[1])
		value := func(rows []Row, name string) string {
			for _, r := range rows {
				if r.Name == name {
					return r.Text
				}
			}
			return "none"
		}
		for _, r := range append(slices.Clone(left), right...) {
			x, y := value(left, r.Name), value(right, r.Name)
			text := fmt.Sprintf("not the same: %s %s, %s", r.Name, x, y)
			if x != y && !slices.Contains(list, text) && r.Name != "load_average" {
				list = append(list, text)
			}
		}
	}
	return list
}
