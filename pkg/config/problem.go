package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the settings.
type Problem struct {
	Where string // a file and line, a variable or a flag; empty where a default is at fault.
	Key   string
	Text  string
}

func problemf(where, key, format string, args ...any) Problem {
	return Problem{Where: where, Key: key, Text: fmt.Sprintf(format, args...)}
}

// Error is "where: key: text" without the parts that are empty.
func (p Problem) Error() string {
	var parts []string
	for _, s := range []string{p.Where, p.Key, p.Text} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Problems is everything that is wrong, one line each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}
