// Command peers measures Halley, what others would run in its place, and a bare echo server, one after the other on one core of
// this machine, and says beside the figures what each of them promises. It installs what it needs and stops only what it started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/floor"
)

// options are the command's flags.
type options struct {
	repository string
	binary     string
	peers      string
	scenarios  string
	divide     int
	during     time.Duration
	within     time.Duration
	dir        string
	out        string
	command    string

	floorServer string
	serverCore  int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := perform(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func perform(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.StringVar(&o.repository, "repository", ".", "root of the source tree")
	flags.StringVar(&o.binary, "binary", "halley", "Halley's binary, seen from the repository")
	flags.StringVar(&o.peers, "peers", "", "patterns of rows with commas between, such as floor,halley,nats*; empty: all of "+strings.Join(names(), ", "))
	flags.StringVar(&o.scenarios, "scenarios", "", "patterns of columns, such as idle-*,pairs-1; empty: all")
	flags.IntVar(&o.divide, "divide", 1, "take so many times fewer connections: shows that all of it runs, not what it costs")
	flags.DurationVar(&o.during, "during", 5*time.Second, "length of a measured interval, and of what idle connections rest; the warm-up is two fifths of it")
	flags.DurationVar(&o.within, "within", 25*time.Minute, "bound of the whole run; the table says what did not fit in")
	flags.StringVar(&o.dir, "dir", "", "where servers keep their data, in folders that are deleted; empty: the system's for temporary files")
	flags.StringVar(&o.out, "out", "benchmarks/results", "folder for the results, as DATE-peers.json and .md; empty: none are kept")
	flags.StringVar(&o.command, "command", "", "what to call the command in the results; empty: what it is")
	flags.StringVar(&o.floorServer, floorFlag, "", "be the floor's server, in this mode, until a signal comes")
	flags.IntVar(&o.serverCore, "server-core", -1, "core of the servers; the generator gets the others. -1: the last")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if _, err := raiseDescriptors(); err != nil {
		return err
	}
	if o.floorServer != "" {
		return floor.Serve(ctx, floor.Mode(o.floorServer), nil, out)
	}
	if o.command == "" {
		o.command = "peers " + strings.Join(args, " ")
	}
	if o.serverCore < 0 {
		return o.pin(args)
	}
	return o.run(ctx, out)
}

func names() (list []string) {
	for _, p := range peers() {
		list = append(list, p.name)
	}
	return list
}

// pin starts this program anew on the cores of the generator.
func (o options) pin(args []string) error {
	cores, err := allowedCores()
	if err != nil {
		return err
	}
	others := make([]string, 0, len(cores))
	for _, n := range cores[:max(1, len(cores)-1)] {
		others = append(others, strconv.Itoa(n))
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	call := slices.Concat([]string{"taskset", "-c", strings.Join(others, ","), self}, args,
		[]string{"-server-core", strconv.Itoa(cores[len(cores)-1]), "-command", o.command})
	return syscall.Exec(taskset, call, os.Environ())
}

// sized are the columns, and how much each measures.
func (o options) sized() (sizes, []scenario, error) {
	if o.divide < 1 || o.divide > 1000 || o.during <= 0 {
		return sizes{}, nil, errors.New("-divide is between 1 and 1000, and -during longer than nothing")
	}
	z := sizes{
		idle: 10_000 / o.divide, pairs: 1000 / o.divide, rooms: [2]int{1000 / o.divide, 10_000 / o.divide}, text: 100,
		warmup: o.during * 2 / 5, during: o.during, rests: o.during,
	}
	all := []scenario{
		{Name: "idle-ws", Kind: idle, Connections: z.idle},
		{Name: "idle-tcp", Kind: idle, TCP: true, Connections: z.idle},
		{Name: "pairs-1", Kind: pairs, Connections: 2 * z.pairs, Outstanding: 1},
		{Name: "pairs-4", Kind: pairs, Connections: 2 * z.pairs, Outstanding: 4},
	}
	for _, n := range z.rooms {
		all = append(all, scenario{Name: "room-" + strconv.Itoa(n), Kind: room, Connections: n})
	}
	chosen, err := pick(all, o.scenarios, func(s scenario) string { return s.Name })
	return z, chosen, err
}

// pick takes those whose names match one of the patterns.
func pick[T any](all []T, patterns string, name func(T) string) (chosen []T, err error) {
	if patterns == "" {
		return all, nil
	}
	wanted := map[string]bool{}
	for pattern := range strings.SplitSeq(patterns, ",") {
		found := false
		for _, one := range all {
			ok, err := filepath.Match(pattern, name(one))
			if err != nil {
				return nil, fmt.Errorf("%q: %w", pattern, err)
			}
			if ok {
				wanted[name(one)], found = true, true
			}
		}
		if !found {
			var known []string
			for _, one := range all {
				known = append(known, name(one))
			}
			return nil, fmt.Errorf("%q matches none of %s", pattern, strings.Join(known, ", "))
		}
	}
	for _, one := range all {
		if wanted[name(one)] {
			chosen = append(chosen, one)
		}
	}
	return chosen, nil
}

// descriptorsBeside are what a process needs beside its connections.
const descriptorsBeside = 1000

func (o options) run(ctx context.Context, out io.Writer) error {
	z, scenarios, err := o.sized()
	if err != nil {
		return err
	}
	rows, err := pick(peers(), o.peers, func(p peer) string { return p.name })
	if err != nil {
		return err
	}
	if limit, err := raiseDescriptors(); err != nil {
		return err
	} else if need := z.idle + descriptorsBeside; limit < need {
		return fmt.Errorf("a process may open %d files, and needs %d: raise the limit (ulimit -n), or take -divide", limit, need)
	}
	cores, err := allowedCores()
	if err != nil {
		return err
	}
	repository, err := filepath.Abs(o.repository)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "halley-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder for temporary files.
	r := &rig{
		repository: repository, binary: filepath.Join(repository, o.binary), dir: dir, core: o.serverCore, loops: min(2, len(cores)),
		sizes: z, port: firstPort,
	}
	bounded, cancel := context.WithTimeoutCause(ctx, o.within, errors.New("the whole run took too long"))
	defer cancel()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	got := &result{
		Command: o.command, Started: time.Now().UTC(), Environment: benchmarks.Surroundings(), ServerCore: o.serverCore,
		Shared: slices.Contains(cores, o.serverCore), Loops: r.loops,
		TextBytes: z.text, WarmupS: z.warmup.Seconds(), DuringS: z.during.Seconds(), RestsS: z.rests.Seconds(), Scenarios: scenarios,
	}
	// This process may not see all of them any more.
	got.Environment.Cores = len(cores)
	if !got.Shared {
		got.Environment.Cores++
	}
	got.Commit, _ = r.command(ctx, "git", "rev-parse", "--short", "HEAD") // A tree without history has none.
	for _, p := range rows {
		if bounded.Err() != nil {
			got.Rows = append(got.Rows, &row{Name: p.name, Title: p.title, Promises: p.promises, Error: context.Cause(bounded).Error()})
			continue
		}
		got.Rows = append(got.Rows, p.run(bounded, r, scenarios, say))
	}
	got.Seconds = time.Since(got.Started).Seconds()
	got.compare()
	say("")
	if err := got.writeMarkdown(out); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted, so nothing is kept: %w", err)
	}
	return o.keep(got, say)
}

// keep writes the results.
func (o options) keep(got *result, say func(string, ...any)) error {
	if o.out == "" {
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	base := filepath.Join(o.out, got.Started.Format(time.DateOnly)+"-peers")
	for name, write := range map[string]func(io.Writer) error{base + ".json": got.writeJSON, base + ".md": got.writeMarkdown} {
		if err := benchmarks.WriteFile(name, write); err != nil {
			return err
		}
		say("wrote %s", name)
	}
	return nil
}
