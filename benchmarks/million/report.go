package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks"
)

// Report is what a run came to. Bytes and CPU of a kind are of all its processes; memory of the kernel stands apart from all of them.
type Report struct {
	Started               time.Time `json:"started"`
	Command               string    `json:"command"`
	Commit                string    `json:"commit"`
	Failure               string    `json:"failure,omitempty"` // Why the run ended early.
	Connections           int       `json:"connections"`       // Idle ones that there were to be.
	Talkers               int       `json:"talkers"`
	Comets                int       `json:"comets"`
	Transport             string    `json:"transport"`
	NATS                  int       `json:"nats_servers"`
	DescriptorsPerProcess int       `json:"descriptors_per_process"`
	Steps                 []string  `json:"steps"`
	Warnings              []string  `json:"warnings,omitempty"`

	Flat       []Flat       `json:"flat,omitempty"`
	Memory     []PerProcess `json:"memory,omitempty"`
	Groups     *GroupsMade  `json:"groups,omitempty"`
	EmptyCores float64      `json:"empty_comets_cores"`
	Connected  Connected    `json:"connected"`
	P2P        *Step        `json:"p2p,omitempty"`
	Idle       *Idle        `json:"idle,omitempty"`
	Broadcast  *Broadcast   `json:"broadcast,omitempty"`
	Storm      *Step        `json:"storm,omitempty"`
	One        *One         `json:"one,omitempty"`
	Costs      *Costs       `json:"costs,omitempty"`

	Phases []Phase              `json:"phases"`
	Held   []*benchmarks.Report `json:"held,omitempty"`
}

// Phase is a part of the run.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Peak    Peak    `json:"peak"`
}

// Flat is the cost of a message with so many comets; the CPU that everything takes without any message is not in it, but in WithIdleUs.
type Flat struct {
	Comets     int                `json:"comets"`
	Messages   int64              `json:"messages"`
	AllUs      float64            `json:"cpu_us_per_message"`
	WithIdleUs float64            `json:"cpu_us_per_message_with_idle"`
	CPUUs      map[string]float64 `json:"cpu_us_per_message_by_kind"`
	IdleCores  float64            `json:"idle_cores"`
	IdleComets float64            `json:"idle_cores_of_comets"`
	Report     *benchmarks.Report `json:"report"`
}

// PerProcess is what a connection takes in a comet with so many.
type PerProcess struct {
	Connections int     `json:"connections"`
	LiveBytes   float64 `json:"live_bytes_per_connection"` // Heap and stacks, after a collection.
	RSSBytes    float64 `json:"rss_bytes_per_connection"`
	KernelBytes float64 `json:"kernel_bytes_per_connection"` // Both ends.
}

// GroupsMade is how the groups of a broadcast came to be.
type GroupsMade struct {
	Groups      int     `json:"groups"`
	Members     int     `json:"members"`
	JoinSeconds float64 `json:"join_seconds"`
	ToldSeconds float64 `json:"told_seconds"` // Until users' logs had it too.
	Spent       Spent   `json:"spent"`
}

// Connected is what connecting cost and what connections take, each divided by their number.
type Connected struct {
	Connections    int64              `json:"connections"` // As comets count them.
	Seconds        float64            `json:"seconds"`
	PerSecond      float64            `json:"per_second"`
	CPUUs          map[string]float64 `json:"cpu_us_per_connect"`
	RSSBytes       map[string]float64 `json:"rss_bytes_per_connection"`
	CometRSSBytes  int64              `json:"comet_rss_bytes"` // In all.
	CometHeapBytes float64            `json:"comet_heap_bytes_per_connection"`
	KernelBytes    float64            `json:"kernel_bytes_per_connection"` // Both ends.
	SlabBytes      map[string]float64 `json:"kernel_bytes_per_connection_by_slab"`
	Kernel         Kernel             `json:"kernel"`
	RedisCommands  float64            `json:"redis_commands_per_connect"`
	StoreReads     float64            `json:"store_reads_per_connect"`
	Pauses         Pauses             `json:"pauses"`
}

