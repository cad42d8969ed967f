package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// promises say in words what a server gives with the settings used here.
type promises struct {
	Ack     string `json:"ack"`     // When the sender is told that a message was taken.
	Stored  string `json:"stored"`  // What is left of it after the process, or the power, is gone.
	Order   string `json:"order"`   // In what order receivers get messages.
	History string `json:"history"` // What can be read later.
	Dedup   string `json:"dedup"`   // What becomes of a message that is sent twice.
	Login   string `json:"login"`   // How a connection says who it is.
}

// peer is one row: a server with the settings that a user would choose.
type peer struct {
	name     string
	title    string
	promises promises
	// only are the kinds of scenario in which it differs from the row above; nil: all.
	only []kind
	// tcp: it can also be reached without WebSocket.
	tcp bool

	install func(ctx context.Context, r *rig) error // Nil: nothing is needed.
	version func(ctx context.Context, r *rig) (string, error)
	// measure runs one scenario on a server that was just started.
	measure func(ctx context.Context, r *rig, s scenario) (figures, error)
}

// peers are all of them, in the order of the table.
func peers() []peer {
	return slices.Concat(floors(), halleys(), natses(), centrifuges(), mosquittos(), ejabberds())
}

// does reports whether a scenario is one for the peer.
func (p peer) does(s scenario) bool {
	return (p.only == nil || slices.Contains(p.only, s.Kind)) && (!s.TCP || p.tcp)
}

// driven measures by the driver a server that launch starts in dir.
func driven(name string, launch func(ctx context.Context, r *rig, s scenario, dir string) (*server, wire, error)) func(context.Context, *rig, scenario) (figures, error) {
	return func(ctx context.Context, r *rig, s scenario) (figures, error) {
		dir, err := os.MkdirTemp(r.dir, name+"-")
		if err != nil {
			return figures{}, err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a folder for temporary files.
		running, w, err := launch(ctx, r, s, dir)
		if running != nil {
			defer running.stop()
		}
		if err != nil {
			return figures{}, err
		}
		pause(ctx, time.Second) // What a server does after its start is not what a connection costs.
		return drive(ctx, s, r.sizes, r.loops, w, running.pid())
	}
}

// row is what became of a peer.
type row struct {
	Name      string              `json:"name"`
	Title     string              `json:"title"`
	Version   string              `json:"version,omitempty"`
	Promises  promises            `json:"promises"`
	Error     string              `json:"error,omitempty"` // Why it could not be measured at all.
	Scenarios map[string]*figures `json:"scenarios"`
}

// perScenario bounds one scenario with its server's start and end.
const perScenario = 3 * time.Minute

// run measures a peer.
func (p peer) run(ctx context.Context, r *rig, scenarios []scenario, say func(format string, args ...any)) *row {
	out := &row{Name: p.name, Title: p.title, Promises: p.promises, Scenarios: map[string]*figures{}}
	if p.install != nil {
		say("%s: installing", p.name)
		if err := p.install(ctx, r); err != nil {
			out.Error = fmt.Sprintf("cannot be installed: %v", err)
			say("%s: %s", p.name, out.Error)
			return out
		}
	}
	var err error
	if out.Version, err = p.version(ctx, r); err != nil {
		out.Error = fmt.Sprintf("cannot be run: %v", err)
		say("%s: %s", p.name, out.Error)
		return out
	}
	for _, s := range scenarios {
		if !p.does(s) {
			continue
		}
		if ctx.Err() != nil {
			out.Scenarios[s.Name] = &figures{Error: context.Cause(ctx).Error()}
			continue
		}
		begin := time.Now()
		bounded, cancel := context.WithTimeout(ctx, perScenario)
		f, err := p.measure(bounded, r, s)
		cancel()
		if err != nil {
			f = figures{Error: err.Error()}
		}
		out.Scenarios[s.Name] = &f
		say("%s %s: %s (%.0f s)", p.name, s.Name, f, time.Since(begin).Seconds())
	}
	return out
}
