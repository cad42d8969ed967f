package config

import "strings"

// didYouMean names the key or section that a reader of the path most likely meant, or nothing.
func (s *Schema) didYouMean(path string) string {
	var candidates []string
	for _, section := range s.Sections[1:] {
		candidates = append(candidates, section.Path)
	}
	for _, k := range s.Keys {
		candidates = append(candidates, k.Path)
	}
	if best := nearest(path, candidates); best != "" {
		return " (did you mean " + best + "?)"
	}
	// The right name in the wrong section.
	name := path[strings.LastIndex(path, delimiter)+1:]
	var same []string
	for _, k := range s.Keys {
		if k.Name() == name {
			same = append(same, k.Path)
		}
	}
	if len(same) == 1 {
		return " (did you mean " + same[0] + "?)"
	}
	return ""
}

func (s *Schema) didYouMeanVariable(name string) string {
	candidates := []string{s.FileVariable()}
	for _, k := range s.Keys {
		candidates = append(candidates, k.Env)
	}
	if best := nearest(name, candidates); best != "" {
		return " (did you mean " + best + "?)"
	}
	return ""
}

// nearest is the candidate with the fewest edits to s, if they are few enough to be a slip.
func nearest(s string, candidates []string) string {
	best, bestEdits := "", max(2, len(s)/4)+1
	for _, c := range candidates {
		if d := edits(s, c); d < bestEdits {
			best, bestEdits = c, d
		}
	}
	return best
}

// edits is the number of single-byte insertions, deletions, replacements and swaps of neighbours that make b of a
// (Damerau–Levenshtein, optimal string alignment).
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
