// Command chaos hurts a running Halley in ways that follow from a seed, while scripted devices write to each other, and then says
// whether every promise was kept. It never looks inside: it sees what devices, the HTTP API and the admin ports show.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/halley-im/halley/benchmarks/chaos/network"
)

// options are the command's.
type options struct {
	seed     uint64
	minutes  float64
	faults   string
	topology string
	binary   string
	root     string
	short    bool
	keep     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

func command(ctx context.Context, args []string, out io.Writer) int {
	o, err := parse(args, time.Now(), out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintln(out, err)
		return 2
	}
	// A single process has no network to cut; without its own mounts it only lacks a disk to fill.
	if err := network.Isolate(); err != nil && (o.topology == "tiers" || !errors.Is(err, network.ErrDenied)) {
		_, _ = fmt.Fprintln(out, err)
		return 2
	}
	r, err := newRun(o, out)
	if err != nil {
		_, _ = fmt.Fprintln(out, err)
		return 2
	}
	return r.run(ctx)
}

func parse(args []string, now time.Time, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Uint64Var(&o.seed, "seed", 0, "what everything follows from; 0 takes the date")
	flags.Float64Var(&o.minutes, "minutes", 3, "how long it is hurt; starting, healing and judging come on top")
	flags.StringVar(&o.faults, "faults", "", "kinds of faults, patterns with commas between; empty is all")
	flags.StringVar(&o.topology, "topology", "tiers", "serve or tiers")
	flags.StringVar(&o.binary, "binary", "halley", "the program under test")
	flags.StringVar(&o.root, "root", ".", "the repository, whose deploy/local runs the tiers")
	flags.BoolVar(&o.short, "short", false, "few people: for CI")
	flags.StringVar(&o.keep, "keep", "", "folder for data and logs, left there; empty is one that is removed if all went well")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.seed == 0 {
		y, m, d := now.UTC().Date()
		o.seed = uint64(y*10_000 + int(m)*100 + d)
	}
	if o.minutes <= 0 || flags.NArg() > 0 {
		return o, errors.New("chaos: -minutes must be above 0, and there are no arguments but flags")
	}
	for _, path := range []*string{&o.binary, &o.root, &o.keep} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, nil
}

// repeat is the line that runs the same again.
func (o options) repeat() string {
	line := fmt.Sprintf("make chaos SEED=%d MINUTES=%g TOPOLOGY=%s", o.seed, o.minutes, o.topology)
	if o.short {
		line = fmt.Sprintf("make chaos-short SEED=%d TOPOLOGY=%s", o.seed, o.topology)
	}
	if o.faults != "" {
		line += fmt.Sprintf(" FAULTS='%s'", o.faults)
	}
	return line
}
