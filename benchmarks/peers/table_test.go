package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks"
)

// measured is a run of three servers: one failed in part, one could not be installed.
func measured() *result {
	return &result{
		Command: "peers", Started: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC), DuringS: 5, TextBytes: 100, Loops: 1,
		Scenarios: []scenario{
			{Name: "idle-ws", Kind: idle, Connections: 10_000}, {Name: "pairs-4", Kind: pairs, Connections: 2000, Outstanding: 4},
			{Name: "room-1000", Kind: room, Connections: 1000},
		},
		Rows: []*row{
			{Name: floorName, Title: "floor", Scenarios: map[string]*figures{
				"idle-ws": {BytesPerConnection: 600, CPUUsPerConnect: 50, ConnectsPerS: 13_000},
				"pairs-4": {Seconds: 5, CPUUsPerMessage: 10, CPUUsPerDelivery: 10, MessagesPerS: 90_000, GeneratorCores: 0.9},
			}},
			{Name: "slow", Title: "Slow", Scenarios: map[string]*figures{
				"idle-ws":   {BytesPerConnection: 30_000, CPUUsPerConnect: 175, ConnectsPerS: 1234},
				"pairs-4":   {Seconds: 5, CPUUsPerMessage: 25, CPUUsPerDelivery: 26, MessagesPerS: 40_000, Oracle: &oracle{Sent: 9, Missing: 2}},
				"room-1000": {Error: "1 of 1001 connected,\nand | no more"},
			}},
			{Name: "gone", Title: "Gone", Error: "cannot be installed: no network", Scenarios: map[string]*figures{}},
		},
	}
}

func TestCostsAreMultiplesOfTheFloors(t *testing.T) {
	r := measured()
	r.compare()
	slow := r.Rows[1].Scenarios
	if slow["idle-ws"].OfFloor != 50 || slow["idle-ws"].ConnectOfFloor != 3.5 || slow["pairs-4"].OfFloor != 2.5 || slow["room-1000"].OfFloor != 0 {
		t.Errorf("%+v %+v %+v", slow["idle-ws"], slow["pairs-4"], slow["room-1000"])
	}
	r.Rows = r.Rows[1:] // A run without the floor has no multiples, and no fault.
	slow["pairs-4"].OfFloor = 0
	if r.compare(); slow["pairs-4"].OfFloor != 0 {
		t.Error("a multiple of nothing")
	}
}

func TestNobodyIsLeftOutOfTheTable(t *testing.T) {
	r := measured()
	r.compare()
	var b strings.Builder
	if err := r.writeMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	columns := 0
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "|") {
			if n := strings.Count(line, "|"); columns > 0 && n != columns {
				t.Errorf("%d bars, want %d: %s", n, columns, line)
			} else {
				columns = n
			}
		}
		if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
			t.Errorf("spaces at the end of %q", line)
		}
	}
	for _, want := range []string{
		"| Slow | 30,000 B (50.0×); connect 175 µs (3.5×), 1,234/s | **25.0 µs** (2.5×)", "**2 missing, 0 unacked",
		"**failed**, see below", "| Gone | **not measured**, see below", "- Gone: cannot be installed: no network",
		"- Slow, one to 1,000: 1 of 1001 connected, and / no more", "10,000 idle WebSocket connections", "1,000 pairs, K = 4",
		"- The generator had no more to give, so that rate and latency are not the server's alone: floor pairs-4.",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "nothing was missing") {
		t.Error("it says that nothing was missing")
	}
}

func TestJSONHoldsTheRun(t *testing.T) {
	var b strings.Builder
	if err := measured().writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back result
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&back, measured()) {
		t.Errorf("%+v", back)
	}
}

func TestEveryPeerSaysWhatItPromises(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range peers() {
		if seen[p.name] {
			t.Errorf("two are called %s", p.name)
		}
		seen[p.name] = true
		words := reflect.ValueOf(p.promises)
		for i := range words.NumField() {
			if words.Field(i).String() == "" {
				t.Errorf("%s says nothing of %s", p.name, words.Type().Field(i).Name)
			}
		}
		if p.version == nil || p.measure == nil || p.title == "" {
			t.Errorf("%s is not whole", p.name)
		}
	}
}

func TestPatternsPickOrSayWhatThereIs(t *testing.T) {
	all := []string{"floor", "nats", "nats-jetstream", "halley"}
	itself := func(s string) string { return s }
	got, err := pick(all, "halley,nats*", itself)
	if err != nil || strings.Join(got, " ") != "nats nats-jetstream halley" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := pick(all, "halley,redis", itself); err == nil || !strings.Contains(err.Error(), `"redis" matches none of floor, nats`) {
		t.Errorf("%v", err)
	}
}

func TestReportsOfBenchBecomeCells(t *testing.T) {
	rep := &benchmarks.Report{
		Seconds: 5, Sent: 100, Acked: 98, Delivered: 95, Lost: 3, Gaps: 1, Unacked: 2, Duplicated: 4, Reordered: 5, Corrupted: 6, Strays: 7,
		Server: benchmarks.Server{CPUUsPerMessage: 30, Cores: 0.9}, Generator: benchmarks.Generator{Cores: 0.5}, Rate: 20,
	}
	f, err := ofReport(rep, pairs)
	if err != nil || f.CPUUsPerMessage != 30 || f.MessagesPerS != 20 || f.ServerCores != 0.9 || f.GeneratorCores != 0.5 {
		t.Errorf("%+v, %v", f, err)
	}
	want := oracle{Sent: 100, Acked: 98, Due: 98, Delivered: 95, Missing: 4, Unacked: 2, Repeated: 4, Reordered: 5, Strays: 13}
	if *f.Oracle != want {
		t.Errorf("%+v, want %+v", *f.Oracle, want)
	}
	rep.Config.Connections, rep.Connections = 10, 9
	if _, err := ofReport(rep, idle); err == nil {
		t.Error("a lost connection is no fault")
	}
}
