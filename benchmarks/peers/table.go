package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks"
)

// result is one run.
type result struct {
	Command     string                 `json:"command"`
	Started     time.Time              `json:"started"`
	Seconds     float64                `json:"seconds"`
	Commit      string                 `json:"commit,omitempty"`
	Environment benchmarks.Environment `json:"environment"`
	ServerCore  int                    `json:"server_core"`
	Shared      bool                   `json:"shared_core,omitempty"` // The generator runs on the same core.
	Loops       int                    `json:"generator_loops"`
	TextBytes   int                    `json:"text_bytes"`
	WarmupS     float64                `json:"warmup_s"`
	DuringS     float64                `json:"during_s"`
	RestsS      float64                `json:"rests_s"` // What connections rest before memory is read.
	Scenarios   []scenario             `json:"scenarios"`
	Rows        []*row                 `json:"rows"`
}

// cost is what of a scenario is compared: memory for those who are idle, else processor time.
func (f figures) cost(k kind) float64 {
	switch k {
	case idle:
		return f.BytesPerConnection
	case pairs:
		return f.CPUUsPerMessage
	}
	return f.CPUUsPerDelivery
}

// compare tells every cost as a multiple of the floor's.
func (r *result) compare() {
	at := slices.IndexFunc(r.Rows, func(o *row) bool { return o.Name == floorName })
	if at < 0 {
		return
	}
	for _, o := range r.Rows {
		for _, s := range r.Scenarios {
			f, bare := o.Scenarios[s.Name], r.Rows[at].Scenarios[s.Name]
			if f == nil || bare == nil || f.Error != "" || bare.Error != "" {
				continue
			}
			if s.Kind == idle && bare.CPUUsPerConnect > 0 {
				f.ConnectOfFloor = f.CPUUsPerConnect / bare.CPUUsPerConnect
			}
			if c := bare.cost(s.Kind); c > 0 {
				f.OfFloor = f.cost(s.Kind) / c
			}
		}
	}
}

// writeJSON is for programs.
func (r *result) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeMarkdown is for people.
func (r *result) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	e := r.Environment
	fmt.Fprintf(&b, "# Halley beside its peers, %s\n\n", r.Started.Format(time.DateOnly))
	fmt.Fprintf(&b, "`%s`, commit %s, %.0f s. %d × %s, %d MiB, Linux %s, load average before the run %.2f.\n", r.Command,
		cmp.Or(r.Commit, "unknown"), r.Seconds, e.Cores, cmp.Or(e.CPU, e.Arch), e.MemoryMiB, e.Kernel, e.LoadAverage)
	pinned := "the generator on the others"
	if r.Shared {
		pinned = "the generator on the same one, for there is no other"
	}
	fmt.Fprintf(&b, "The server runs on core %d, %s. Texts of %d bytes; %g s of warm-up, %g s measured; idle connections rest %g s. ",
		r.ServerCore, pinned, r.TextBytes, r.WarmupS, r.DuringS, r.RestsS)
	b.WriteString("CPU is user and system time of the server's processes, memory their resident set; × is a multiple of the floor's.\n\n")
	b.WriteString("| server | ")
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "%s | ", s.head())
	}
	b.WriteString("ack | stored | order | history | sent twice | login |\n|---|")
	b.WriteString(strings.Repeat("---|", len(r.Scenarios)+6) + "\n")
	for _, o := range r.Rows {
		o.line(&b, r.Scenarios)
	}
	b.WriteString("\nPer message and delivery: CPU, rate, p50 / p99 of the time from sending to delivery in this closed loop, and how busy server and " +
		"generator were in cores. A cell is empty where the server has no such way in, or where the row above says the same.\n")
	notes := r.notes()
	if !r.faulty() {
		notes = append(notes, "In what was measured nothing was missing, repeated, out of order or left without the ack that the server promises.")
	}
	b.WriteString("\n")
	for _, n := range notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s scenario) head() string {
	switch s.Kind {
	case idle:
		way := "WebSocket"
		if s.TCP {
			way = "TCP"
		}
		return fmt.Sprintf("%s idle %s connections", thousands(s.Connections), way)
	case pairs:
		return fmt.Sprintf("%s pairs, K = %d", thousands(s.Connections/2), s.Outstanding)
	}
	return "one to " + thousands(s.Connections)
}

