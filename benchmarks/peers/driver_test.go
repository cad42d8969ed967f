package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks/floor"
	"github.com/halley-im/halley/benchmarks/generator"
)

// bare runs the floor's server in this process.
func bare(t *testing.T, mode floor.Mode) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	told, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- floor.Serve(ctx, mode, nil, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var at floor.Endpoints
	if err := json.NewDecoder(told).Decode(&at); err != nil {
		t.Fatal(err)
	}
	return at.Target
}

var little = sizes{text: 100, warmup: 10 * time.Millisecond, during: 100 * time.Millisecond, rests: 10 * time.Millisecond}

func TestTheFloorKeepsEveryMessage(t *testing.T) {
	for _, c := range []struct {
		mode      floor.Mode
		transport generator.Transport
		scenario  scenario
	}{
		{floor.Echo, generator.WebSocket, scenario{Kind: pairs, Connections: 8, Outstanding: 4}},
		{floor.Fanout, generator.WebSocket, scenario{Kind: room, Connections: 20}},
		{floor.Echo, generator.WebSocket, scenario{Kind: idle, Connections: 50}},
		{floor.Bytes, generator.Bytes, scenario{Kind: idle, Connections: 50}},
	} {
		w := wire{transport: c.transport, target: bare(t, c.mode), path: "/", speak: newEcho, echoes: true}
		f, err := drive(t.Context(), c.scenario, little, 1, w, os.Getpid())
		if err != nil {
			t.Fatalf("%s %s: %v", c.mode, c.scenario.Kind, err)
		}
		if c.scenario.Kind == idle {
			if f.ConnectsPerS <= 0 {
				t.Errorf("%s: %+v", c.mode, f)
			}
			continue
		}
		if f.Oracle.faults() != 0 || f.Oracle.Sent == 0 || f.Oracle.Delivered != f.Oracle.Due {
			t.Errorf("%s %s: %+v", c.mode, c.scenario.Kind, f.Oracle)
		}
	}
}

func TestAServerThatIsNotThereFailsTheScenario(t *testing.T) {
	w := wire{transport: generator.WebSocket, target: "127.0.0.1:1", path: "/", speak: newEcho, echoes: true}
	if f, err := drive(t.Context(), scenario{Kind: pairs, Connections: 2, Outstanding: 1}, little, 1, w, os.Getpid()); err == nil {
		t.Errorf("%+v", f)
	}
}
