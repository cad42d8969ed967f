// Package doctor looks at a machine and says what of its limits a node of Halley would run into, and the lines that lift them. It
// reads and changes nothing.
package doctor

import (
	"fmt"
	"io"
	"strings"
)

// State is what came of a check.
type State string

// The states.
const (
	OK   State = "ok"   // Nothing to do.
	Note State = "note" // It could not be looked at, or does not apply here.
	Warn State = "warn" // It works, and worse than it could.
	Fail State = "fail" // It does not work as configured.
)

// Finding is what one check found.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	// Found is what is there, in words.
	Found string `json:"found"`
	// Advice is what to do, empty where there is nothing.
	Advice string `json:"advice,omitempty"`
	// Sysctl is a line for a file in /etc/sysctl.d, where that is what to do.
	Sysctl string `json:"sysctl,omitempty"`
}

// Worst is the gravest state among the findings.
func Worst(findings []Finding) State {
	worst := OK
	rank := map[State]int{OK: 0, Note: 0, Warn: 1, Fail: 2}
	for _, f := range findings {
		if rank[f.State] > rank[worst] {
			worst = f.State
		}
	}
	return worst
}

// Print writes the findings, one to a line with what to do below it, and at the end all sysctl lines in a block to be copied.
func Print(w io.Writer, findings []Finding) error {
	var out strings.Builder
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	var lines []string
	for _, f := range findings {
		fmt.Fprintf(&out, "%-4s  %-*s  %s\n", f.State, width, f.Check, f.Found)
		if f.Advice != "" {
			fmt.Fprintf(&out, "      %-*s  → %s\n", width, "", f.Advice)
		}
		if f.Sysctl != "" {
			lines = append(lines, f.Sysctl)
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(&out, "\nIn /etc/sysctl.d/90-halley.conf, then sysctl --system:\n\n%s\n", strings.Join(lines, "\n"))
	}
	_, err := io.WriteString(w, out.String())
	return err
}
