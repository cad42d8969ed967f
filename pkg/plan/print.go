package plan

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Write prints the plan for people.
func (r *Result) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s connections, %s messages/s at the peak; %s.\n\n", number(r.Load.Connections), number(r.Load.MessagesPerSecond), r.Policy.words())
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	var rows strings.Builder
	rows.WriteString("tier\tnodes\tleft after the loss\teach\tbound by\tused at the peak\tafter the loss\n")
	for _, tier := range r.Tiers {
		fmt.Fprintf(&rows, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", tier.Name, number(float64(tier.Nodes)), number(float64(tier.Survivors)), tier.Shape, tier.BoundBy,
			tier.used(func(d Need) float64 { return d.Used }), tier.used(func(d Need) float64 { return d.After }))
	}
	if _, err := io.WriteString(t, rows.String()); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nlogs.partitions: %d\nlogs.max_bytes: %d\n\nHow it comes about:\n", r.Partitions, r.LogBytes)
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "  %s = %s\n      %s\n", s.Name, quantity(s.Value, s.Unit), s.Formula)
	}
	if len(r.Assumed) > 0 {
		fmt.Fprintf(&b, "\n%d constants are assumed and not measured; measure them before you buy, 'halley plan --show-constants' says how:\n", len(r.Assumed))
		for _, name := range r.Assumed {
			fmt.Fprintf(&b, "  %s\n", name)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p Policy) words() string {
	what := map[Loss]string{
		LossNone: "nothing may be missing", LossNode: "a node of each tier may be missing", LossZone: fmt.Sprintf("one of %d zones may be missing", p.Zones),
	}[p.Loss]
	return fmt.Sprintf("%s, and then %s %% of each node are still free", what, number(p.Headroom*100))
}

func (t Tier) used(of func(Need) float64) string {
	var parts []string
	for _, d := range t.Needs {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", d.What, of(d)*100))
	}
	return strings.Join(parts, ", ")
}

// String is a shape in words.
func (s Shape) String() string {
	text := fmt.Sprintf("%s cores, %s", number(s.Cores), quantity(s.MemoryBytes, "bytes"))
	if s.DiskBytes > 0 {
		text += ", disk " + quantity(s.DiskBytes, "bytes")
	}
	return text
}

// quantity is a value with its unit; bytes by powers of 1,024.
func quantity(v float64, unit string) string {
	switch unit {
	case "":
		return number(v)
	case "bytes":
		for _, u := range []struct {
			size float64
			name string
		}{{1 << 50, "PiB"}, {tib, "TiB"}, {gib, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if v >= u.size {
				return number(v/u.size) + " " + u.name
			}
		}
	case "1/s":
		return number(v) + "/s"
	}
	return number(v) + " " + unit
}

// number is v to three digits, or to the unit, with commas.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) >= 1e15 {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	if math.Abs(v) < 100 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	text := strconv.FormatFloat(math.Round(math.Abs(v)), 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	if v < 0 {
		text = "-" + text
	}
	return text
}
