package benchmarks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/halley-im/halley/benchmarks/traffic"
)

// Scenario is a load that changes, as a YAML file describes it. Where it runs is not its business: that is Config's.
type Scenario struct {
	// Conversation is p2p or group.
	Conversation string `yaml:"conversation"`
	// Connections, Size and Ramp, if set, replace those of the command line.
	Connections int           `yaml:"connections"`
	Size        int           `yaml:"size"`
	Ramp        time.Duration `yaml:"ramp"`
	// Members and Senders are of each group.
	Members int `yaml:"members"`
	Senders int `yaml:"senders"`
	// Zipf, above 1, makes some conversations busier than others: the n-th gets 1/n^Zipf of what the first gets, on each loop.
	Zipf   float64 `yaml:"zipf"`
	Phases []Phase `yaml:"phases"`
}

// Phase is a part of a scenario, with messages per second in all.
type Phase struct {
	Name string        `yaml:"name"`
	For  time.Duration `yaml:"for"`
	Rate float64       `yaml:"rate"`
	// To has the rate go evenly from Rate to To.
	To *float64 `yaml:"to"`
	// Peak has it rise from Rate to Peak and back, as over a day.
	Peak *float64 `yaml:"peak"`
}

// PhaseFigures are what was seen in a phase, by the seconds of the series.
type PhaseFigures struct {
	Name       string  `json:"name"`
	Seconds    int     `json:"seconds"`
	Acked      float64 `json:"acked_per_s"`
	Delivered  float64 `json:"delivered_per_s"`
	DeliverP99 float64 `json:"deliver_p99_ms"` // The highest p99 of a second.
}

// maxPhases bounds a scenario.
const maxPhases = 1000

// ReadScenario reads a file; a key that it does not know is an error.
func ReadScenario(path string) (Scenario, error) {
	s := Scenario{Conversation: verbP2P, Members: 20, Senders: 2}
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	if err := s.validate(); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s Scenario) validate() error {
	switch {
	case s.Conversation != verbP2P && s.Conversation != verbGroup:
		return fmt.Errorf("conversation: %q is neither p2p nor group", s.Conversation)
	case s.Members < 2 || s.Senders < 1 || s.Senders > s.Members:
		return fmt.Errorf("%d members with %d senders: at least 2 and 1, and no more senders than members", s.Members, s.Senders)
	case s.Zipf != 0 && s.Zipf <= 1:
		return fmt.Errorf("zipf: %g is not above 1", s.Zipf)
	case len(s.Phases) == 0 || len(s.Phases) > maxPhases:
		return fmt.Errorf("phases: %d is not within 1 to %d", len(s.Phases), maxPhases)
	}
	total := 0.0
	for i, p := range s.Phases {
		if p.For <= 0 || p.Rate < 0 || p.To != nil && *p.To < 0 || p.Peak != nil && *p.Peak < 0 || p.To != nil && p.Peak != nil {
			return fmt.Errorf("phase %d: for must be above 0, rate, to and peak not below, and to and peak not both there", i+1)
		}
		total += p.schedule().Messages()
	}
	if total == 0 {
		return errors.New("phases: no messages at all")
	}
	return nil
}

// schedule is the phase for those who send.
func (p Phase) schedule() traffic.Phase {
	t := traffic.Phase{For: p.For, From: p.Rate, To: p.Rate}
	switch {
	case p.To != nil:
		t.To = *p.To
	case p.Peak != nil:
		t.Swing = *p.Peak - p.Rate
	}
	return t
}

// RunScenario carries a scenario out. As RunP2P else.
func RunScenario(ctx context.Context, cfg Config, s Scenario, out io.Writer) (*Report, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if s.Connections > 0 {
		cfg.Connections = s.Connections
	}
	if s.Size > 0 {
		cfg.Size = s.Size
	}
	if s.Ramp > 0 {
		cfg.Ramp = s.Ramp
	}
	cfg.Warmup, cfg.Duration = 0, 0 // The phases are all there is.
	load, messages := Load{Zipf: s.Zipf}, 0.0
	for _, p := range s.Phases {
		t := p.schedule()
		load.Phases = append(load.Phases, t)
		cfg.Duration += p.For
		messages += t.Messages()
	}
	load.Rate = messages / cfg.Duration.Seconds() // The mean.
	p := pairs(s.Conversation, cfg, load)
	if s.Conversation == verbGroup {
		p.Group, p.Members, p.Senders = true, s.Members, s.Senders
		p.Config.Connections -= p.Config.Connections % s.Members
	}
	report, err := talk(ctx, p, s.play, out)
	if err != nil {
		return nil, err
	}
	for i := range s.Phases {
		report.Phases = append(report.Phases, report.figuresOf(s.name(i)))
	}
	return report, nil
}

// name is what a phase is called in a report.
func (s Scenario) name(i int) string { return fmt.Sprintf("%d %s", i+1, s.Phases[i].Name) }

// play goes through the phases; the schedule does so by itself.
func (s Scenario) play(ctx context.Context, r *run) error {
	end := time.Now()
	for i, p := range s.Phases {
		r.watch.enter(s.name(i))
		end = end.Add(p.For)
		pause(ctx, time.Until(end))
	}
	return nil
}

func (r *Report) figuresOf(phase string) PhaseFigures {
	f := PhaseFigures{Name: phase}
	for _, p := range r.Series {
		if p.Phase == phase {
			f.Seconds++
			f.Acked += p.Acked
			f.Delivered += p.Delivered
			f.DeliverP99 = max(f.DeliverP99, p.DeliverP99)
		}
	}
	if f.Seconds > 0 {
		f.Acked /= float64(f.Seconds)
		f.Delivered /= float64(f.Seconds)
	}
	return f
}
