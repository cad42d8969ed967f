package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks/mistakes"
	"github.com/halley-im/halley/pkg/overlay"
)

// mutant is how a mistake is brought out.
type mutant struct {
	mistakes.Mistake
	topology string
	faults   string // Those that can bring it out; empty: all.
	minutes  float64
	slow     time.Duration
	holds    bool // It is no mistake.
}

// mutants begins with the control, which is as slow as the others and must hold.
func mutants() []mutant {
	out := []mutant{{Mistake: mistakes.Mistake{Name: "none, but slow", Patches: mistakes.Slow}, holds: true}}
	for _, m := range mistakes.All {
		out = append(out, mutant{Mistake: m})
	}
	for i := range out {
		m := &out[i]
		m.topology, m.minutes, m.slow, m.faults = "serve", shortMinutes, 400*time.Millisecond, killsAndStorms
		switch {
		case m.holds:
			m.slow, m.faults = time.Second, ""
		case m.Name == "answers retries of what is pending", // It takes a retry and a death between the write and its commit,
			m.Name == "looks presence up before the commit": // or a connect there, of the last message of a conversation.
			m.slow = time.Second
		case m.Name == "keeps two blocks in flight": // It takes another owner's fence between the two.
			m.topology, m.minutes, m.slow, m.faults = "tiers", 1.5, 1500*time.Millisecond, "pause-logic-*"
		}
	}
	return out
}

const (
	shortMinutes   = 0.9 // Those of make chaos-short.
	killsAndStorms = "kill-serve,storm,storms"
)

// breakAll builds the product with one mistake after another, and runs each until it is caught, for so many seeds at most. It returns the
// exit code: 0 if all were caught, and the one without a mistake was not.
func (o options) breakAll(ctx context.Context, out io.Writer) int {
	code, tried := 0, 0
	for _, m := range mutants() {
		if o.mutants != "all" && !strings.Contains(m.Name, o.mutants) {
			continue
		}
		tried++
		if err := m.try(ctx, o, out); err != nil {
			_, _ = fmt.Fprintf(out, "%s: %v\n", m.Name, err)
			code = 1
		}
	}
	if tried == 0 {
		_, _ = fmt.Fprintf(out, "no mutant is called %q\n", o.mutants)
		return 2
	}
	return code
}

// holdSeeds is how many the product must hold that has no mistake and is as slow as the others.
const holdSeeds = 2

// try runs one mutant. What its runs say goes to a file.
func (m *mutant) try(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "halley-mutant-")
	if err != nil {
		return err
	}
	binary, err := m.build(ctx, o.root, dir)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "runs.log"))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // what it lacks is only missed by who reads it.
	seeds := o.seeds
	if m.holds {
		seeds = min(seeds, holdSeeds)
	}
	began := time.Now()
	for n := range seeds {
		r, err := m.run(ctx, o, binary, log, uint64(n+1))
		if err != nil {
			return err
		}
		took := time.Since(began).Round(time.Second)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case m.holds && len(r.violations) > 0:
			return fmt.Errorf("seed %d: a product without a mistake is not let pass (%s): %s", r.seed, log.Name(), r.violations[0])
		case !proves(r.violations):
			continue
		}
		_, _ = fmt.Fprintf(out, "%s: caught by %s, with seed %d, %v after the first run began\n    %.200s\n", m.Name, caughtBy(r.violations), r.seed, took, r.violations[0])
		return os.RemoveAll(dir)
	}
	if !m.holds {
		return fmt.Errorf("lived through %d seeds in %v (%s)", seeds, time.Since(began).Round(time.Second), log.Name())
	}
	_, _ = fmt.Fprintf(out, "%s: held %d seeds\n", m.Name, seeds)
	return os.RemoveAll(dir)
}

// run is one seed of it.
func (m *mutant) run(ctx context.Context, o options, binary string, log io.Writer, seed uint64) (*run, error) {
	o.seed, o.minutes, o.topology, o.binary, o.short = seed, m.minutes, m.topology, binary, m.topology == "serve"
	if o.faults == "" {
		o.faults = m.faults
	}
	r, err := newRun(o, log)
	if err != nil {
		return nil, err
	}
	r.run(ctx)
	return r, os.RemoveAll(r.dir)
}

func (m *mutant) build(ctx context.Context, root, dir string) (string, error) {
	list, err := overlay.Write(root, dir, m.Patches(m.slow)...)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "halley")
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", list, "-o", binary, "./cmd/halley")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, said)
	}
	return binary, nil
}

// byOracle counts the violations by what tells them: their first word.
func byOracle(violations []string) map[string]int {
	n := map[string]int{}
	for _, v := range violations {
		word, _, _ := strings.Cut(v, " ")
		n[strings.TrimRight(word, ",:")]++
	}
	return n
}

// proves reports whether a promise was broken: that a run failed may have other reasons.
func proves(violations []string) bool {
	n := byOracle(violations)
	for _, word := range []string{"nemesis", "unfinished", "undecided"} {
		delete(n, word)
	}
	return len(n) > 0
}

// caughtBy puts the oracles into words.
func caughtBy(violations []string) string {
	n := byOracle(violations)
	var parts []string
	for _, word := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%s %d", word, n[word]))
	}
	return strings.Join(parts, ", ")
}
