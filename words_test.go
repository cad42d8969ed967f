package halley_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The words are spelled in halves, so that this file does not break its own rule.
var (
	unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX|HA` + `CK)\b`)
	promised   = regexp.MustCompile(`(?i)\b(not (yet )?implement` + `ed|unimplement` + `ed|for n` + `ow)\b`)
)

func TestNoUnfinishedWords(t *testing.T) {
	for _, f := range files() {
		if f.generated || f.path == "LICENSE" || path.Ext(f.path) == ".sum" {
			continue
		}
		eachLine(f, func(n int, line string) {
			if w := unfinished.FindString(line); w != "" {
				t.Errorf("%s:%d: %s: finish it, or open an issue and say here what is true today", f.path, n, w)
			}
			// A double in a test may well do only what the test asks of it.
			if w := promised.FindString(line); w != "" && !f.isTest() {
				t.Errorf("%s:%d: %q: say what it does, not what it will do", f.path, n, w)
			}
		})
	}
}

var homes = regexp.MustCompile(`(^|[\s"'=(:])/(home|Users|root|workspace|mnt)/`)

// Registries are chosen by the machine's own settings (GOPROXY, apt's sources, a Maven mirror); a host in the tree would
// break whoever builds behind another.
var registries = regexp.MustCompile(`(?i)\b(proxy\.golang|sum\.golang|goproxy\.(io|cn)|registry\.npmjs|registry-1\.docker|docker\.io/|` +
	`ghcr\.io|quay\.io|gcr\.io|pypi\.|files\.pythonhosted|repo1?\.maven|deb\.debian|archive\.ubuntu|central\.sonatype|crates\.io)`)

func TestTreeKnowsNoMachine(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files() {
		if f.generated || f.path == "words_test.go" || f.path == "go.sum" {
			continue
		}
		eachLine(f, func(n int, line string) {
			if homes.MatchString(line) || (len(here) > 4 && strings.Contains(line, here)) {
				t.Errorf("%s:%d: a path of one machine: derive it from the script's or the test's own folder\n\t%s", f.path, n, line)
			}
			if h := registries.FindString(line); h != "" {
				t.Errorf("%s:%d: names the registry %s: leave the choice to the machine's settings", f.path, n, h)
			}
		})
	}
}

var upward = regexp.MustCompile(`(?:^|[\s"'(=])((?:\.\./)+[A-Za-z0-9_.-][A-Za-z0-9_./-]*)`)

// A path that climbs out of the repository works on one machine only.
func TestNoPathLeavesTheRepository(t *testing.T) {
	for _, f := range files() {
		eachLine(f, func(n int, line string) {
			for _, m := range upward.FindAllStringSubmatch(line, -1) {
				if p := path.Join(f.dir(), m[1]); strings.HasPrefix(p, "..") {
					t.Errorf("%s:%d: %s lies outside the repository: copy what you need into it", f.path, n, m[1])
				}
			}
		})
	}
}

// Text files end with a newline and carry no spaces at line ends, so that diffs show what changed.
func TestTextIsClean(t *testing.T) {
	for _, f := range files() {
		if f.generated || strings.Contains(f.path, "testdata/") {
			continue
		}
		if f.text != "" && !strings.HasSuffix(f.text, "\n") {
			t.Errorf("%s does not end with a newline", f.path)
		}
		eachLine(f, func(n int, line string) {
			if strings.TrimRight(line, " \t\r") != line {
				t.Errorf("%s:%d ends with white space", f.path, n)
			}
		})
	}
}

func TestScriptsAreStrict(t *testing.T) {
	for _, f := range files() {
		info, err := os.Stat(filepath.FromSlash(f.path))
		if err != nil {
			t.Fatal(err)
		}
		bash := strings.HasPrefix(f.text, "#!/usr/bin/env bash\n")
		executable := info.Mode()&0o111 != 0
		if bash != executable && !strings.HasPrefix(f.text, "#!") {
			t.Errorf("%s: what is executable begins with #!, and what is sourced is not executable", f.path)
		}
		if bash && !strings.Contains(f.text, "\nset -euo pipefail\n") {
			t.Errorf("%s: a script without `set -euo pipefail` goes on after an error", f.path)
		}
		if strings.HasPrefix(f.text, "#!") && !executable {
			t.Errorf("%s: begins with #! and cannot be run: chmod +x", f.path)
		}
	}
}
