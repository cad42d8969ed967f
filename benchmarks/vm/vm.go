// Package vm runs the virtual machine of deploy/vm, whose guest a run of its own may cut off from power, or give what no process here has.
package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Machine is one that deploy/vm/vm.sh starts. Its methods are not for use at the same time.
type Machine struct {
	Script string   // vm.sh.
	Data   string   // Where its disk and its console lie: VM_DATA.
	Env    []string // The other settings of vm.sh, as in os.Environ.
}

func (m *Machine) call(ctx context.Context, verb string) error {
	cmd := exec.CommandContext(ctx, m.Script, verb)
	cmd.Env = append(append(os.Environ(), "VM_DATA="+m.Data), m.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(m.Script), verb, err, out)
	}
	return nil
}

// Start boots it and returns when its programs run.
func (m *Machine) Start(ctx context.Context) error { return m.call(ctx, "start") }

// Cut cuts its power: it keeps what was synced, and nothing else has to be there after the next start.
func (m *Machine) Cut(ctx context.Context) error { return m.call(ctx, "cut") }

// Running reports whether it is on: one whose programs have ended turns itself off.
func (m *Machine) Running(ctx context.Context) bool {
	return m.call(ctx, "status") == nil || ctx.Err() != nil
}

const consoleTail = 6000

// Console is the end of what it wrote since it booted.
func (m *Machine) Console() string {
	data, err := os.ReadFile(filepath.Join(m.Data, "console.log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(0, len(data)-consoleTail):]))
}

// Wipe ends it and deletes its disk, also where the run was interrupted.
func (m *Machine) Wipe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = m.call(ctx, "wipe")
}
