package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/halley-im/halley/pkg/drain"
)

type nodeCmd struct {
	Status    nodeStatusCmd    `cmd:"" help:"Tell what nodes hold and how far their drains are."`
	Drain     nodeDrainCmd     `cmd:"" help:"Take a node out of work: sessions are sent away at a paced rate, partitions handed over. Asked again it shows the progress."`
	Undrain   nodeUndrainCmd   `cmd:"" help:"Take a node back to work, with what it still holds."`
	Rebalance nodeRebalanceCmd `cmd:"" help:"Have comets send away what they hold above the average of those named, for new ones to take."`
}

// nodeFlags find nodes.
type nodeFlags struct {
	Admin []string `name:"admin" required:"" placeholder:"URL" help:"Admin ports of the nodes, http://host:port. May be repeated."`
}

// followFlags say whether to wait for the end of what was begun.
type followFlags struct {
	Wait  bool          `default:"true" negatable:"" help:"Show the progress until it is done."`
	Every time.Duration `default:"1s" help:"How often to ask for the progress (${default})."`
}

// nodeArg is how a node is told from the others.
type nodeArg struct {
	Node string `arg:"" optional:"" placeholder:"NODE" help:"Name of the node, with or without the suffix of its last start. Not needed where one admin port is named."`
}

// target is a node and how to reach it.
type target struct {
	*drain.Client
	drain.Status
}

// ask asks every node how far it is.
func (f nodeFlags) ask(ctx context.Context) ([]target, error) {
	var out []target
	var errs []error
	for _, admin := range f.Admin {
		c := drain.NewClient(admin)
		s, err := c.Status(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, target{c, s})
	}
	return out, errors.Join(errs...)
}

// find is the one node that name stands for.
func (f nodeFlags) find(ctx context.Context, name string) (target, error) {
	all, err := f.ask(ctx)
	var found []target
	var names []string
	for _, t := range all {
		names = append(names, t.Node)
		if name == "" || t.Node == name || withoutSuffix(t.Node) == name {
			found = append(found, t)
		}
	}
	switch {
	case len(found) == 1 && (name != "" || err == nil):
		return found[0], nil
	case err != nil:
		return target{}, err
	case name == "":
		return target{}, fmt.Errorf("which node? these answer: %s", strings.Join(names, ", "))
	}
	return target{}, fmt.Errorf("%d nodes are called %s; these answer: %s", len(found), name, strings.Join(names, ", "))
}

// withoutSuffix is the name that a node was given: it carries a random suffix, new at each start.
func withoutSuffix(node string) string {
	if i := strings.LastIndexByte(node, '-'); i > 0 {
		return node[:i]
	}
	return node
}

type nodeStatusCmd struct{ nodeFlags }

// Run prints a line for each node.
func (c nodeStatusCmd) Run(p *program) error {
	nodes, err := c.ask(context.Background())
	for _, n := range nodes {
		p.say("%s\n", line(n.Status))
	}
	return err
}

// line is a node in words.
func line(s drain.Status) string {
	words := []string{s.Node, "(" + s.Tier + "):"}
	if s.Draining {
		words = append(words, "draining,")
	}
	switch {
	case s.Sessions != nil:
		words = append(words, fmt.Sprintf("%d sessions", s.Sessions.Held))
		left := s.Sessions.Moving
		if s.Draining {
			left = s.Sessions.Held
		}
		if s.Sessions.Moving > 0 {
			words[len(words)-1] += fmt.Sprintf(", %d to be moved", s.Sessions.Moving)
		}
		if left > 0 {
			words[len(words)-1] += fmt.Sprintf(", at %d/s about %v", s.Sessions.Rate, max(s.Estimate(left), time.Second))
		}
	case s.Partitions != nil:
		words = append(words, fmt.Sprintf("%d partitions", s.Partitions.Held))
	default:
		words = append(words, "nothing to hand over")
	}
	return strings.Join(words, " ")
}

func (p *program) say(format string, args ...any) { _, _ = fmt.Fprintf(p.stdout, format, args...) }

type nodeDrainCmd struct {
	nodeArg
	nodeFlags
	followFlags
}

// Run begins the drain, or finds it under way, and shows how it goes on.
func (c nodeDrainCmd) Run(p *program) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t, err := c.find(ctx, c.Node)
	if err != nil {
		return err
	}
	if t.Status, err = t.Client.Drain(ctx); err != nil {
		return err
	}
	return c.follow(ctx, p, []target{t}, func(s drain.Status) bool { return !s.Draining || s.Left() == 0 })
}

type nodeUndrainCmd struct {
	nodeArg
	nodeFlags
}

// Run takes the node back.
func (c nodeUndrainCmd) Run(p *program) error {
	t, err := c.find(context.Background(), c.Node)
	if err != nil {
		return err
	}
	s, err := t.Client.Undrain(context.Background())
	if err != nil {
		return err
	}
	p.say("%s\n", line(s))
	return nil
}

type nodeRebalanceCmd struct {
	nodeFlags
	followFlags
}

// Run sends away what is above the average. Whoever is sent away comes back through the balancer, to these nodes too: unless it
// prefers the emptiest, one round leaves a part of the difference, and another takes most of that.
func (c nodeRebalanceCmd) Run(p *program) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	nodes, err := c.ask(ctx)
	if err != nil {
		return err // The average of some would be another.
	}
	states := make([]drain.Status, len(nodes))
	for i, n := range nodes {
		states[i] = n.Status
	}
	var moving []target
	for i, n := range drain.Excess(states) {
		p.say("%s, %d above the average\n", line(states[i]), n)
		if n == 0 {
			continue
		}
		if nodes[i].Status, err = nodes[i].Client.Rebalance(ctx, n); err != nil {
			return err
		}
		moving = append(moving, nodes[i])
	}
	return c.follow(ctx, p, moving, func(s drain.Status) bool { return s.Sessions == nil || s.Sessions.Moving == 0 })
}

// follow prints how far nodes are until each is done. The nodes go on by themselves, whoever looks.
func (f followFlags) follow(ctx context.Context, p *program, nodes []target, done func(drain.Status) bool) error {
	ticker := time.NewTicker(max(f.Every, time.Millisecond))
	defer ticker.Stop()
	for {
		open := 0
		for _, n := range nodes {
			p.say("%s\n", line(n.Status))
			if !done(n.Status) {
				open++
			}
		}
		if open == 0 || !f.Wait {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("not done yet; it goes on without you, and the same command shows how far it is")
		case <-ticker.C:
		}
		for i := range nodes {
			s, err := nodes[i].Client.Status(ctx)
			if err != nil && ctx.Err() == nil {
				return err
			}
			if err == nil {
				nodes[i].Status = s
			}
		}
	}
}
