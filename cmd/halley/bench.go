package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/observe"
)

type benchCmd struct {
	P2P     benchP2PCmd     `cmd:"" name:"p2p" help:"Pairs talk to each other."`
	Conn    benchConnCmd    `cmd:"" help:"Connect and hold idle connections."`
	Group   benchGroupCmd   `cmd:"" help:"Groups talk."`
	Storm   benchStormCmd   `cmd:"" help:"All devices lose their connections at once, and come back."`
	Floor   benchFloorCmd   `cmd:"" help:"Measure a bare echo server: the least that a message can cost on this machine."`
	Server  floorServerCmd  `cmd:"" name:"floor-server" hidden:"" help:"Run the echo server of bench floor."`
	Run     benchRunCmd     `cmd:"" help:"Run a scenario: a load that changes."`
	Compare benchCompareCmd `cmd:"" help:"Compare the results of two runs."`
	Worker  benchWorkerCmd  `cmd:"" hidden:"" help:"Hold a part of a run's connections; bench starts it, and talks to it over its standard input and output."`
}

// benchFlags are every verb's. In the folder of a running serve none of them is needed.
type benchFlags struct {
	Connections int           `name:"connections" short:"n" default:"2000" placeholder:"N" help:"Devices that connect (${default})."`
	Duration    time.Duration `default:"30s" help:"Length of the measured interval (${default})."`
	Out         string        `placeholder:"FILE" help:"Write the result as JSON."`
	HTML        string        `name:"html" placeholder:"FILE" help:"Write it as a page with plots, in one file."`
	CSV         string        `name:"csv" placeholder:"FILE" help:"Write what was seen in each second."`
	MaxP99      time.Duration `name:"max-p99" placeholder:"DURATION" help:"Fail where the 99th percentile of deliveries is above; 100ms with --find-max."`
	Warmup      time.Duration `default:"2s" help:"What goes before the interval and is not measured (${default})."`
	Ramp        ramp          `default:"0s" placeholder:"DURATION|N/s" help:"Spread the connects over so long, or make N in a second; 0 is as fast as the server takes them."`
	Settle      time.Duration `default:"20s" help:"How long idle connections rest before memory is read (${default})."`
	Wait        time.Duration `default:"30s" help:"Longest wait for what is in flight at the end (${default})."`
	Transport   string        `default:"ws" enum:"ws,wss,tcp,tls" help:"ws or tcp, or over TLS wss or tls (${default})."`
	CAFile      string        `name:"ca-file" placeholder:"FILE" help:"Authorities that vouch for the server of wss and tls, PEM. Otherwise the system's."`
	Insecure    bool          `help:"Believe any certificate."`
	Size        int           `default:"100" placeholder:"BYTES" help:"Text of a message (${default})."`
	Seed        uint64        `default:"1" help:"Makes users and texts the same again (${default})."`
	Processes   int           `default:"0" placeholder:"N" help:"Processes of the generator; 0 is as many as their descriptors demand."`
	Workers     int           `default:"0" placeholder:"N" help:"Event loops of the generator, in all; 0 chooses."`
	Source      []string      `placeholder:"ADDRESS" help:"Local addresses to connect from, in turn: 127.0.0.2, or a range 127.0.0.2-20. On loopback they are chosen where one is not enough."`
	Target      []string      `placeholder:"URL" help:"ws://host:port/path, wss://…, tcp://host:port, tls://… or host:port; many, or a list with commas, in turn. Otherwise the serve of this folder."`
	Admin       []string      `placeholder:"URL" help:"Admin ports of every tier, http://host:port, for the server's figures."`
	SecretFile  string        `name:"secret-file" placeholder:"FILE" help:"Signing keys of the server's tokens."`
	DataDir     string        `name:"data-dir" default:"halley-data" placeholder:"DIR" help:"Data folder of the serve to load (${default})."`
	App         string        `default:"main" placeholder:"NAME" help:"App of the devices (${default})."`
	Audience    string        `default:"halley" placeholder:"NAME" help:"Audience of their tokens (${default})."`
}

// ramp is a duration, or a rate of connects.
type ramp struct {
	over time.Duration
	rate float64
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *ramp) UnmarshalText(text []byte) (err error) {
	if n, ok := strings.CutSuffix(string(text), "/s"); ok {
		if r.rate, err = strconv.ParseFloat(n, 64); err != nil || !(r.rate > 0) {
			return fmt.Errorf("%q is not a rate such as 5000/s", text)
		}
		return nil
	}
	r.over, err = time.ParseDuration(string(text))
	return err
}

