package main

import (
	"fmt"
	"io"
)

type configCmd struct {
	Check   configCheckCmd   `cmd:"" help:"Read settings as a server would and say all that is wrong with them."`
	Default configDefaultCmd `cmd:"" help:"Print all settings with their defaults, as a file to start from."`
	Doc     configDocCmd     `cmd:"" help:"Print the reference of all settings, as Markdown."`
}

type configCheckCmd struct {
	File string `arg:"" placeholder:"FILE" help:"The YAML file; - for standard input."`
	For  tier   `default:"serve" enum:"serve,comet,logic,job" help:"Check it for serve, comet, logic or job."`
}

// Run answers on standard output that all is well, or on standard error what is not.
func (c configCheckCmd) Run(p *program) error {
	in, err := settingsFlags{File: c.File}.input(p)
	if err != nil {
		return err
	}
	if c.File == "-" {
		if in.Stdin, err = io.ReadAll(p.stdin); err != nil {
			return err
		}
	}
	if _, _, err := loadSettings(c.For, in); err != nil {
		p.complain("%v\n", err)
		return errSilent
	}
	_, err = fmt.Fprintf(p.stdout, "%s is valid for halley %s\n", c.File, c.For)
	return err
}

type configDefaultCmd struct{}

const defaultHead = `# Settings of Halley, with their defaults. Keep only what you change.
# A setting is also a variable of the environment: comet.max_connections is HALLEY_COMET_MAX_CONNECTIONS.
# Later wins: this file, the environment, --set and other flags.

`

func (configDefaultCmd) Run(p *program) error {
	if _, err := io.WriteString(p.stdout, defaultHead); err != nil {
		return err
	}
	return settingsSchema().WriteDefault(p.stdout)
}

type configDocCmd struct{}

const docHead = `# Configuration

` + "`halley config doc`" + ` prints this page, ` + "`halley config default`" + ` the same as a file to start from, and
` + "`halley config check FILE`" + ` says all that is wrong with a file. A later source wins: the defaults below, a YAML file
(` + "`--config FILE` or `HALLEY_CONFIG`" + `), variables of the environment, flags (` + "`--set KEY=VALUE`" + `). A key that does not exist is an
error, wherever it stands. Lists in variables are separated by commas.

One file may hold the settings of all tiers; a process validates those of its own.

`

func (configDocCmd) Run(p *program) error {
	if _, err := io.WriteString(p.stdout, docHead); err != nil {
		return err
	}
	return settingsSchema().WriteMarkdown(p.stdout)
}
