package store

import "slices"

// Intervals derives a user's intervals from the seqs at which it joined and left, in any order and with repetitions. It sorts
// its arguments. Backends keep the events and not the intervals, so that writes need no read and commute: a join inside
// an interval and a leave outside of one say nothing, whichever neighbour they lack at the moment. A record that both
// joins and leaves a user makes an interval of one seq.
func Intervals(joins, leaves []uint64) []Interval {
	slices.Sort(joins)
	slices.Sort(leaves)
	var out []Interval
	open := false
	for len(joins) > 0 || len(leaves) > 0 {
		if len(joins) > 0 && (len(leaves) == 0 || joins[0] <= leaves[0]) {
			if !open {
				out = append(out, Interval{From: joins[0]})
				open = true
			}
			joins = joins[1:]
			continue
		}
		if open {
			out[len(out)-1].To = leaves[0]
			open = false
		}
		leaves = leaves[1:]
	}
	return out
}