// of is how long the ramp of n connects takes.
func (r ramp) of(n int) time.Duration {
	if r.rate > 0 {
		return time.Duration(float64(n) / r.rate * float64(time.Second))
	}
	return r.over
}

// loadFlags choose between the two ways of sending.
type loadFlags struct {
	Outstanding int     `placeholder:"K" help:"Closed loop instead: each conversation keeps K messages in flight."`
	Rate        float64 `placeholder:"N" help:"Open loop: N messages per second in all, latency from when each was due. 1000 if --outstanding is not set."`
	FindMax     bool    `name:"find-max" help:"Search the highest rate at which --max-p99 and every promise hold, in at most 16 runs of --duration. --rate is the first."`
}

// firstRate is what is sent, and where --find-max begins, if nothing else is said.
const firstRate = 1000

// measureLoad measures the load, or searches the highest rate of it.
func (f benchFlags) measureLoad(p *program, l loadFlags, run func(context.Context, benchmarks.Load) (*benchmarks.Report, error)) error {
	if !l.FindMax {
		return f.measure(p, func(ctx context.Context) (*benchmarks.Report, error) { return run(ctx, l.load()) })
	}
	if l.Outstanding > 0 {
		return errors.New("--find-max searches a rate: --outstanding has none")
	}
	if f.MaxP99 == 0 {
		f.MaxP99 = 100 * time.Millisecond
	}
	first := l.load().Rate
	return f.measure(p, func(ctx context.Context) (*benchmarks.Report, error) {
		return benchmarks.FindMax(ctx, first, f.MaxP99, p.stderr, func(ctx context.Context, rate float64) (*benchmarks.Report, error) {
			return run(ctx, benchmarks.Load{Rate: rate})
		})
	})
}

func (f loadFlags) load() benchmarks.Load {
	if f.Outstanding == 0 && f.Rate == 0 {
		f.Rate = firstRate
	}
	return benchmarks.Load{Outstanding: f.Outstanding, Rate: f.Rate}
}

// config is the configuration without a server: what bench floor needs.
func (f benchFlags) config(p *program) benchmarks.Config {
	c := benchmarks.Default()
	c.Connections, c.Duration, c.Warmup, c.Settle, c.Wait = f.Connections, f.Duration, f.Warmup, f.Settle, f.Wait
	c.Ramp = f.Ramp.of(f.Connections)
	c.Transport, c.Size, c.Seed, c.Sources = f.Transport, f.Size, f.Seed, f.Source
	c.Processes, c.Workers = f.Processes, f.Workers
	if self, err := os.Executable(); err == nil { // Else the run says that it needs it, where it does.
		c.Worker = []string{self, "bench", "worker"}
	}
	c.App, c.Audience = f.App, f.Audience
	c.Command = "halley " + strings.Join(p.args, " ")
	c.Progress = observe.IsTerminal(p.stderr)
	return c
}

// aimed is config with a server: the one that was named, or the one that runs in this folder.
func (f benchFlags) aimed(p *program) (benchmarks.Config, error) {
	c := f.config(p)
	if c.Insecure = f.Insecure; f.CAFile != "" {
		var err error
		if c.Authorities, err = os.ReadFile(f.CAFile); err != nil {
			return c, fmt.Errorf("--ca-file: %w", err)
		}
	}
	keys := f.SecretFile
	c.Admin = f.Admin
	if len(f.Target) > 0 {
		if err := f.aimAtTargets(&c); err != nil {
			return c, err
		}
	} else {
		at, err := readEndpoints(f.DataDir)
		if err != nil {
			return c, err
		}
		if err := f.aimAtServe(&c, at); err != nil {
			return c, err
		}
		if keys == "" {
			keys = at.SecretFile
		}
	}
	if keys == "" {
		keys = filepath.Join(f.DataDir, tokenKeysName)
	}
	list, err := auth.LoadKeys(keys)
	if err != nil {
		return c, fmt.Errorf("%w (--secret-file names the server's)", err)
	}
	c.Key = list[0]
	return c, nil
}