func thousands(n int) string {
	if n < 0 {
		return "−" + thousands(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// line is a row of the table.
func (o *row) line(b *strings.Builder, scenarios []scenario) {
	fmt.Fprintf(b, "| %s", o.Title)
	if o.Version != "" {
		fmt.Fprintf(b, " %s", o.Version)
	}
	b.WriteString(" | ")
	for i, s := range scenarios {
		switch f := o.Scenarios[s.Name]; {
		case o.Error != "" && i == 0:
			b.WriteString("**not measured**, see below")
		case f != nil && f.Error != "":
			b.WriteString("**failed**, see below")
		case f != nil:
			b.WriteString(f.cell(s, o.Name != floorName))
		}
		b.WriteString(" | ")
	}
	p := o.Promises
	fmt.Fprintf(b, "%s |\n", strings.Join([]string{p.Ack, p.Stored, p.Order, p.History, p.Dedup, p.Login}, " | "))
}

// cell is a scenario in the table.
func (f figures) cell(s scenario, multiple bool) string {
	times := func(of float64) string {
		if !multiple || of <= 0 {
			return ""
		}
		return fmt.Sprintf(" (%.1f×)", of)
	}
	if s.Kind == idle {
		return fmt.Sprintf("%s B%s; connect %.0f µs%s, %s/s", thousands(int(f.BytesPerConnection)), times(f.OfFloor),
			f.CPUUsPerConnect, times(f.ConnectOfFloor), thousands(int(f.ConnectsPerS)))
	}
	rate := f.MessagesPerS
	if s.Kind == room {
		rate = f.DeliveriesPerS
	}
	text := fmt.Sprintf("**%.1f µs**%s; %s/s; %.1f / %.1f ms; %.2f + %.2f cores", f.cost(s.Kind), times(f.OfFloor), thousands(int(rate)),
		f.DeliverMs.P50, f.DeliverMs.P99, f.ServerCores, f.GeneratorCores)
	if f.Oracle != nil && f.Oracle.faults() > 0 {
		text += "; **" + f.Oracle.String() + "**"
	}
	return text
}

// bottleneck is the share of a generator's loops beyond which they limit the rate. What a message costs the server is still its own.
const bottleneck = 0.85

// limited are the cells whose rate is the generator's.
func (r *result) limited() (cells []string) {
	for _, o := range r.Rows {
		for _, s := range r.Scenarios {
			if f := o.Scenarios[s.Name]; f != nil && f.GeneratorCores > bottleneck*float64(r.Loops) {
				cells = append(cells, o.Name+" "+s.Name)
			}
		}
	}
	return cells
}

// notes are what a reader of the table must know beside it.
func (r *result) notes() (notes []string) {
	if cells := r.limited(); len(cells) > 0 {
		notes = append(notes, "The generator had no more to give, so that rate and latency are not the server's alone: "+strings.Join(cells, ", ")+".")
	}
	for _, o := range r.Rows {
		if o.Error != "" {
			notes = append(notes, o.Title+": "+oneLine(o.Error))
		}
		for _, s := range r.Scenarios {
			f := o.Scenarios[s.Name]
			switch {
			case f == nil:
			case f.Error != "":
				notes = append(notes, fmt.Sprintf("%s, %s: %s", o.Title, s.head(), oneLine(f.Error)))
			case f.Oracle != nil && f.Oracle.faults() > 0:
				notes = append(notes, fmt.Sprintf("%s, %s: of %d messages, %s.", o.Title, s.head(), f.Oracle.Sent, f.Oracle))
			}
		}
	}
	return notes
}

// faulty reports whether an oracle had something to say.
func (r *result) faulty() bool {
	for _, o := range r.Rows {
		for _, f := range o.Scenarios {
			if f.Oracle != nil && f.Oracle.faults() > 0 {
				return true
			}
		}
	}
	return false
}

// oneLine keeps what others wrote from breaking the table.
func oneLine(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", "/")
}
