package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/auth"
)

// guest is a machine with a server in it.
type guest struct {
	machine *vm
	server  string // URL
	token   func(user string) (string, error)
}

// tcpPort is where deploy/vm/halley.yaml has the server listen.
const tcpPort = 7071

// prepare builds the server and lays out the guest's file system in dir. Nothing is booted yet.
func prepare(ctx context.Context, repository, dir string, control bool) (*guest, error) {
	repository, err := filepath.Abs(repository)
	if err != nil {
		return nil, err
	}
	scripts := filepath.Join(repository, "deploy", "vm")
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := build(ctx, repository, dir, filepath.Join(root, "bin", "halley"), control); err != nil {
		return nil, err
	}
	for from, to := range map[string]string{"main": "main", "halley.yaml": "etc/halley.yaml"} {
		data, err := os.ReadFile(filepath.Join(scripts, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), data, 0o644)
		}
		if err != nil {
			return nil, err
		}
	}
	// No app's server calls: an empty list.
	if err := os.WriteFile(filepath.Join(root, "etc", "api-keys.json"), []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	keys, err := auth.GenerateKeys(filepath.Join(root, "etc", "token-keys"))
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	machine := &vm{script: filepath.Join(scripts, "vm.sh"), data: filepath.Join(dir, "vm"), env: []string{
		"VM_ROOT=" + root, "VM_DATA=" + filepath.Join(dir, "vm"), fmt.Sprintf("VM_PORTS=%d:%d", port, tcpPort),
	}}
	if _, err := machine.call(ctx, "fetch"); err != nil {
		return nil, err
	}
	return &guest{
		machine: machine, server: "tcp://127.0.0.1:" + strconv.Itoa(port),
		token: func(user string) (string, error) {
			now := time.Now()
			return auth.Issue(keys[0], auth.Claims{User: user, Device: "phone", IssuedAt: now, Expires: now.Add(24 * time.Hour)})
		},
	}, nil
}

// freePort finds a port below those that the kernel gives to outgoing connections: it must be free at every boot.
func freePort(ctx context.Context) (int, error) {
	for port := 20000 + os.Getpid()%10000; port < 32000; port++ {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port below 32000")
}

// The control differs in one word. It is not a setting: nobody shall be able to ship it.
const (
	controlFile    = "cmd/halley/serve.go"
	controlShipped = "SyncAlways: true"
	controlWord    = "SyncAlways: false"
)

// build makes a static binary of the tree, or of the tree with the control's word in it.
func build(ctx context.Context, repository, dir, binary string, control bool) error {
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", binary}
	if control {
		overlay, err := controlOverlay(repository, dir)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/halley")...)
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return nil
}

// controlOverlay writes the changed file and the list that go build -overlay takes.
func controlOverlay(repository, dir string) (string, error) {
	original := filepath.Join(repository, filepath.FromSlash(controlFile))
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), controlShipped); n != 1 {
		return "", fmt.Errorf("%s has %q %d times, not once: the control must change what ships", controlFile, controlShipped, n)
	}
	changed := filepath.Join(dir, "serve.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(source), controlShipped, controlWord, 1)), 0o600); err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, original, changed), 0o600)
}