// aimAtTargets takes URLs; all must be of one transport and path.
func (f benchFlags) aimAtTargets(c *benchmarks.Config) error {
	for i, target := range f.Target {
		if !strings.Contains(target, "://") {
			target = f.Transport + "://" + target
		}
		u, err := url.Parse(target)
		if err != nil || u.Host == "" || !slices.Contains([]string{"ws", "wss", "tcp", "tls"}, u.Scheme) {
			return fmt.Errorf("--target %s: want ws://host:port/path, wss://…, tcp://host:port, tls://… or host:port", f.Target[i])
		}
		path := c.Path
		if u.Path != "" {
			path = u.Path
		}
		if i > 0 && (u.Scheme != c.Transport || path != c.Path) {
			return errors.New("--target: all must have one transport and path")
		}
		c.Transport, c.Path = u.Scheme, path
		c.Targets = append(c.Targets, u.Host)
	}
	return nil
}

func (f benchFlags) aimAtServe(c *benchmarks.Config, at endpoints) error {
	if len(c.Admin) == 0 {
		c.Admin = []string{at.Admin}
	}
	if f.Transport == "tcp" || f.Transport == "tls" {
		address := map[string]string{"tcp": at.TCP, "tls": at.TLS}[f.Transport]
		if address == "" {
			return fmt.Errorf("this serve has no listener for %s", f.Transport)
		}
		c.Targets = []string{address}
		return nil
	}
	u, err := url.Parse(map[string]string{"ws": at.WS, "wss": at.WSS}[f.Transport])
	if err != nil || u.Host == "" {
		return fmt.Errorf("this serve has no listener for %s", f.Transport)
	}
	c.Targets, c.Path = []string{u.Host}, u.Path
	return nil
}

