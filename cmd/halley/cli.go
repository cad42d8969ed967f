package main

import (
	"github.com/halley-im/halley/pkg/config"
)

// cli is the command line.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run everything in this process, with nothing else installed."`
	Comet   cometCmd   `cmd:"" help:"Run the tier that holds the connections."`
	Logic   logicCmd   `cmd:"" help:"Run the tier that decides and answers."`
	Job     jobCmd     `cmd:"" help:"Run the tier that makes the log readable."`
	Cluster clusterCmd `cmd:"" help:"Prepare NATS and Cassandra for comet, logic and job."`
	Node    nodeCmd    `cmd:"" help:"Drain, undrain and rebalance nodes that run."`
	Bench   benchCmd   `cmd:"" help:"Load a server and account for every message."`
	Doctor  doctorCmd  `cmd:"" help:"Look at this machine and the services: what it bears, what is missing, and the lines that mend it."`
	Plan    planCmd    `cmd:"" help:"Compute what a cluster needs for so many connections and messages: nodes, memory, disks."`
	Audit   auditCmd   `cmd:"" help:"Derive the numbering of all conversations anew and compare it with the store."`
	Token   tokenCmd   `cmd:"" help:"Issue and inspect the tokens of devices."`
	Config  configCmd  `cmd:"" help:"Check and explain settings."`
	Version versionCmd `cmd:"" help:"Print what this binary is."`
}

// settingsFlags are what every command that reads the settings takes.
type settingsFlags struct {
	File string   `name:"config" short:"c" placeholder:"FILE" help:"Read settings from a YAML file ($HALLEY_CONFIG)."`
	Set  []string `name:"set" sep:"none" placeholder:"KEY=VALUE" help:"Set one setting, over file and environment. May be repeated. 'halley config doc' lists all."`
}

// input gathers the sources in which settings may stand. named are settings that have a flag of their own.
func (f settingsFlags) input(p *program, named ...config.Flag) (config.Input, error) {
	in := config.Input{File: f.File, Environ: p.environ, Flags: named}
	if in.File == "" {
		in.File = p.getenv(envPrefix + "CONFIG")
	}
	for _, pair := range f.Set {
		flag, err := config.ParseFlag("--set", pair)
		if err != nil {
			return in, err
		}
		in.Flags = append(in.Flags, flag)
	}
	return in, nil
}
