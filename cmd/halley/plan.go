package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/halley-im/halley/pkg/plan"
)

type planCmd struct {
	Connections float64 `name:"connections" short:"n" placeholder:"N" help:"Connections at once, at the peak."`
	Rate        float64 `name:"rate" placeholder:"N" help:"Messages written per second, at the peak."`

	PeakToMean     float64 `name:"peak-to-mean" default:"3" placeholder:"N" help:"How many times the average the peak is (${default})."`
	Size           float64 `default:"100" placeholder:"BYTES" help:"Body of a message, on average (${default})."`
	Devices        float64 `default:"1.3" placeholder:"N" help:"Devices connected at once, of a user who is (${default})."`
	GroupShare     float64 `name:"group-share" default:"0.3" placeholder:"PART" help:"Part of the messages that goes to groups, 0 to 1 (${default})."`
	GroupMembers   float64 `name:"group-members" default:"20" placeholder:"N" help:"Members of the group that such a message goes to, on average (${default})."`
	Online         float64 `default:"0.3" placeholder:"PART" help:"Part of the members that is connected, 0 to 1 (${default})."`
	Conversations  float64 `default:"10" placeholder:"N" help:"Conversations in which a user who is connected talks (${default})."`
	SessionMinutes float64 `name:"session-minutes" default:"60" placeholder:"N" help:"Life of a connection, on average (${default})."`
	TLS            bool    `name:"tls" default:"true" negatable:"" help:"Whether comet ends TLS."`
	RetentionDays  float64 `name:"retention-days" default:"365" placeholder:"N" help:"How long history is kept (${default})."`
	LogHours       float64 `name:"log-hours" default:"2" placeholder:"N" help:"How long the logs have room for, at the peak, while history is away (${default})."`

	Loss           string  `enum:"none,node,zone" default:"zone" help:"What may be missing while the rest bears all: none, node or zone (${default})."`
	Zones          int     `default:"3" placeholder:"N" help:"Zones over which nodes are spread (${default})."`
	Headroom       float64 `default:"0.3" placeholder:"PART" help:"Part of each node that stays free even then (${default})."`
	RecoverSeconds float64 `name:"recover-seconds" default:"300" placeholder:"N" help:"Within which lost connections are made again (${default})."`
	PerComet       float64 `name:"connections-per-comet" default:"500000" placeholder:"N" help:"Most connections of a comet (${default})."`

	Comet     shape `default:"8x32GiB" placeholder:"SHAPE" help:"Cores and memory of a comet (${default})."`
	Logic     shape `default:"8x32GiB" placeholder:"SHAPE" help:"Of a logic node (${default})."`
	Job       shape `default:"8x16GiB" placeholder:"SHAPE" help:"Of a job node (${default})."`
	NATS      shape `name:"nats" default:"16x64GiBx4TiB" placeholder:"SHAPE" help:"Cores, memory and disk of a NATS server (${default})."`
	Redis     shape `default:"2x16GiB" placeholder:"SHAPE" help:"Cores and memory of a Redis server (${default})."`
	Cassandra shape `default:"16x64GiBx4TiB" placeholder:"SHAPE" help:"Cores, memory and disk of a Cassandra node (${default})."`

	Constants     string   `placeholder:"FILE" help:"Read constants from a YAML file, those of your own machine for instance."`
	Constant      []string `sep:"none" placeholder:"NAME=VALUE" help:"Set one constant, over the file. May be repeated."`
	ShowConstants bool     `name:"show-constants" help:"Print the constants, as a file for --constants, with the commands that measure them."`
	JSON          bool     `name:"json" help:"Print the plan as JSON."`
}

// shape is cores, memory and disk as in 16x64GiBx4TiB.
type shape plan.Shape

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *shape) UnmarshalText(text []byte) error {
	fail := func() error {
		return fmt.Errorf("%q is not a shape such as 8x32GiB, or 16x64GiBx4TiB with a disk", text)
	}
	parts := strings.Split(string(text), "x")
	if len(parts) != 2 && len(parts) != 3 {
		return fail()
	}
	var err error
	if s.Cores, err = strconv.ParseFloat(parts[0], 64); err != nil {
		return fail()
	}
	var ok bool
	if s.MemoryBytes, ok = parseBytes(parts[1]); !ok {
		return fail()
	}
	if len(parts) == 3 {
		if s.DiskBytes, ok = parseBytes(parts[2]); !ok {
			return fail()
		}
	}
	return nil
}

func parseBytes(text string) (float64, bool) {
	for unit, size := range map[string]float64{"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			v, err := strconv.ParseFloat(number, 64)
			return v * size, err == nil && v > 0
		}
	}
	return 0, false
}

// Run computes and prints.
func (c planCmd) Run(p *program) error {
	constants, err := c.constants()
	if err != nil {
		return err
	}
	if c.ShowConstants {
		return constants.Write(p.stdout)
	}
	if c.Connections == 0 || c.Rate == 0 {
		return fmt.Errorf("say how much the cluster is to bear: --connections and --rate")
	}
	r, err := plan.Compute(c.load(), c.policy(), constants)
	if err != nil {
		return fmt.Errorf("there is no such plan:\n%w", err)
	}
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	return r.Write(p.stdout)
}

func (c planCmd) constants() (plan.Constants, error) {
	values := map[string]float64{}
	if c.Constants != "" {
		f, err := os.Open(c.Constants)
		if err != nil {
			return nil, fmt.Errorf("--constants: %w", err)
		}
		values, err = plan.ReadValues(f)
		_ = f.Close() // It was only read.
		if err != nil {
			return nil, fmt.Errorf("--constants %s: %w", c.Constants, err)
		}
	}
	for _, pair := range c.Constant {
		name, value, err := plan.ParseValue(pair)
		if err != nil {
			return nil, fmt.Errorf("--constant: %w", err)
		}
		values[name] = value
	}
	return plan.Default().With(values)
}

func (c planCmd) load() plan.Load {
	return plan.Load{
		Connections: c.Connections, MessagesPerSecond: c.Rate, PeakToMean: c.PeakToMean, BodyBytes: c.Size, DevicesPerUser: c.Devices,
		GroupShare: c.GroupShare, GroupMembers: c.GroupMembers, Online: c.Online,
		ConversationsPerUser: c.Conversations, SessionMinutes: c.SessionMinutes, TLS: c.TLS, RetentionDays: c.RetentionDays, LogHours: c.LogHours,
	}
}

func (c planCmd) policy() plan.Policy {
	p := plan.DefaultPolicy()
	p.Loss, p.Zones, p.Headroom, p.RecoverSeconds, p.ConnectionsPerComet = plan.Loss(c.Loss), c.Zones, c.Headroom, c.RecoverSeconds, c.PerComet
	p.Shapes = plan.Shapes{
		Comet: plan.Shape(c.Comet), Logic: plan.Shape(c.Logic), Job: plan.Shape(c.Job),
		NATS: plan.Shape(c.NATS), Redis: plan.Shape(c.Redis), Cassandra: plan.Shape(c.Cassandra),
	}
	return p
}