// measure runs a verb until it is done; an interrupt cuts the interval short, and the verdict is given all the same.
func (f benchFlags) measure(p *program, run func(ctx context.Context) (*benchmarks.Report, error)) error {
	if _, err := raiseDescriptors(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second interrupt ends the program as if nobody had caught the first.
	defer context.AfterFunc(ctx, stop)()
	report, err := run(ctx)
	if err != nil {
		return err
	}
	report.Summary(p.stdout)
	for _, file := range []struct {
		path  string
		write func(io.Writer) error
	}{{f.Out, report.WriteJSON}, {f.HTML, report.WriteHTML}, {f.CSV, report.WriteCSV}} {
		if file.path == "" {
			continue
		}
		if err := benchmarks.WriteFile(file.path, file.write); err != nil {
			return err
		}
	}
	if most := float64(f.MaxP99) / 1e6; most > 0 && report.DeliverMs.P99 > most && report.Err() == nil {
		return fmt.Errorf("p99 of deliveries is %.2f ms, above %v", report.DeliverMs.P99, f.MaxP99)
	}
	return report.Err()
}

type benchP2PCmd struct {
	benchFlags
	loadFlags
	Floor time.Duration `default:"0s" placeholder:"DURATION" help:"Measure the bare echo server for so long first, and tell the figures as multiples."`
}

func (c benchP2PCmd) Run(p *program) error {
	cfg, err := c.aimed(p)
	if err != nil {
		return err
	}
	pairs := benchmarks.P2PConfig{Config: cfg}
	if c.Floor > 0 {
		if pairs.Floor, err = c.floor(p, max(1, c.Outstanding)); err != nil {
			return err
		}
		pairs.Floor.Duration = c.Floor
	}
	return c.measureLoad(p, c.loadFlags, func(ctx context.Context, load benchmarks.Load) (*benchmarks.Report, error) {
		pairs.Load = load
		return benchmarks.RunP2P(ctx, pairs, p.stderr)
	})
}

type benchConnCmd struct{ benchFlags }

func (c benchConnCmd) Run(p *program) error {
	cfg, err := c.aimed(p)
	if err != nil {
		return err
	}
	return c.measure(p, func(ctx context.Context) (*benchmarks.Report, error) {
		return benchmarks.RunConn(ctx, benchmarks.ConnConfig{Config: cfg}, p.stderr)
	})
}

type benchGroupCmd struct {
	benchFlags
	loadFlags
	Members int `default:"20" placeholder:"N" help:"Members of each group (${default}); -n is rounded down to whole groups."`
	Senders int `default:"2" placeholder:"N" help:"Members of each group who send (${default})."`
}

func (c benchGroupCmd) Run(p *program) error {
	cfg, err := c.aimed(p)
	if err != nil {
		return err
	}
	if c.Members < 1 || c.Connections < c.Members {
		return fmt.Errorf("-n %d connections do not make a group of %d members", c.Connections, c.Members)
	}
	groups := benchmarks.GroupConfig{
		Config: cfg, Groups: c.Connections / c.Members, Members: c.Members, Senders: c.Senders,
	}
	return c.measureLoad(p, c.loadFlags, func(ctx context.Context, load benchmarks.Load) (*benchmarks.Report, error) {
		groups.Load = load
		return benchmarks.RunGroup(ctx, groups, p.stderr)
	})
}

type benchStormCmd struct {
	benchFlags
	Rate float64 `default:"200" placeholder:"N" help:"Messages per second meanwhile, in all (${default})."`
	Cuts int     `default:"1" placeholder:"N" help:"How often all connections are cut, each time when everybody has everything again; 0 leaves it to others for --duration (${default})."`
}

func (c benchStormCmd) Run(p *program) error {
	cfg, err := c.aimed(p)
	if err != nil {
		return err
	}
	storm := benchmarks.StormConfig{Config: cfg, Load: benchmarks.Load{Rate: c.Rate}, Cuts: c.Cuts}
	return c.measure(p, func(ctx context.Context) (*benchmarks.Report, error) {
		return benchmarks.RunStorm(ctx, storm, p.stderr)
	})
}

type benchFloorCmd struct {
	benchFlags
	Outstanding int `default:"1" placeholder:"K" help:"Messages that each pair keeps in flight (${default})."`
}

func (c benchFloorCmd) Run(p *program) error {
	cfg, err := c.floor(p, c.Outstanding)
	if err != nil {
		return err
	}
	return c.measure(p, func(ctx context.Context) (*benchmarks.Report, error) {
		return benchmarks.RunFloor(ctx, cfg, p.stderr)
	})
}

// floor runs this very program as the echo server: its CPU and memory must not mix with the generator's.
func (f benchFlags) floor(p *program, outstanding int) (benchmarks.FloorConfig, error) {
	self, err := os.Executable()
	if err != nil {
		return benchmarks.FloorConfig{}, err
	}
	return benchmarks.FloorConfig{
		Config: f.config(p), Outstanding: outstanding, Server: []string{self, "bench", "floor-server"},
	}, nil
}

type floorServerCmd struct{}

func (floorServerCmd) Run(p *program) error {
	if _, err := raiseDescriptors(); err != nil {
		return err
	}
	return benchmarks.ServeFloor(context.Background(), p.stdin, p.stdout)
}

type benchRunCmd struct {
	Scenario string `arg:"" placeholder:"SCENARIO.yaml" help:"Who talks, and the phases of the load. Its connections, size and ramp go before the flags; --duration and --warmup are its phases'."`
	benchFlags
}

func (c benchRunCmd) Run(p *program) error {
	scenario, err := benchmarks.ReadScenario(c.Scenario)
	if err != nil {
		return err
	}
	cfg, err := c.aimed(p)
	if err != nil {
		return err
	}
	return c.measure(p, func(ctx context.Context) (*benchmarks.Report, error) {
		return benchmarks.RunScenario(ctx, cfg, scenario, p.stderr)
	})
}

type benchCompareCmd struct {
	Before    string             `arg:"" placeholder:"BEFORE.json" help:"What --out of a run wrote."`
	After     string             `arg:"" placeholder:"AFTER.json" help:"The same, of the run to judge."`
	Threshold float64            `default:"10" placeholder:"PERCENT" help:"Fail where a figure is worse by more than that (${default})."`
	Limit     map[string]float64 `placeholder:"NAME=PERCENT" help:"Only these figures count, each with its own threshold: deliver_ms.p99=20."`
}

func (c benchCompareCmd) Run(p *program) error {
	before, err := benchmarks.ReadReport(c.Before)
	if err != nil {
		return err
	}
	after, err := benchmarks.ReadReport(c.After)
	if err != nil {
		return err
	}
	return benchmarks.Compare(p.stdout, before, after, benchmarks.Thresholds{All: c.Threshold, Only: c.Limit})
}

type benchWorkerCmd struct{}

func (benchWorkerCmd) Run(p *program) error {
	p.takeSlack()
	if _, err := raiseDescriptors(); err != nil {
		return err
	}
	// An interrupt from a terminal is for the run: its workers end when it lets them.
	signal.Ignore(os.Interrupt)
	return benchmarks.ServeWorker(context.Background(), p.stdin, p.stdout)
}
