package drain

// Excess says how many sessions each node has above the average of those that take some, rounded up; a node that drains, or holds no
// sessions by its tier, is left out and has none.
func Excess(nodes []Status) []int {
	total, open := 0, 0
	for _, n := range nodes {
		if n.Sessions != nil && !n.Draining {
			total += n.Sessions.Held
			open++
		}
	}
	out := make([]int, len(nodes))
	for i, n := range nodes {
		if n.Sessions != nil && !n.Draining {
			out[i] = max(0, n.Sessions.Held-(total+open-1)/open)
		}
	}
	return out
}
