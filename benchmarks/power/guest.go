package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/halley-im/halley/benchmarks/vm"
)

// subject is something that promises durability, and a load that holds it to that.
type subject struct {
	name string
	// lay writes the guest's root and says on which ports of the guest its programs listen. The control differs from what ships
	// in how the log is synced, and in nothing else.
	lay func(ctx context.Context, g *guest, control bool) (ports []int, err error)
	// load begins to work on what lay described; the machine has just been started for the first time.
	load func(ctx context.Context, g *guest, name string) (load, error)
}

// load is devices, or whoever else writes, outside the machine. Its ledger is all that is known of what was promised.
type load interface {
	// talk writes until talking ends, and waits for answers as long as settling lasts.
	talk(talking, settling context.Context)
	// audit reads back everything from its beginning, has the ledger judge it, and says how much there is.
	audit(ctx context.Context) (heads map[string]uint64, err error)
	// complete waits until whoever must be told has been told of everything up to the heads.
	complete(ctx context.Context, heads map[string]uint64)
	book() *ledger
	close()
}

// guest is a machine, what it is made of, and how to reach it.
type guest struct {
	repository string
	dir        string
	port       int // On loopback; the guest's ports follow each other from here.
	secret     any // What lay gave the guest and load needs.
	machine    *vm.Machine
}

func (g *guest) root(name ...string) string {
	return filepath.Join(append([]string{g.dir, "root"}, name...)...)
}

func (g *guest) script(name string) string { return filepath.Join(g.repository, "deploy", "vm", name) }

// newGuest lays out a machine in dir. Nothing is booted yet.
func newGuest(ctx context.Context, s subject, repository, dir string, control bool) (*guest, error) {
	repository, err := filepath.Abs(repository)
	if err != nil {
		return nil, err
	}
	g := &guest{repository: repository, dir: dir}
	for _, d := range []string{"bin", "etc"} {
		if err := os.MkdirAll(g.root(d), 0o755); err != nil {
			return nil, err
		}
	}
	ports, err := g.reserve(ctx, func() ([]int, error) { return s.lay(ctx, g, control) })
	if err != nil {
		return nil, err
	}
	var forwarded string
	for i, inside := range ports {
		forwarded += fmt.Sprintf("%d:%d ", g.port+i, inside)
	}
	g.machine = &vm.Machine{
		Script: g.script("vm.sh"), Data: filepath.Join(dir, "vm"), Env: []string{"VM_ROOT=" + g.root(), "VM_PORTS=" + forwarded},
	}
	return g, nil
}

// mostPorts is how many a guest may have forwarded.
const mostPorts = 4

// reserve finds free ports below those that the kernel gives to outgoing connections, for they must be free at every boot.
func (g *guest) reserve(ctx context.Context, lay func() ([]int, error)) ([]int, error) {
	for port := 20000 + os.Getpid()%10000; port < 32000; port += mostPorts {
		if g.port = port; free(ctx, port) {
			return lay()
		}
	}
	return nil, errors.New("no free ports below 32000")
}

func free(ctx context.Context, from int) bool {
	for port := from; port < from+mostPorts; port++ {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil || l.Close() != nil {
			return false
		}
	}
	return true
}

// copyIn copies files of deploy/vm into the guest.
func (g *guest) copyIn(files map[string]string) error {
	for from, to := range files {
		data, err := os.ReadFile(g.script(from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(g.root(to), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
