package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/halley-im/halley/pkg/bus"
)

// logs is the log of the tiers: three NATS servers, every log on all of them, and all without power at once. Owners outside
// append as logic does.
func logs() subject { return subject{name: "log", lay: layLogs, load: loadLogs} }

const (
	natsServers    = 3
	natsPort       = 4222
	natsPartitions = 4
	natsLogBytes   = 64 << 20
)

// natsConf is what deploy/local/nats.sh writes, but for addresses and sizes; the users are the same file.
const natsConf = `server_name: n{{.N}}
listen: 0.0.0.0:{{.Port}}
client_advertise: 127.0.0.1:{{.Outside}}
max_payload: 1MB
jetstream { store_dir: "/data/n{{.N}}/js", sync_interval: "{{.Sync}}", max_mem: 64MB, max_file: 1GB }
cluster { name: halley, listen: 127.0.0.1:{{.Routes}}, routes: [ nats://127.0.0.1:6222, nats://127.0.0.1:6223, nats://127.0.0.1:6224 ] }
include "users.conf"
`

func layLogs(ctx context.Context, g *guest, control bool) (ports []int, err error) {
	sync := "always"
	if control {
		sync = "2m"
	}
	conf := template.Must(template.New("").Parse(natsConf))
	for n := range natsServers {
		var text bytes.Buffer
		err := conf.Execute(&text, map[string]any{
			"N": n + 1, "Port": natsPort + n, "Outside": g.port + n, "Routes": 6222 + n, "Sync": sync,
		})
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(g.root("etc", fmt.Sprintf("n%d.conf", n+1)), text.Bytes(), 0o600); err != nil {
			return nil, err
		}
		ports = append(ports, natsPort+n)
	}
	local := filepath.Join(g.repository, "deploy", "local")
	users, err := os.ReadFile(filepath.Join(local, "nats-users.conf"))
	if err != nil {
		return nil, err
	}
	for _, user := range []string{"comet", "logic", "job", "operator"} {
		users = bytes.ReplaceAll(users, []byte("@"+strings.ToUpper(user)+"_PASSWORD@"), []byte(user))
	}
	if err := os.WriteFile(g.root("etc", "users.conf"), users, 0o600); err != nil {
		return nil, err
	}
	binary, err := exec.CommandContext(ctx, filepath.Join(local, "nats.sh"), "fetch").Output()
	if err != nil {
		return nil, fmt.Errorf("nats.sh fetch: %w", err)
	}
	if err := copyProgram(strings.TrimSpace(string(binary)), g.root("bin", "nats-server")); err != nil {
		return nil, err
	}
	return ports, g.copyIn(map[string]string{"log": "main"})
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was only read.
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

func loadLogs(ctx context.Context, g *guest, name string) (load, error) {
	var urls []string
	for n := range natsServers {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", g.port+n))
	}
	quiet := slog.New(slog.DiscardHandler)
	operator, err := bus.Connect(ctx, bus.Config{URLs: urls, Name: "operator", User: "operator", Password: "operator"}, quiet)
	if err != nil {
		return nil, err
	}
	defer operator.Close()
	cfg := bus.LogConfig{Partitions: natsPartitions, Replicas: natsServers, MaxBytes: natsLogBytes}
	if err := persist(ctx, func(ctx context.Context) error { return bus.CreateLogs(ctx, operator, cfg) }); err != nil {
		return nil, fmt.Errorf("create the logs: %w", err)
	}
	conn, err := bus.Connect(ctx, bus.Config{
		URLs: urls, Name: "owners", User: "logic", Password: "logic", NoReconnectBuffer: true,
	}, quiet)
	if err != nil {
		return nil, err
	}
	return openOwners(ctx, conn, name, natsPartitions)
}

const (
	tryWithin = 20 * time.Second
	tryPause  = 200 * time.Millisecond
)

// persist tries until it succeeds or ctx ends: servers that have just started may still be electing, and answer nobody.
func persist(ctx context.Context, try func(context.Context) error) error {
	for {
		attempt, done := context.WithTimeout(ctx, tryWithin)
		err := try(attempt)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(tryPause):
		}
	}
}
