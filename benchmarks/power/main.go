// Command power cuts the power of a virtual machine in which Halley runs, while devices outside it send, and says whether
// everything that was acknowledged is there after each boot. It never touches the product but for one control: a build that
// syncs its log as NATS does by default, which must lose what was acknowledged, or the cuts proved nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	repository  string
	seed        uint64
	cuts        int
	controlCuts int
	within      time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "power:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("power", flag.ContinueOnError)
	flags.StringVar(&o.repository, "repository", ".", "root of the source tree: both servers are built from it")
	flags.Uint64Var(&o.seed, "seed", 0, "decides when the power is cut; 0 takes one from the clock")
	flags.IntVar(&o.cuts, "cuts", 6, "cuts of the server as it ships")
	flags.IntVar(&o.controlCuts, "control-cuts", 12, "most cuts of the control, which ends with the first that loses something; 0: no control")
	flags.DurationVar(&o.within, "within", 5*time.Minute, "how long the server may take, after a boot, to answer everything again")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	fmt.Fprintf(out, "seed=%d\n", o.seed)
	dir, err := os.MkdirTemp("", "halley-power-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder for temporary files.
	return o.all(ctx, dir, out)
}

var (
	errBroken   = errors.New("an acknowledged message is not as it was acknowledged")
	errHarmless = errors.New("with NATS's default sync_interval nothing was lost: these cuts prove nothing")
)

// all runs the control first: without it the rest is worth nothing. The last line is that of the server as it ships.
func (o options) all(ctx context.Context, dir string, out io.Writer) error {
	var failed error
	if o.controlCuts > 0 {
		fmt.Fprintln(out, "control: the log is synced every two minutes, as by NATS's default")
		result, err := o.one(ctx, filepath.Join(dir, "control"), true, out)
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
		fmt.Fprintf(out, "control: %v\n", result)
		if result.lost == 0 {
			failed = errHarmless
		}
	}
	fmt.Fprintln(out, "shipped: the log is synced with every block")
	result, err := o.one(ctx, filepath.Join(dir, "shipped"), false, out)
	if err != nil {
		failed = errors.Join(failed, err)
	} else if !result.kept() {
		failed = errors.Join(failed, errBroken)
	}
	fmt.Fprintln(out, result)
	return failed
}

// one builds a server, puts it into a machine of its own, and cuts.
func (o options) one(ctx context.Context, dir string, control bool, out io.Writer) (result, error) {
	guest, err := prepare(ctx, o.repository, dir, control)
	if err != nil {
		return result{}, err
	}
	defer guest.machine.wipe()
	e := experiment{
		machine: guest.machine, server: guest.server, token: guest.token, out: out,
		random: rand.New(rand.NewPCG(o.seed, 1)), cuts: o.cuts, within: o.within, seed: o.seed,
		grace: 500 * time.Millisecond, again: 6 * time.Second,
	}
	if control {
		e.cuts, e.untilLost = o.controlCuts, true
	}
	return e.run(ctx)
}
