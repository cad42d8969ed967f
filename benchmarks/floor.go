package benchmarks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/halley-im/halley/benchmarks/floor"
	"github.com/halley-im/halley/benchmarks/generator"
)

// ServeFloor is the child process of RunFloor: the bare echo server, until parent is closed or ctx ends.
func ServeFloor(ctx context.Context, parent io.Reader, out io.Writer) error {
	return floor.Serve(ctx, parent, out)
}

// RunFloor measures the bare echo server with the same generator: the least that a message costs on this machine today.
func RunFloor(ctx context.Context, cfg FloorConfig, out io.Writer) (*Report, error) {
	if cfg.Connections%2 != 0 || cfg.Outstanding < 1 || len(cfg.Server) == 0 {
		return nil, errors.New("the floor needs pairs of connections, --outstanding and the command of its server")
	}
	child, at, err := startFloor(ctx, cfg.Server)
	if err != nil {
		return nil, err
	}
	defer child.stop()
	cfg.Transport, cfg.Path = string(generator.WebSocket), "/"
	cfg.Targets, cfg.Admin = []string{at.Target}, []string{at.Admin}
	r, err := newRun("floor", cfg.Config, tickClosed, out)
	if err != nil {
		return nil, err
	}
	r.report.Config.Outstanding = cfg.Outstanding
	p := floor.NewPingPong(r.fleet, cfg.Connections, cfg.Outstanding, cfg.Size)
	if err := r.fleet.Start(); err != nil {
		return nil, err
	}
	if err := r.connect(ctx, p.Connect, p.Up); err != nil {
		r.fleet.Stop()
		return nil, err
	}
	defer progress(cfg.Progress, out, func() string { return fmt.Sprintf("floor: %d echoed", p.Echoed()) })()
	p.Begin()
	pause(ctx, cfg.Warmup)
	r.from, r.selfFrom = r.sample(ctx), spent()
	before := p.Echoed()
	pause(ctx, cfg.Duration)
	r.to, r.selfTo = r.sample(ctx), spent()
	echoed := p.Echoed() - before
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Wait)
	defer cancel()
	haltErr := p.Halt(bounded)
	up, lost, last := p.Up()
	r.finish(echoed, echoed)
	if lost > 0 || haltErr != nil {
		return nil, errors.Join(fmt.Errorf("the floor lost %d connections: %w", lost, last), haltErr)
	}
	rep := r.report
	rep.Connections = up
	rep.Sent, rep.Acked, rep.Delivered = echoed, echoed, echoed
	rep.DeliverMs = latency(p.Latency())
	return rep, nil
}

type floorChild struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// startFloor runs the server's command and reads where it listens.
func startFloor(ctx context.Context, command []string) (*floorChild, floor.Endpoints, error) {
	var at floor.Endpoints
	cmd := exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, at, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, at, err
	}
	if err := cmd.Start(); err != nil {
		return nil, at, err
	}
	c := &floorChild{cmd, stdin}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &at)
	}
	if err != nil {
		c.stop()
		return nil, at, fmt.Errorf("floor server: %w", err)
	}
	return c, at, nil
}

// stop closes the child's standard input, which ends it.
func (c *floorChild) stop() {
	_ = c.stdin.Close()
	_ = c.cmd.Wait()
}
