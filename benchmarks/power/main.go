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
	only        string
	within      time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("power", flag.ContinueOnError)
	flags.StringVar(&o.repository, "repository", ".", "root of the source tree: both servers are built from it")
	flags.Uint64Var(&o.seed, "seed", 0, "decides when the power is cut; 0 takes one from the clock")
	flags.IntVar(&o.cuts, "cuts", 6, "cuts of each as it ships")
	flags.StringVar(&o.only, "only", "", "serve (all tiers in one process) or log (three NATS servers); empty: both")
	flags.IntVar(&o.controlCuts, "control-cuts", 12, "most cuts of the control, which ends with the first that loses something; 0: no control")
	flags.DurationVar(&o.within, "within", 10*time.Minute, "how long the servers may take, after a boot, to answer everything again")
	if err := flags.Parse(args); err != nil {
		return err // The set has said it.
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	say(out, "seed=%d", o.seed)
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

// say writes a line of the report; whoever closed it does not want to know.
func say(out io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

// all tries each subject. The last line sums what ships.
func (o options) all(ctx context.Context, dir string, out io.Writer) error {
	var failed error
	var sum result
	for _, s := range []subject{serve(), logs()} {
		if o.only != "" && o.only != s.name {
			continue
		}
		shipped, err := o.both(ctx, s, filepath.Join(dir, s.name), out)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		sum = sum.add(shipped)
	}
	if failed != nil {
		say(out, "%v", failed)
	}
	say(out, "%v", sum)
	return failed
}

// both runs the control first: without it the rest is worth nothing.
func (o options) both(ctx context.Context, s subject, dir string, out io.Writer) (shipped result, failed error) {
	if o.controlCuts > 0 {
		say(out, "%s, control: the log is synced every two minutes, as by NATS's default", s.name)
		control, err := o.one(ctx, s, filepath.Join(dir, "control"), true, out)
		say(out, "%s, control: %v", s.name, control)
		switch {
		case control.lost > 0: // What else befalls a server that has lost its log is not asked.
		case ctx.Err() == nil && control.cuts > 0 && (errors.Is(err, errGone) || errors.Is(err, errSilent)):
			say(out, "%s, control: none of %d acknowledged messages can be had again: %v", s.name, control.acked, err)
		case err != nil:
			failed = fmt.Errorf("control: %w", err)
		default:
			failed = errHarmless
		}
	}
	say(out, "%s, shipped: the log is synced with every block", s.name)
	shipped, err := o.one(ctx, s, filepath.Join(dir, "shipped"), false, out)
	switch {
	case err != nil:
		failed = errors.Join(failed, err)
		shipped.violations++ // It did not even come that far.
	case !shipped.kept():
		failed = errors.Join(failed, errBroken)
	}
	say(out, "%s, shipped: %v", s.name, shipped)
	return shipped, failed
}

// one puts a subject into a machine of its own, and cuts.
func (o options) one(ctx context.Context, s subject, dir string, control bool, out io.Writer) (result, error) {
	g, err := newGuest(ctx, s, o.repository, dir, control)
	if err != nil {
		return result{}, err
	}
	defer g.machine.Wipe()
	e := experiment{
		machine: g.machine, out: out, cuts: o.cuts, within: o.within, seed: o.seed,
		load:   func(ctx context.Context, name string) (load, error) { return s.load(ctx, g, name) },
		random: rand.New(rand.NewPCG(o.seed, 1)),
		grace:  500 * time.Millisecond, again: 6 * time.Second,
	}
	if control {
		// One that has lost its log may never answer again.
		e.cuts, e.untilLost, e.within = o.controlCuts, true, o.within/4
	}
	return e.run(ctx)
}
