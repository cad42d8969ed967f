package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/vm"
)

// One comet with all connections needs a machine on which a process may have so many descriptors: a virtual one, with the comet and the
// generator in it, and the rest of the cluster around it. It is emulated, so its memory is measured and its time means nothing.

const (
	// outside is the machine around, seen from the guest.
	outside = "10.0.2.2"
	// guestBeside is what the guest takes beside its connections.
	guestBeside = 1200 << 20
	// oneHold is how long the generator holds what is connected: longer than reading its memory takes.
	oneHold = 4 * time.Minute
	// oneStalls ends a run in which no connection has come for so long.
	oneStalls = 10 * time.Minute
	oneSleep  = 10 * time.Second
)

// One is all connections in one comet.
type One struct {
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`                   // Of an emulated machine.
	LiveBytes   float64 `json:"live_bytes_per_connection"` // Heap and stacks, after a collection.
	RSSBytes    float64 `json:"rss_bytes_per_connection"`
	RSSTotal    float64 `json:"rss_bytes"` // With what an empty one takes.
	KernelBytes float64 `json:"kernel_bytes_per_connection"`
	Pauses      Pauses  `json:"pauses"`
	// Held is that the generator, which counts what it held, found nothing wrong.
	Held bool `json:"held"`
}

func (o options) guestBytes() int64 {
	return int64(o.connections)*(kernelPerConnection+cometPerConnection+generatorPerConnection) + guestBeside
}

// one has all connections in one comet.
func (m *million) one(ctx context.Context) error {
	defer m.phase(fmt.Sprintf("one comet with %d connections, in a virtual machine", m.o.connections))()
	guest, err := m.guest()
	if err != nil {
		return err
	}
	defer guest.Wipe()
	if err := guest.Start(ctx); err != nil {
		return err
	}
	if err := m.fill(ctx, guest); err != nil {
		return fmt.Errorf("%w\n%s", err, memoryLines.ReplaceAllString(guest.Console(), ""))
	}
	return nil
}

// fill measures the comet without a connection, with all of them, and has the generator tell whether they held.
func (m *million) fill(ctx context.Context, guest *vm.Machine) error {
	admin, console := admins(1)[2], filepath.Join(guest.Data, "console.log")
	if err := m.cluster.ready(ctx, cometAdmin); err != nil {
		return err
	}
	empty, err := collected(ctx, admin)
	if err != nil {
		return err
	}
	kernel, err := slabOf(console)
	if err != nil {
		return err
	}
	begin, n := time.Now(), float64(m.o.connections)
	if err := m.filled(ctx, guest, admin); err != nil {
		return err
	}
	one := &One{Connections: m.o.connections, Seconds: time.Since(begin).Seconds()}
	m.say("%d connected, %.0f/s in the emulated machine", one.Connections, n/one.Seconds)
	if err := sleep(ctx, atRest); err != nil {
		return err
	}
	asIs, err := scrape(ctx, []string{admin})
	if err != nil {
		return err
	}
	full, err := slabOf(console)
	if err != nil {
		return err
	}
	after, err := collected(ctx, admin)
	if err != nil {
		return err
	}
	one.LiveBytes = (after[heapLive] + after[stackInUse] - empty[heapLive] - empty[stackInUse]) / n
	one.RSSBytes, one.RSSTotal = (asIs[rssBytes]-empty[rssBytes])/n, asIs[rssBytes]
	one.KernelBytes, one.Pauses = float64(full-kernel)/n, asIs.minus(empty).pauses()
	m.report.One = one
	m.say("%d in one comet: %.0f live bytes each, %.0f of RSS, %.0f of the kernel for both ends", one.Connections, one.LiveBytes, one.RSSBytes, one.KernelBytes)
	// To close them all, emulated, takes its time as connecting did.
	if one.Held, err = ended(ctx, guest, 2*oneHold+time.Since(begin)); err == nil && !one.Held {
		err = errors.New("the generator did not hold what it connected")
	}
	return err
}

// guest lays out the machine: a comet of this cluster, the program and a generator. Nothing is booted yet.
func (m *million) guest() (*vm.Machine, error) {
	root := filepath.Join(m.dir, "guest")
	for _, dir := range []string{"bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	// All the rest of the cluster is beyond the guest. Its devices send nothing for an hour: emulated, a million pings would be all that it does.
	more := fmt.Sprintf("admin: { address: \"0.0.0.0:%d\" }\ncomet: { %s, heartbeat_ms: 3600000 }\n", cometAdmin, m.o.listens("0.0.0.0", cometPort))
	settings := strings.NewReplacer("127.0.0.1", outside, m.dir, "/etc").Replace(m.cluster.settings("comet-one", "comet", more))
	set := fmt.Sprintf("CONNECTIONS=%d\nTRANSPORT=%s\nPORT=%d\nADMIN=%d\nHOLD=%s\n", m.o.connections, m.o.transport, cometPort, cometAdmin, oneHold)
	for name, text := range map[string]string{"halley.yaml": settings, "million": set} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	scripts := filepath.Join(m.o.root, "deploy", "vm")
	for from, to := range map[string]string{
		m.o.binary: "bin/halley", m.cluster.keys: "etc/token-keys", filepath.Join(scripts, "million"): "main",
		filepath.Join(m.dir, "api-keys.json"): "etc/api-keys.json",
	} {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(root, to), data, 0o755); err != nil {
			return nil, err
		}
	}
	return &vm.Machine{Script: filepath.Join(scripts, "vm.sh"), Data: filepath.Join(m.dir, "vm"), Env: []string{
		"VM_ROOT=" + root, "VM_REACHES=1", fmt.Sprintf("VM_PORTS=%d:%d", cometAdmin, cometAdmin), fmt.Sprintf("VM_MEM=%d", m.o.guestBytes()>>20),
	}}, nil
}

// filled waits until everybody is connected.
func (m *million) filled(ctx context.Context, guest *vm.Machine, admin string) error {
	var most float64
	moved, told := time.Now(), time.Now()
	for {
		if !guest.Running(ctx) {
			return errors.New("the guest ended by itself")
		}
		s, err := scrape(ctx, []string{admin})
		switch {
		case err != nil && time.Since(moved) > oneStalls:
			return err
		case err == nil && s[connected] >= float64(m.o.connections):
			return nil
		case err == nil && s[connected] > most:
			most, moved = s[connected], time.Now()
		case time.Since(moved) > oneStalls:
			return fmt.Errorf("%.0f of %d connected, and no more for %v", most, m.o.connections, oneStalls)
		}
		if time.Since(told) > time.Minute {
			m.say("%.0f connected", most)
			told = time.Now()
		}
		if err := sleep(ctx, oneSleep); err != nil {
			return err
		}
	}
}

var mainEnded = regexp.MustCompile(`guest: /main ended with (\d+)`)

// memoryLines are what the guest says of its memory again and again.
var memoryLines = regexp.MustCompile(`(?m)^(Slab|MemAvailable):.*\n?`)

// ended waits so long for the guest's program, and reports whether it was content.
func ended(ctx context.Context, guest *vm.Machine, patience time.Duration) (bool, error) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		running := guest.Running(ctx)
		if found := mainEnded.FindStringSubmatch(guest.Console()); found != nil {
			return found[1] == "0", nil
		}
		if !running {
			return false, errors.New("the guest ended without a word")
		}
		if err := sleep(ctx, oneSleep); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("the generator did not end within %v: %w", patience, benchmarks.ErrAbandoned)
}

// slabOf is the guest's memory of kernel objects in bytes, by the last line of its console that tells it.
func slabOf(console string) (int64, error) {
	kib := int64(-1)
	eachLine(console, func(line string) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "Slab:" {
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				kib = n
			}
		}
	})
	if kib < 0 {
		return 0, errors.New("the guest has not told its memory")
	}
	return kib << 10, nil
}
