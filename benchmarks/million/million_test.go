package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/pkg/plan"
)

func mustParse(t *testing.T, args ...string) options {
	t.Helper()
	o, err := parse(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestFlags(t *testing.T) {
	o := mustParse(t, "-connections", "5000", "-storm", "999999", "-talkers", "101", "-steps", "p2p, storm")
	if o.talkers != 100 || o.storm != 2000 || !o.has(stepStorm) || o.has(stepFlat) || o.comets < 2 {
		t.Errorf("%+v", o)
	}
	if got := o.repeat(); !strings.Contains(got, "CONNECTIONS=5000") || !strings.Contains(got, "STEPS=p2p,storm") {
		t.Error(got)
	}
	for want, args := range map[string]string{
		"-steps: \"dance\"": "-steps dance", "-connections": "-connections 10", "-talkers": "-talkers 1", "-nats": "-nats 2",
		"-messages": "-messages 33", "-transport": "-transport wss", "only flags": "now", "-comets: 2 hold": "-connections 5000000 -comets 2",
		"a run of its own": "-steps one,idle", "is a run of its own": "-steps costs,idle",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// TestEverybodyFits: no comet and no process of the generator gets more than it may have, at any step.
func TestEverybodyFits(t *testing.T) {
	for _, n := range []int{1000, 19_300, 60_000, 1_000_000, 1_200_000} {
		comets := cometsFor(n)
		if each := (n + comets - 1) / comets; each > perComet()-slack && comets > 2 {
			t.Errorf("%d connections in %d comets: %d in each of at most %d", n, comets, each, perComet())
		}
	}
}

func TestWhatCannotWorkIsRefusedWithNumbers(t *testing.T) {
	n := mustParse(t, "-connections", "1000000").need()
	good := machine{available: 1 << 40, files: 1 << 30, watches: 1 << 30, pids: 1 << 22, root: true}
	if err := n.check(good); err != nil {
		t.Fatal(err)
	}
	if n.memory < 12<<30 || n.memory > 24<<30 {
		t.Errorf("%v: more, or less, than a million connections can take", n)
	}
	for want, change := range map[string]func(*machine){
		"memory: 4.0 GiB are available": func(m *machine) { m.available = 4 << 30 },
		"sysctl -w fs.file-max=":        func(m *machine) { m.files = 1_000_000 },
		"max_user_watches":              func(m *machine) { m.watches = 1_000_000 },
		"kernel.pid_max: 1000":          func(m *machine) { m.pids = 1000 },
		"root":                          func(m *machine) { m.root = false },
	} {
		m := good
		change(&m)
		if err := n.check(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// In a virtual machine one process may have them all.
	one := mustParse(t, "-connections", "1000000", "-steps", stepOne)
	if alone := one.need(); one.comets != 1 || one.talkers != 0 || alone.processes > 10 || alone.memory < 12<<30 || alone.memory > 24<<30 {
		t.Errorf("one comet for all: %d comets, %v", one.comets, alone)
	}
	if small := mustParse(t, "-connections", "1000", "-steps", stepIdle).need(); small.memory >= n.memory/4 {
		t.Errorf("a thousand need %v", small)
	}
}

func TestPauses(t *testing.T) {
	m := metrics{}
	m.add([]byte(`# HELP halley_gc_pause_seconds Time.
halley_gc_pause_seconds_bucket{le="0.001"} 990
halley_gc_pause_seconds_bucket{le="0.005"} 998
halley_gc_pause_seconds_bucket{le="0.01"} 999
halley_gc_pause_seconds_bucket{le="0.02"} 999
halley_gc_pause_seconds_bucket{le="+Inf"} 999
halley_store_seconds_count{op="range",result="ok"} 3
halley_store_seconds_count{op="append",result="ok"} 5
halley_comet_connections{transport="tcp"} 1
halley_comet_connections{transport="websocket"} 2
`))
	m.add([]byte("halley_comet_connections{transport=\"tcp\"} 4\n"))
	if m[connected] != 7 || m[storeReads] != 3 || m[storeCalls] != 8 {
		t.Errorf("%v", m)
	}
	want := Pauses{Count: 999, P99Ms: 1, MaxMs: 10, Above5Ms: 1}
	if diff := cmp.Diff(want, m.pauses()); diff != "" {
		t.Error(diff)
	}
	if p := m.minus(m).pauses(); p.Count != 0 || p.MaxMs != 0 {
		t.Errorf("between twice the same: %+v", p)
	}
}

// TestUsageOfThisProcess: the test is a process of no kind but the run's own.
func TestUsageOfThisProcess(t *testing.T) {
	a := readUsage()
	r := a.Kinds[kindRun]
	if r.Processes != 1 || r.RSSBytes < 1<<20 {
		t.Skipf("no /proc here: %+v", a)
	}
	deadline := time.Now().Add(time.Minute)
	for sum := 0; time.Now().Before(deadline); sum++ {
		if sum%1_000_000 == 0 && between(a, readUsage()).CPU[kindRun] > 0 {
			return
		}
	}
	t.Error("a minute of work took no CPU")
}

func TestWhatCompilesIsCountedApart(t *testing.T) {
	dir := t.TempDir()
	for id, thread := range map[string]struct{ name, user, system string }{
		"1": {"java", "100", "0"}, "2": {"C2 CompilerThre", "250", "30"}, "3": {"C1 CompilerThre", "15", "5"}, "4": {"MutationStage-1", "900", "9"},
	} {
		task := filepath.Join(dir, "task", id)
		stat := id + " (" + thread.name + ") S" + strings.Repeat(" 0", 10) + " " + thread.user + " " + thread.system + strings.Repeat(" 0", 20)
		err := os.MkdirAll(task, 0o755)
		for name, text := range map[string]string{"comm": thread.name, "stat": stat} {
			err = errors.Join(err, os.WriteFile(filepath.Join(task, name), []byte(text+"\n"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := compiling(dir); got != 3 {
		t.Errorf("%v s, want 3", got)
	}
}

func TestSpent(t *testing.T) {
	at := time.Now()
	a := Usage{At: at, Kinds: map[string]Reading{kindComet: {CPUSeconds: 1}, kindGenerator: {CPUSeconds: 5}}}
	b := Usage{At: at.Add(10 * time.Second), Kinds: map[string]Reading{kindComet: {CPUSeconds: 3}, kindRedis: {CPUSeconds: 1}, kindGenerator: {CPUSeconds: 9}}}
	s := between(a, b)
	if s.server() != 3 || s.cores(kindComet, kindRedis) != 0.3 || s.CPU[kindGenerator] != 4 {
		t.Errorf("%+v", s)
	}
}

func TestWhatWasSpentWhileWasMeasured(t *testing.T) {
	at := time.Now()
	var list []Usage
	for i := range 10 {
		list = append(list, Usage{At: at.Add(time.Duration(i) * time.Second), Kinds: map[string]Reading{kindComet: {CPUSeconds: float64(i * i)}}})
	}
	r := &benchmarks.Report{Started: at, Series: []benchmarks.Point{
		{AtS: 1, Phase: "connecting"}, {AtS: 2.5, Phase: "measuring"}, {AtS: 5, Phase: "measuring"}, {AtS: 6.5, Phase: "measuring"}, {AtS: 8, Phase: "settling"},
	}}
	from, to := measured(r)
	s, ok := within(list, from, to)
	if !ok || s.Seconds != 3 || s.CPU[kindComet] != 36-9 {
		t.Errorf("%v to %v: %+v, %v", from.Sub(at), to.Sub(at), s, ok)
	}
	if _, ok := within(list, to, from); ok {
		t.Error("something was spent in no time")
	}
}

func TestPeaks(t *testing.T) {
	var p Peak
	for _, rss := range []int64{5, 9, 7} {
		p.add(Usage{Kinds: map[string]Reading{kindComet: {RSSBytes: rss}}}, map[string]int64{"Slab": rss * 10, "MemAvailable": 100 - rss})
	}
	if p.RSSBytes[kindComet] != 9 || p.SlabBytes != 90 || p.LeastAvailable != 91 {
		t.Errorf("%+v", p)
	}
}

func TestReportSaysWhatThereIs(t *testing.T) {
	r := &Report{Connections: 1_000_000, Comets: 53, Command: "make million", Talkers: 10_000}
	if text := r.markdown(); strings.Contains(text, "broadcast") || !strings.Contains(text, "# 1000000 connections in 53 comets") {
		t.Error(text)
	}
	bench := &benchmarks.Report{Sent: 10, Acked: 10, DeliverMs: benchmarks.Latency{P99: 42.25}, Lost: 1}
	r.Failure = "memory is short"
	r.Connected = Connected{Connections: 999_999, CPUUs: map[string]float64{kindComet: 77}, RSSBytes: map[string]float64{}, KernelBytes: 7900}
	r.P2P = &Step{Report: bench, Spent: Spent{Seconds: 2, CPU: map[string]float64{kindComet: 1}}, Pauses: Pauses{Count: 10, MaxMs: 3}}
	r.Idle = &Idle{CometCores: 0.045, EmptyCores: 0.01}
	r.Broadcast = &Broadcast{Messages: 3, Devices: 1_000_000, Complete: 999_998, LastSeconds: []float64{12.34}}
	r.Storm = &Step{Report: bench, Peak: Peak{RSSBytes: map[string]int64{kindComet: 3 << 30}}}
	text := r.markdown()
	for _, want := range []string{
		"did not come to its end:** memory is short", "**999999** authenticated", "comets 77 µs", "kernel memory per connection | 7900 B", "**p99 42.2 ms**",
		"promises broken: 1 lost", "**4.5 % of a core** for all comets, 1.0 %", "to 1000000 devices", "999998 have all of it", "| 12.3 s;", "comets 3072 MiB",
		"0.50 cores: comets 0.50", "10 stops", "longest below 3 ms",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	var b bytes.Buffer
	if m := (&million{out: &b, report: r, o: options{out: t.TempDir(), name: "x"}}); m.write() != nil || !strings.Contains(b.String(), "x-failed.md") {
		t.Error(b.String())
	}
}

// TestAGuestIsToldWhereItsClusterIs: whatever is on the machine around it, it finds there, and nothing at a path of that machine.
func TestAGuestIsToldWhereItsClusterIs(t *testing.T) {
	o := mustParse(t, "-connections", "5000", "-steps", stepOne, "-root", "../..")
	o.binary = os.Args[0] // Any file.
	dir := t.TempDir()
	m := newMillion(o, dir, io.Discard)
	var err error
	if m.cluster, err = newCluster(o, dir, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.guest(); err != nil {
		t.Fatal(err)
	}
	settings, err := os.ReadFile(filepath.Join(dir, "guest", "etc", "halley.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"127.0.0.1", dir} {
		if strings.Contains(string(settings), wrong) {
			t.Errorf("%s in\n%s", wrong, settings)
		}
	}
	if want := "nats://" + outside; !strings.Contains(string(settings), want) {
		t.Errorf("no %s in\n%s", want, settings)
	}
}

func TestSlabOf(t *testing.T) {
	console := filepath.Join(t.TempDir(), "console.log")
	if _, err := slabOf(console); err == nil {
		t.Error("a guest that has said nothing")
	}
	text := "guest: up\nMemAvailable:   900 kB\nSlab:             1000 kB\nlevel=INFO msg=ready\nSlab:             2000 kB\r\n"
	if err := os.WriteFile(console, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := slabOf(console); err != nil || got != 2000<<10 {
		t.Errorf("%d, %v", got, err)
	}
}

// TestCostsAreConstantsOfAPlan: every figure has a name that a plan knows, and is told from the others.
func TestCostsAreConstantsOfAPlan(t *testing.T) {
	c := &Costs{PerConnect: map[string]float64{kindComet: 100, kindCassandra: 50}}
	// A message takes 30 and a delivery 2, of NATS 7 and nothing.
	c.split(map[string]float64{kindComet: 32, kindNATS: 7}, map[string]float64{kindComet: 30 + 19*2, kindNATS: 6})
	var file bytes.Buffer
	if err := c.write(&file); err != nil {
		t.Fatal(err)
	}
	values, err := plan.ReadValues(&file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Default().With(values); err != nil {
		t.Error(err)
	}
	want := map[string]float64{
		"comet_cpu_us_per_connect": 100, "cassandra_cpu_us_per_connect": 50, "comet_cpu_us_per_message": 30, "comet_cpu_us_per_delivery": 2,
		"nats_cpu_us_per_message": 7, "nats_cpu_us_per_delivery": 0,
	}
	for name, value := range want {
		if got, ok := values[name]; !ok || got != value {
			t.Errorf("%s: %v, want %v", name, got, value)
		}
	}
	if !mustParse(t, "-steps", "costs").has(stepCosts) {
		t.Error("no step costs")
	}
}

// What others took is what the machine was busy with beyond the run's own processes, and so never less than nothing.
func TestWhatOthersTookIsOfTheWholeMachine(t *testing.T) {
	u := readUsage()
	if u.Kinds[kindRun].Processes != 1 {
		t.Skipf("no /proc here: %+v", u)
	}
	busy, _ := machineCPU()
	own := 0.0
	for kind, r := range u.Kinds {
		if kind != kindOthers && kind != kindStolen {
			own += r.CPUSeconds
		}
	}
	// The machine is read later than the processes, and in ticks.
	if others := u.Kinds[kindOthers].CPUSeconds; others <= 0 || others+own > busy+1 {
		t.Errorf("%.2f s of others and %.2f of the run, of %.2f", others, own, busy)
	}
}
