// Command million holds a million authenticated connections on one machine: some fifty comets in one cluster with real NATS, Redis and
// Cassandra, and as many processes of the generator. It measures and reports; it never changes anything outside the namespaces that it
// makes, and what it started ends with it.
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
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	connections int
	comets      int
	steps       []string
	talkers     int
	rate        float64
	seconds     int
	storm       int
	broadcasts  int
	groupSize   int
	flatComets  int
	transport   string
	nats        int
	binary      string
	root        string
	out         string
	name        string
	minutes     float64
	keep        bool
}

// The steps, in their order.
const (
	stepFlat      = "flat"      // CPU per message with 2 comets and with 32.
	stepMemory    = "memory"    // Bytes per connection with 1,000 and with 19,000 in one comet.
	stepBroadcast = "broadcast" // A message to every connection, through large groups.
	stepP2P       = "p2p"
	stepIdle      = "idle"
	stepStorm     = "storm"
	stepOne       = "one"   // All connections in one comet, in a virtual machine; a run of its own.
	stepCosts     = "costs" // What halley plan reckons with; a run of its own.
)

var allSteps = []string{stepFlat, stepMemory, stepP2P, stepIdle, stepBroadcast, stepStorm, stepOne, stepCosts}

// usualSteps leave the broadcast out: to make its groups is as much work as everything else, and better done in a run of its own.
var usualSteps = []string{stepFlat, stepMemory, stepP2P, stepIdle, stepStorm}

func (o options) has(step string) bool { return slices.Contains(o.steps, step) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, "million:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	if dir := os.Getenv(insideVariable); dir != "" {
		return inside(ctx, o, dir, out)
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("-binary: %w", err)
	}
	need := o.need()
	say(out, "%s", need)
	if err := need.check(readMachine()); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "halley-million-")
	if err != nil {
		return err
	}
	if o.keep {
		say(out, "data and logs stay in %s", dir)
	} else {
		defer os.RemoveAll(dir) //nolint:errcheck // a folder for temporary files.
	}
	return isolate(ctx, dir, args, 2*(o.connections+o.talkers))
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var steps string
	flags := flag.NewFlagSet("million", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&o.connections, "connections", 1_000_000, "idle connections; those who talk come on top")
	flags.IntVar(&o.comets, "comets", 0, "comets; 0: as many as the descriptors of a process demand")
	flags.StringVar(&steps, "steps", strings.Join(usualSteps, ","), "what is measured beside connecting; broadcast is another, and one and costs, which stand alone")
	flags.IntVar(&o.talkers, "talkers", 10_000, "devices that write to each other while the others are idle")
	flags.Float64Var(&o.rate, "rate", 500, "their messages per second")
	flags.IntVar(&o.seconds, "seconds", 60, "how long they, and an idle cluster, are measured")
	flags.IntVar(&o.storm, "storm", 200_000, "devices that lose their connections at once")
	flags.IntVar(&o.broadcasts, "messages", 3, "messages to everybody")
	flags.IntVar(&o.groupSize, "group-size", 100_000, "most members of the groups that a broadcast goes to; Halley allows 100,000")
	flags.IntVar(&o.flatComets, "flat-comets", 32, "comets with which the cost of a message is compared with that of 2")
	flags.StringVar(&o.transport, "transport", "ws", "ws or tcp")
	flags.IntVar(&o.nats, "nats", 1, "NATS servers, and copies of each log: 1 or 3")
	flags.StringVar(&o.binary, "binary", "halley", "the program under test")
	flags.StringVar(&o.root, "root", ".", "the repository, whose deploy/local runs the services")
	flags.StringVar(&o.out, "out", filepath.Join("benchmarks", "results"), "folder of the report")
	flags.StringVar(&o.name, "name", "", "name of its files; empty is million and the date")
	flags.Float64Var(&o.minutes, "minutes", 90, "longest duration of it all")
	flags.BoolVar(&o.keep, "keep", false, "leave data and logs")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for _, step := range strings.FieldsFunc(steps, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.Contains(allSteps, step) {
			return o, fmt.Errorf("-steps: %q is none of %s", step, strings.Join(allSteps, ", "))
		}
		o.steps = append(o.steps, step)
	}
	o.talkers -= o.talkers % 2
	if o.storm = min(o.storm, o.connections/5*2); o.storm%2 == 1 { // Devices talk in pairs.
		o.storm--
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected %q: there are only flags", flags.Arg(0))
	}
	if err := o.check(); err != nil {
		return o, err
	}
	switch {
	case o.has(stepOne):
		o.comets, o.talkers = 1, 0
	case o.has(stepCosts):
		o.comets, o.connections, o.talkers, o.nats = costComets, costConnects, costDevices, 3
	}
	if o.comets == 0 {
		o.comets = cometsFor(o.connections + o.talkers)
		if o.has(stepStorm) { // Whose devices have comets to themselves.
			o.comets = max(o.comets, cometsFor(o.connections-o.storm)+cometsFor(o.storm))
		}
	}
	if most := o.comets * perComet(); o.connections+o.talkers > most && !o.has(stepOne) {
		return o, fmt.Errorf("-comets: %d hold %d connections, of %d", o.comets, most, o.connections+o.talkers)
	}
	if o.name == "" {
		o.name = "million-" + time.Now().UTC().Format(time.DateOnly)
		if !slices.Equal(o.steps, usualSteps) {
			o.name += "-" + strings.Join(o.steps, "-")
		}
	}
	for _, path := range []*string{&o.binary, &o.root, &o.out} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, nil
}

// check refuses numbers that cannot be.
func (o options) check() error {
	switch {
	case o.connections < 1000:
		return errors.New("-connections: at least 1,000")
	case o.talkers < 2 || o.storm < 2 || o.rate <= 0 || o.seconds < 1 || o.minutes <= 0:
		return errors.New("-talkers, -storm, -rate, -seconds, -minutes: above 0; devices talk in pairs")
	case o.broadcasts < 1 || o.broadcasts > 32 || o.groupSize < 2 || o.groupSize > 100_000:
		return errors.New("-messages: 1 to 32; -group-size: 2 to 100,000")
	case o.nats != 1 && o.nats != 3:
		return errors.New("-nats: 1 or 3")
	case o.transport != "ws" && o.transport != "tcp":
		return errors.New("-transport: ws or tcp")
	case (o.has(stepOne) || o.has(stepCosts)) && len(o.steps) > 1:
		return fmt.Errorf("-steps: each of %s and %s is a run of its own", stepOne, stepCosts)
	}
	return nil
}

// inside does it all, in namespaces of its own.
func inside(ctx context.Context, o options, dir string, out io.Writer) error {
	if err := settle(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(o.minutes*float64(time.Minute)), errors.New("-minutes are over"))
	defer cancel()
	m := newMillion(o, dir, out)
	failed := m.run(ctx)
	if failed != nil {
		m.report.Failure = failed.Error()
	}
	// What was measured until then is worth having.
	return errors.Join(failed, m.write())
}

// say writes a line; whoever closed the output does not want to know.
func say(out io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(out, "%s  %s\n", time.Now().UTC().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
