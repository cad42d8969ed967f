package plan

import (
	"fmt"
	"math"
	"sort"
)

// lost is how many of n nodes are missing after the loss.
func lost(n int, p Policy) int {
	switch p.Loss {
	case LossNone:
	case LossNode:
		return 1
	case LossZone:
		return (n + p.Zones - 1) / p.Zones // Of zones that are not alike, the largest.
	}
	return 0
}

// bearers is how many nodes share the need when the loss has happened.
func (d Need) bearers(n, left int) int {
	if d.stays {
		return n
	}
	return left
}

// most nodes of a tier. Beyond it the shape is too small for the load, or somebody has mistyped.
const most = 1_000_000

// size finds the fewest nodes on which every need fits, with headroom, when the loss has happened. more are needs that depend on how
// many there are and how many are left.
func (s *sum) size(name string, shape Shape, needs []Need, fewest int, more func(n, left int) []Need) (Tier, error) {
	free := func(d Need) float64 {
		if d.whole {
			return d.Limit
		}
		return d.Limit * (1 - s.Headroom)
	}
	for _, d := range needs {
		if d.Limit <= 0 {
			return Tier{}, fmt.Errorf("%s: a node of %s bytes has no memory left beside the process itself", name, number(shape.MemoryBytes))
		}
	}
	all := func(n int) ([]Need, int) {
		left := n - lost(n, s.Policy)
		if more == nil {
			return needs, left
		}
		return append(append([]Need(nil), needs...), more(n, left)...), left
	}
	// short is what does not fit on n nodes; "" where all does.
	short := func(n int) string {
		list, left := all(n)
		if left < 1 {
			return "loss"
		}
		for _, d := range list {
			if d.Total > float64(d.bearers(n, left))*free(d) {
				return d.What
			}
		}
		return ""
	}
	// What fits on n nodes fits on any number above it, in whole zones.
	unit := 1
	if s.Loss == LossZone {
		unit = s.Zones
	}
	lowest := (fewest + unit - 1) / unit
	units := lowest + sort.Search(most/unit, func(i int) bool { return short((lowest+i)*unit) == "" })
	n := units * unit
	if why := short(n); why != "" {
		return Tier{}, fmt.Errorf("%s: more than %d nodes are needed for its %s: give it larger ones", name, most, why)
	}
	t := Tier{Name: name, Nodes: n, Shape: shape, BoundBy: "minimum"}
	if units > lowest {
		t.BoundBy = short((units - 1) * unit)
	}
	list, left := all(n)
	t.Survivors = left
	worst := map[string]int{}
	for _, d := range list {
		d.Used, d.After = d.Total/float64(n)/d.Limit, d.Total/float64(d.bearers(n, left))/d.Limit
		if i, ok := worst[d.What]; ok { // The same, while those who were lost come back.
			t.Needs[i].After = math.Max(t.Needs[i].After, d.After)
			continue
		}
		worst[d.What] = len(t.Needs)
		t.Needs = append(t.Needs, d)
	}
	s.out.Tiers = append(s.out.Tiers, t)
	return t, nil
}
