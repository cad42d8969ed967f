package main

import (
	"fmt"

	"github.com/halley-im/halley/pkg/observe"
	"github.com/halley-im/halley/pkg/store/cassandra"
	"github.com/halley-im/halley/pkg/store/pebble"
	"github.com/halley-im/halley/protocol"
)

// Set by the linker (-X) where the build knows better than the Go toolchain; see the Makefile.
var version, commit string

// build is what this binary was made of.
func build() observe.Build {
	b := observe.ReadBuild()
	if version != "" {
		b.Version = version
	}
	if commit != "" {
		b.Commit = commit
	}
	return b
}

type versionCmd struct{}

// Run prints one fact a line.
func (versionCmd) Run(p *program) error {
	b := build()
	_, err := fmt.Fprintf(p.stdout, "halley %s\ncommit %s\ngo %s\nprotocol %s %s\nschema cassandra %d pebble %d\n",
		b.Version, b.Commit, b.Go, protocol.SubprotocolProto, protocol.SubprotocolJSON,
		cassandra.SchemaVersion(), pebble.FormatVersion)
	return err
}
