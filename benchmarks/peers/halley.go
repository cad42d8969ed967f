package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/pkg/auth"
)

// memoryFolder is a file system in memory, where the machine has it.
const memoryFolder = "/dev/shm"

func halleys() []peer {
	given := promises{
		Ack: "after fsync", Stored: "yes: fsync of the log before the ack, then in Pebble", Order: "one seq per conversation, no holes",
		History: "all", Dedup: "a retry gets the first answer again", Login: "JWT (HS256), presence",
	}
	inMemory := given
	inMemory.Ack, inMemory.Stored = "after fsync, which costs nothing there", "until the machine stops"
	return []peer{{
		name: "halley", title: "Halley (`serve`)", tcp: true, promises: given, version: halleyVersion, measure: measureHalley(""),
	}, {
		name: "halley-tmpfs", title: "Halley, its data on tmpfs", only: []kind{pairs}, promises: inMemory,
		version: func(ctx context.Context, r *rig) (string, error) {
			if _, err := os.Stat(memoryFolder); err != nil {
				return "", err
			}
			return halleyVersion(ctx, r)
		},
		measure: measureHalley(memoryFolder),
	}}
}

func halleyVersion(ctx context.Context, r *rig) (string, error) {
	text, err := r.command(ctx, r.binary, "version")
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimPrefix(line, "halley "), err
}

// measureHalley runs serve with its data below a folder, the run's own if that is empty, and loads it as `halley bench` does.
func measureHalley(below string) func(context.Context, *rig, scenario) (figures, error) {
	return func(ctx context.Context, r *rig, s scenario) (figures, error) {
		if below == "" {
			below = r.dir
		}
		dir, err := os.MkdirTemp(below, "halley-")
		if err != nil {
			return figures{}, err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a folder for temporary files.
		ports, err := r.ports(4)
		if err != nil {
			return figures{}, err
		}
		data := filepath.Join(dir, "data")
		running, err := r.start("halley", dir, nil, r.binary, "serve", "--data-dir", data, "--websocket", address(ports[0]),
			"--tcp", address(ports[1]), "--api", address(ports[2]), "--admin", address(ports[3]))
		if err != nil {
			return figures{}, err
		}
		defer running.stop()
		var at struct {
			SecretFile string `json:"secret_file"`
		}
		if err := running.until(ctx, func() error {
			told, err := os.ReadFile(filepath.Join(data, "endpoints.json")) // Written when everything is ready.
			if err == nil {
				err = json.Unmarshal(told, &at)
			}
			return err
		}); err != nil {
			return figures{}, err
		}
		keys, err := auth.LoadKeys(at.SecretFile)
		if err != nil {
			return figures{}, err
		}
		pause(ctx, time.Second) // As with the others.
		cfg := benchmarks.Default()
		cfg.Key, cfg.Admin, cfg.Targets = keys[0], []string{"http://" + address(ports[3])}, []string{address(ports[0])}
		cfg.Duration, cfg.Warmup, cfg.Settle, cfg.Wait = r.sizes.during, r.sizes.warmup, r.sizes.rests, patience
		cfg.Connections, cfg.Size, cfg.Workers, cfg.Processes = s.Connections, r.sizes.text, r.loops, 1
		if s.TCP {
			cfg.Transport, cfg.Targets = "tcp", []string{address(ports[1])}
		}
		return loadHalley(ctx, cfg, s)
	}
}

func loadHalley(ctx context.Context, cfg benchmarks.Config, s scenario) (figures, error) {
	var report *benchmarks.Report
	var err error
	switch load := (benchmarks.Load{Outstanding: max(1, s.Outstanding)}); s.Kind {
	case pairs:
		report, err = benchmarks.RunP2P(ctx, benchmarks.P2PConfig{Config: cfg, Load: load}, io.Discard)
	case room:
		// Whoever writes is a member.
		group := benchmarks.GroupConfig{Config: cfg, Load: load, Groups: 1, Members: s.Connections + 1, Senders: 1}
		report, err = benchmarks.RunGroup(ctx, group, io.Discard)
	default:
		few := cfg
		few.Connections, few.Seed, few.Settle, few.Duration = aFew, cfg.Seed+1, 0, time.Millisecond
		if _, err := benchmarks.RunConn(ctx, benchmarks.ConnConfig{Config: few}, io.Discard); err != nil {
			return figures{}, err
		}
		cfg.Duration = time.Millisecond // Memory is read where it begins.
		report, err = benchmarks.RunConn(ctx, benchmarks.ConnConfig{Config: cfg}, io.Discard)
	}
	if err != nil {
		return figures{}, err
	}
	return ofReport(report, s.Kind)
}

// ofReport takes from a report of `halley bench` what the table tells.
func ofReport(rep *benchmarks.Report, k kind) (figures, error) {
	if k == idle {
		if lost := int64(rep.Config.Connections) - rep.Connections; lost > 0 {
			return figures{}, errors.New("connections were not held: " + strings.Join(rep.Warnings, "; "))
		}
		return figures{
			BytesPerConnection: rep.Server.RSSBytesPerConnection, CPUUsPerConnect: rep.Server.CPUUsPerConnect, ConnectsPerS: rep.ConnectRate,
		}, nil
	}
	f := figures{
		Seconds: rep.Seconds, MessagesPerS: rep.Rate, DeliveriesPerS: rep.DeliveryRate,
		CPUUsPerMessage: rep.Server.CPUUsPerMessage, CPUUsPerDelivery: rep.Server.CPUUsPerDelivery,
		DeliverMs: rep.DeliverMs, ServerCores: rep.Server.Cores, GeneratorCores: rep.Generator.Cores,
		Oracle: &oracle{
			Sent: rep.Sent, Acked: rep.Acked, Due: rep.Delivered + rep.Lost, Delivered: rep.Delivered, Missing: rep.Lost + rep.Gaps,
			Unacked: rep.Unacked + rep.Refused, Repeated: rep.Duplicated, Reordered: rep.Reordered, Strays: rep.Corrupted + rep.Strays,
		},
	}
	return f, nil
}
