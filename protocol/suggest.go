package protocol

import "fmt"

// didYouMean is a clause that names the known word nearest to the unknown one, or nothing where none is near.
func didYouMean(unknown string, known []string) string {
	if len(unknown) > 64 {
		return ""
	}
	best, bestDistance := "", 1+max(1, len(unknown)/3)
	for _, k := range known {
		if d := distance(unknown, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// clip keeps a device's own words short where an error repeats them.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && s[end]&0xC0 == 0x80 { // not in the middle of a character
		end--
	}
	return s[:end] + "…"
}