// Step is a run of the generator beside the idle ones.
type Step struct {
	Report *benchmarks.Report `json:"report"`
	Spent  Spent              `json:"spent"` // Of a storm its connects included.
	Pauses Pauses             `json:"pauses"`
	Peak   Peak               `json:"peak"`
}

// Idle is what holding costs.
type Idle struct {
	Connections    int64   `json:"connections"`
	CometCores     float64 `json:"comets_cores"`
	EmptyCores     float64 `json:"empty_comets_cores"` // Of as many comets without a connection.
	LogicCores     float64 `json:"logic_cores"`
	RedisCores     float64 `json:"redis_cores"`
	PingsPerSecond float64 `json:"pings_per_second"`
	Spent          Spent   `json:"spent"`
	Pauses         Pauses  `json:"pauses"`
}

// Broadcast is what a message to everybody came to.
type Broadcast struct {
	Groups              int                `json:"groups"`
	Messages            int                `json:"messages"`
	Devices             int64              `json:"devices"`
	Complete            int64              `json:"complete"` // Devices that have every message.
	Pushed              int64              `json:"pushed"`
	Pulled              int64              `json:"pulled"`
	Redelivered         int64              `json:"redelivered"`
	Strays              int64              `json:"strays"`
	Resyncs             int64              `json:"resyncs"`
	AckedSeconds        []float64          `json:"acked_seconds"` // Until each message was acknowledged in all groups.
	LastSeconds         []float64          `json:"last_seconds"`  // Until the last device had it.
	DeliverMs           benchmarks.Latency `json:"deliver_ms"`
	CometUsPerDelivery  float64            `json:"comets_cpu_us_per_delivery"`
	ServerUsPerDelivery float64            `json:"server_cpu_us_per_delivery"`
	Spent               Spent              `json:"spent"`
	Pauses              Pauses             `json:"pauses"`

	have int64
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// write writes the report, and a page for each run of the generator.
func (m *million) write() error {
	if err := os.MkdirAll(m.o.out, 0o755); err != nil {
		return err
	}
	base := filepath.Join(m.o.out, m.o.name)
	if m.report.Failure != "" { // One that came to its end must not be lost to it.
		base += "-failed"
	}
	files := map[string]func(io.Writer) error{
		base + ".json": func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", " ")
			return e.Encode(m.report)
		},
		base + ".md": func(w io.Writer) error {
			_, err := io.WriteString(w, m.report.markdown())
			return err
		},
	}
	if m.report.Costs != nil {
		files[base+".yaml"] = m.report.Costs.write
	}
	for name, step := range map[string]*Step{stepP2P: m.report.P2P, stepStorm: m.report.Storm} {
		if step != nil {
			files[base+"-"+name+".html"] = step.Report.WriteHTML
		}
	}
	for path, write := range files {
		if err := benchmarks.WriteFile(path, write); err != nil {
			return err
		}
	}
	m.say("report: %s.md and .json", base)
	return nil
}

// markdown is the report for people.
func (r *Report) markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# %d connections in %d comets, %s\n", r.Connections, r.Comets, r.Started.Format(time.DateOnly))
	line("    %s\n", r.Command)
	if e := r.environment(); e != nil {
		line("%d cores (%s), %d MiB, Linux %s, %s, commit %s; load average before %.1f. %s, %d NATS server(s), one Redis, one Cassandra, one logic, "+
			"one job, and the generator, all on this machine; at most %d descriptors in a process.\n", e.Cores, e.CPU, e.MemoryMiB, e.Kernel, e.Go, r.Commit,
			e.LoadAverage, r.Transport, r.NATS, r.DescriptorsPerProcess)
	}
	if r.Failure != "" {
		line("**The run did not come to its end:** %s\n", r.Failure)
	}
	for _, w := range r.Warnings {
		line("Warning: %s\n", w)
	}
	line("| what | figure |")
	line("|---|---|")
	row := func(name, format string, args ...any) { line("| %s | "+format+" |", append([]any{name}, args...)...) }
	r.rows(row)
	line("\n## Phases\n")
	line("| phase | seconds | most RSS: comets, generator, Redis, Cassandra, logic (MiB) | kernel slabs (MiB) | least memory available (MiB) |")
	line("|---|---|---|---|---|")
	mib := func(n int64) int64 { return n >> 20 }
	for _, p := range r.Phases {
		m := p.Peak.RSSBytes
		line("| %s | %.0f | %d, %d, %d, %d, %d | %d | %d |", p.Name, p.Seconds, mib(m[kindComet]), mib(m[kindGenerator]), mib(m[kindRedis]), mib(m[kindCassandra]),
			mib(m[kindLogic]), mib(p.Peak.SlabBytes), mib(p.Peak.LeastAvailable))
	}
	return b.String()
}

