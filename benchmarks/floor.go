package benchmarks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/halley-im/halley/benchmarks/floor"
	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/traffic"
)

// ServeFloor is the child process of RunFloor: the bare echo server, until parent is closed or ctx ends.
func ServeFloor(ctx context.Context, parent io.Reader, out io.Writer) error {
	return floor.Serve(ctx, floor.Echo, parent, out)
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
	r, err := execute(ctx, pairs(verbFloor, cfg.Config, Load{Outstanding: cfg.Outstanding}), goOn, out)
	if err != nil {
		return nil, err
	}
	rep := r.report
	if lost := int64(cfg.Connections) - rep.Connections; lost > 0 {
		return nil, fmt.Errorf("the floor lost %d connections: %v", lost, rep.Warnings)
	}
	echoed := r.between().Acked
	rep.Sent, rep.Acked, rep.Delivered = echoed, echoed, echoed
	return rep, nil
}

// echoes is the work of a share that drives the echo server.
type echoes struct {
	still
	*floor.PingPong
}

// Connect implements work.
func (e echoes) Connect(i int) { e.PingPong.Connect(i) }

// Begin implements work.
func (e echoes) Begin(time.Duration) { e.PingPong.Begin() }

// Live implements work.
func (e echoes) Live() traffic.Live {
	n := e.Echoed()
	return traffic.Live{Acked: n, Delivered: n}
}

// Halt implements work.
func (e echoes) Halt() { e.PingPong.Halt() }

// Settle implements work.
func (e echoes) Settle(context.Context, time.Duration) (errs []error) {
	if _, _, last := e.Up(); last != nil {
		errs = append(errs, last)
	}
	return errs
}

// Judge implements work.
func (e echoes) Judge() *traffic.Result {
	r := traffic.NewResult()
	up, lost, _ := e.Up()
	r.Held, r.Deliver = up-lost, e.Latency()
	return r
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
