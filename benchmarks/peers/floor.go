package main

import (
	"context"
	"encoding/json"
	"os"
	"runtime/debug"

	"github.com/halley-im/halley/benchmarks/floor"
	"github.com/halley-im/halley/benchmarks/generator"
)

// floorName is the row that the others are told as multiples of.
const floorName = "floor"

// floors is the bare echo server: the least that bytes through a WebSocket can cost on this machine.
func floors() []peer {
	return []peer{{
		name: floorName, title: "gnet echo (the floor)", tcp: true,
		promises: promises{
			Ack: "none", Stored: "no", Order: "of each connection", History: "none", Dedup: "none", Login: "none",
		},
		version: func(context.Context, *rig) (string, error) { return gnetVersion(), nil },
		measure: driven(floorName, launchFloor),
	}}
}

func gnetVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/panjf2000/gnet/v2" {
				return m.Version
			}
		}
	}
	return ""
}

// floorFlag has this program be the server.
const floorFlag = "floor-server"

func launchFloor(ctx context.Context, r *rig, s scenario, dir string) (*server, wire, error) {
	mode, w := floor.Echo, wire{transport: generator.WebSocket, path: "/", speak: newEcho, echoes: true}
	switch {
	case s.Kind == room:
		mode = floor.Fanout
	case s.TCP:
		mode, w.transport = floor.Bytes, generator.Bytes
	}
	self, err := os.Executable()
	if err != nil {
		return nil, w, err
	}
	running, err := r.start(floorName, dir, nil, self, "-"+floorFlag, string(mode))
	if err != nil {
		return nil, w, err
	}
	var at floor.Endpoints
	err = running.until(ctx, func() error {
		told, err := os.ReadFile(running.log)
		if err == nil {
			err = json.Unmarshal(told, &at)
		}
		return err
	})
	w.target = at.Target
	return running, w, err
}

// echo is the client of a server without protocol.
type echo struct{ c *client }

func newEcho(c *client) session { return echo{c} }

func (e echo) open()                                { e.c.ready() }
func (e echo) publish(_ string, _ uint32, b []byte) { e.c.send(b) }
func (e echo) read(p []byte) error {
	e.c.deliver(p)
	return nil
}
