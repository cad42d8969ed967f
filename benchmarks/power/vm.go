package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// machine loses power when it is cut: it keeps what was synced, and nothing else has to be there after the next start.
type machine interface {
	// start boots it and returns when its programs run.
	start(ctx context.Context) error
	cut(ctx context.Context) error
	// running reports whether it is on: one whose programs have ended turns itself off.
	running(ctx context.Context) bool
	// console is the end of what it wrote since it booted.
	console() string
}

// vm is deploy/vm/vm.sh.
type vm struct {
	script string
	data   string
	env    []string
}

func (v *vm) call(ctx context.Context, verb string) (string, error) {
	cmd := exec.CommandContext(ctx, v.script, verb)
	cmd.Env = append(os.Environ(), v.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(v.script), verb, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (v *vm) start(ctx context.Context) error {
	_, err := v.call(ctx, "start")
	return err
}

func (v *vm) cut(ctx context.Context) error {
	_, err := v.call(ctx, "cut")
	return err
}

func (v *vm) running(ctx context.Context) bool {
	_, err := v.call(ctx, "status")
	return err == nil || ctx.Err() != nil
}

const consoleTail = 6000

func (v *vm) console() string {
	data, err := os.ReadFile(filepath.Join(v.data, "console.log"))
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-consoleTail):])
}

// wipe ends the machine also where the run was interrupted.
func (v *vm) wipe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, _ = v.call(ctx, "wipe")
}
