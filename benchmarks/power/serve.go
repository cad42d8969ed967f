package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/overlay"
)

// serve is everything in one process: NATS, logic, job and Pebble on one disk.
func serve() subject { return subject{name: "serve", lay: layServe, load: loadServe} }

// tcpPort is where deploy/vm/halley.yaml has the server listen.
const tcpPort = 7071

func layServe(ctx context.Context, g *guest, control bool) ([]int, error) {
	if err := build(ctx, g.repository, g.dir, g.root("bin", "halley"), control); err != nil {
		return nil, err
	}
	if err := g.copyIn(map[string]string{"serve": "main", "halley.yaml": "etc/halley.yaml"}); err != nil {
		return nil, err
	}
	// No app's server calls: an empty list.
	if err := os.WriteFile(g.root("etc", "api-keys.json"), []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	keys, err := auth.GenerateKeys(g.root("etc", "token-keys"))
	if err != nil {
		return nil, err
	}
	g.secret = keys[0]
	return []int{tcpPort}, nil
}

func loadServe(ctx context.Context, g *guest, name string) (load, error) {
	key := g.secret.(auth.Key)
	return launch(ctx, "tcp://127.0.0.1:"+strconv.Itoa(g.port), name, func(user string) (string, error) {
		now := time.Now()
		return auth.Issue(key, auth.Claims{User: user, Device: "phone", IssuedAt: now, Expires: now.Add(24 * time.Hour)})
	})
}

// The control differs in one word. It is not a setting: nobody shall be able to ship it.
var controlPatch = overlay.Patch{File: "cmd/halley/serve.go", Old: "SyncAlways: true", New: "SyncAlways: false"}

// build makes a static binary of the tree, or of the tree with the control's word in it.
func build(ctx context.Context, repository, dir, binary string, control bool) error {
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", binary}
	if control {
		list, err := overlay.Write(repository, dir, controlPatch)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", list)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/halley")...)
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return nil
}
