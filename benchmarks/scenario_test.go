package benchmarks_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/benchtest"
)

func scenario(t *testing.T, text string) (benchmarks.Scenario, error) {
	path := filepath.Join(t.TempDir(), "day.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return benchmarks.ReadScenario(path)
}

func TestAScenarioGoesThroughItsPhases(t *testing.T) {
	s, err := scenario(t, `
conversation: group
connections: 32
members: 5
senders: 3
zipf: 1.5
phases:
  - {name: night, for: 3s, rate: 40}
  - {name: morning, for: 3s, rate: 40, to: 360}
  - {name: silence, for: 3s, rate: 0}
`)
	if err != nil {
		t.Fatal(err)
	}
	server := benchtest.Start(t, "tcp", benchtest.Faults{}, verify(t))
	cfg := config(t, "tcp", server)
	cfg.Processes = 2
	r, err := benchmarks.RunScenario(t.Context(), cfg, s, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, r, 4)
	if want := int64(3*40 + 3*200); r.Sent < want-10 || r.Sent > want+10 || r.Connections != 30 {
		t.Errorf("%d sent, want about %d; %d connections", r.Sent, want, r.Connections)
	}
	if len(r.Phases) != 3 || r.Phases[0].Name != "1 night" || r.Phases[1].Acked < 2*r.Phases[0].Acked {
		t.Errorf("phases %+v", r.Phases)
	}
	if r.Seconds < 9 || r.Seconds > 15 {
		t.Errorf("%.1f s were measured", r.Seconds)
	}
}

func TestScenariosThatCannotWork(t *testing.T) {
	for text, want := range map[string]string{
		"phases: [{for: 1s, rate: 1}]\nspeed: 3":               "speed",
		"phases: []":                                           "phases: 0",
		"phases: [{for: 0s, rate: 1}]":                         "phase 1",
		"phases: [{for: 1s, rate: 1, to: 2, peak: 3}]":         "not both",
		"phases: [{for: 1s, rate: 0}]":                         "no messages",
		"conversation: party\nphases: [{for: 1s, rate: 1}]":    "party",
		"zipf: 0.9\nphases: [{for: 1s, rate: 1}]":              "zipf",
		"conversation: group\nmembers: 1\nphases: [{for: 1s}]": "1 members",
		"phases: [{for: soon, rate: 1}]":                       "soon",
	} {
		if _, err := scenario(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if s, err := scenario(t, "phases: [{for: 1m, rate: 5, peak: 50}]"); err != nil || s.Phases[0].For != time.Minute || *s.Phases[0].Peak != 50 {
		t.Errorf("%+v, %v", s, err)
	}
}
