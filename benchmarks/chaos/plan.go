package main

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"
)

// Step is one fault of a plan: when it begins, and for how long it holds.
type Step struct {
	At, Hold time.Duration
	Kind     Kind
}

func (s Step) String() string {
	return fmt.Sprintf("%6.1f s  %s for %.1f s", s.At.Seconds(), s.Kind.Name, s.Hold.Seconds())
}

const (
	// The system runs untouched for so long first.
	calm = 3 * time.Second
	// Between the end of a fault and the next: time to recover, or none at all.
	gapMost = 9 * time.Second
	// How often the next fault begins while the last still holds.
	overlaps = 0.3
)

// makePlan follows from its arguments alone. It deals the kinds like cards, so that each comes before any comes again; all
// faults have begun and ended within length.
func makePlan(seed uint64, length time.Duration, kinds []Kind) []Step {
	r := rand.New(rand.NewPCG(seed, 2))
	span := func(least, most time.Duration) time.Duration {
		return (least + time.Duration(r.Int64N(int64(most-least)+1))).Truncate(100 * time.Millisecond)
	}
	var plan []Step
	var deck []Kind
	free := map[string]time.Duration{} // By target, when it is whole again.
	at := calm
	for len(kinds) > 0 {
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			r.Shuffle(len(deck), func(i, k int) { deck[i], deck[k] = deck[k], deck[i] })
		}
		s := Step{At: at, Hold: span(deck[0].Least, deck[0].Most), Kind: deck[0]}
		deck = deck[1:]
		for _, target := range s.Kind.Targets {
			s.At = max(s.At, free[target])
		}
		end := s.At + s.Hold
		if end > length {
			break
		}
		plan = append(plan, s)
		for _, target := range s.Kind.Targets {
			free[target] = end + time.Second
		}
		if s.Hold > 0 && r.Float64() < overlaps {
			at = s.At + span(0, s.Hold)
		} else {
			at = end + span(0, gapMost)
		}
	}
	slices.SortStableFunc(plan, func(a, b Step) int { return int(a.At - b.At) })
	return plan
}

// choose keeps the kinds that one of the patterns names; no pattern is all of them.
func choose(kinds []Kind, patterns string) ([]Kind, error) {
	if patterns == "" {
		return kinds, nil
	}
	var chosen []Kind
	for _, pattern := range strings.Split(patterns, ",") {
		found := false
		for _, k := range kinds {
			hit, err := path.Match(strings.TrimSpace(pattern), k.Name)
			if err != nil {
				return nil, fmt.Errorf("faults: %q: %w", pattern, err)
			}
			found = found || hit
			if hit && !slices.ContainsFunc(chosen, func(c Kind) bool { return c.Name == k.Name }) {
				chosen = append(chosen, k)
			}
		}
		if !found {
			return nil, fmt.Errorf("faults: nothing is called %q; there are %s", pattern, strings.Join(names(kinds), ", "))
		}
	}
	return chosen, nil
}

func names(kinds []Kind) []string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = k.Name
	}
	return out
}