func (r *Report) environment() *benchmarks.Environment {
	for _, held := range r.Held {
		return &held.Environment
	}
	if r.P2P != nil {
		return &r.P2P.Report.Environment
	}
	if len(r.Flat) > 0 {
		return &r.Flat[0].Report.Environment
	}
	if r.Costs != nil {
		return &r.Costs.Groups.Report.Environment
	}
	return nil
}

// rows are its figures.
func (r *Report) rows(row func(name, format string, args ...any)) {
	pauses := func(name string, p Pauses) {
		if p.Count > 0 {
			row("GC pauses of comets, "+name, "%d stops; p99 below %.3g ms, longest below %.3g ms, %d above 5 ms", p.Count, p.P99Ms, p.MaxMs, p.Above5Ms)
		}
	}
	for _, f := range r.Flat {
		row(fmt.Sprintf("CPU per message, %d comets", f.Comets), "%.0f µs (comets %.0f, logic %.0f, job %.0f, NATS %.0f, Redis %.0f, Cassandra %.0f) over %d messages; "+
			"%.0f µs with what the idle processes take (%.2f cores, comets %.2f)", f.AllUs, f.CPUUs[kindComet], f.CPUUs[kindLogic], f.CPUUs[kindJob],
			f.CPUUs[kindNATS], f.CPUUs[kindRedis], f.CPUUs[kindCassandra], f.Messages, f.WithIdleUs, f.IdleCores, f.IdleComets)
	}
	if r.Costs != nil {
		r.Costs.rows(row)
	}
	for _, p := range r.Memory {
		row(fmt.Sprintf("memory per connection, %d in one comet", p.Connections), "%.0f B live, %.0f B of RSS; kernel %.0f B for both ends", p.LiveBytes, p.RSSBytes, p.KernelBytes)
	}
	if g := r.Groups; g != nil {
		row("groups of the broadcast", "%d with %d members in all, made in %.0f s, in users' logs after %.0f s", g.Groups, g.Members, g.JoinSeconds, g.ToldSeconds)
	}
	if o := r.One; o != nil {
		row("one comet, in a virtual machine", "**%d** authenticated connections; %.0f B live each, **%.0f B of RSS**, %.0f MiB in all; kernel %.0f B for both ends; the generator's verdict: %s",
			o.Connections, o.LiveBytes, o.RSSBytes, o.RSSTotal/(1<<20), o.KernelBytes, map[bool]string{true: "all held", false: "not all held"}[o.Held])
	}
	if c := r.Connected; c.Connections > 0 {
		row("connected", "**%d** authenticated, in %.0f s (%.0f/s)", c.Connections, c.Seconds, c.PerSecond)
		row("CPU per connect", "comets %.0f µs, logic %.0f, Redis %.0f, NATS %.0f, Cassandra %.0f; generator %.0f", c.CPUUs[kindComet], c.CPUUs[kindLogic],
			c.CPUUs[kindRedis], c.CPUUs[kindNATS], c.CPUUs[kindCassandra], c.CPUUs[kindGenerator])
		row("for each connect", "%.2f commands to Redis, %.2f reads of the store", c.RedisCommands, c.StoreReads)
		row("memory per connection", "comets %.0f B of RSS (%.0f B of heap); Redis %.0f B; generator %.0f B", c.RSSBytes[kindComet], c.CometHeapBytes,
			c.RSSBytes[kindRedis], c.RSSBytes[kindGenerator])
		row("kernel memory per connection", "%.0f B for both ends (%s); %d MiB of socket buffers, %d tracked by conntrack", c.KernelBytes, bySize(c.SlabBytes),
			c.Kernel.TCPMemoryBytes>>20, max(0, c.Kernel.TrackedSockets))
		pauses("while connecting", c.Pauses)
	}
	if s := r.P2P; s != nil {
		p := s.Report
		row(fmt.Sprintf("%d talk, all others idle", r.Talkers), "%.0f messages/s; delivered p50 %.1f ms, **p99 %.1f ms**, max %.1f ms; %s", p.Rate, p.DeliverMs.P50, p.DeliverMs.P99,
			p.DeliverMs.Max, verdict(p))
		row("CPU meanwhile", "%.2f cores: comets %.2f, logic %.2f, job %.2f, NATS %.2f, Redis %.2f, Cassandra %.2f; generator %.2f; other programs of this machine %.2f, stolen %.2f",
			s.Spent.cores(serverKinds...), s.Spent.cores(kindComet), s.Spent.cores(kindLogic), s.Spent.cores(kindJob), s.Spent.cores(kindNATS), s.Spent.cores(kindRedis),
			s.Spent.cores(kindCassandra), s.Spent.cores(kindGenerator), s.Spent.cores(kindOthers), s.Spent.cores(kindStolen))
		pauses("while they talk", s.Pauses)
	}
	if i := r.Idle; i != nil {
		row("idle, at the shipped heartbeat", "%d connections: **%.1f %% of a core** for all comets, %.1f %% without a connection; %.0f pings/s; logic %.1f %%, Redis %.1f %%",
			i.Connections, 100*i.CometCores, 100*i.EmptyCores, i.PingsPerSecond, 100*i.LogicCores, 100*i.RedisCores)
		pauses("idle", i.Pauses)
	}
	if b := r.Broadcast; b != nil {
		row("broadcast", "%d messages to %d devices, members of %d groups: %d have all of it (%d records pushed, %d pulled, %d redelivered, %d strays)",
			b.Messages, b.Devices, b.Groups, b.Complete, b.Pushed, b.Pulled, b.Redelivered, b.Strays)
		row("until the last device had it", "%s s; of all deliveries p50 %.0f ms, p99 %.0f ms", seconds(b.LastSeconds), b.DeliverMs.P50, b.DeliverMs.P99)
		row("CPU per delivery of it", "comets %.1f µs, the server as a whole %.1f µs", b.CometUsPerDelivery, b.ServerUsPerDelivery)
		pauses("in the broadcast", b.Pauses)
	}
	if s := r.Storm; s != nil {
		p := s.Report
		row("storm", "%d reconnects; complete again: p50 %.1f s, p99 %.1f s, the last %.1f s; %d not; %s", p.Reconnects, p.CompleteMs.P50/1000, p.CompleteMs.P99/1000,
			p.CompleteMs.Max/1000, p.Away, verdict(p))
		row("for each reconnect", "%.2f commands to Redis, %.2f reads of the store", p.Server.RedisPerReconnect, p.Server.StorePerReconnect)
		row("most memory in the storm", "comets %d MiB, logic %d MiB, Redis %d MiB", s.Peak.RSSBytes[kindComet]>>20, s.Peak.RSSBytes[kindLogic]>>20, s.Peak.RSSBytes[kindRedis]>>20)
		pauses("in the storm", s.Pauses)
	}
}

func seconds(list []float64) string {
	text := make([]string, len(list))
	for i, s := range list {
		text[i] = fmt.Sprintf("%.1f", s)
	}
	return strings.Join(text, ", ")
}

// bySize lists what takes most, first.
func bySize(bytes map[string]float64) string {
	names := make([]string, 0, len(bytes))
	for name, n := range bytes {
		if n >= 1 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return int(bytes[b] - bytes[a]) })
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %.0f", name, bytes[name])
	}
	return strings.Join(names, ", ")
}
