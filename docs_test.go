package halley_test

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	codeSpan   = regexp.MustCompile("`([^`\n]+)`")
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	makeCall   = regexp.MustCompile(`(?:^|[\s(&;])make ((?:[a-z-]+\b ?)+)`)
	makeTarget = regexp.MustCompile(`(?m)^([a-z-]+):`)
	testName   = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)[A-Z]\w*$`)
	pathLike   = regexp.MustCompile(`^[A-Za-z0-9_./*-]+$`)
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// codeLines returns what stands as code in a page: spans in backquotes, and the lines of fenced blocks.
func codeLines(text string) (spans, fenced []string) {
	inside := false
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inside = !inside
			continue
		}
		if inside {
			fenced = append(fenced, line)
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			spans = append(spans, m[1])
		}
	}
	return spans, fenced
}

func TestMakeTargetsInPagesExist(t *testing.T) {
	var targets []string
	for _, m := range makeTarget.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets = append(targets, m[1])
	}
	for _, f := range files() {
		if !f.isProse() && f.path != ".ci/run" {
			continue
		}
		lines := strings.Split(f.text, "\n")
		if f.isProse() {
			spans, fenced := codeLines(f.text)
			lines = slices.Concat(spans, fenced)
		}
		for _, line := range lines {
			line, _, _ = strings.Cut(line, "#") // A comment is prose.
			for _, m := range makeCall.FindAllStringSubmatch(line, -1) {
				for _, target := range strings.Fields(m[1]) {
					if !slices.Contains(targets, target) {
						t.Errorf("%s: `make %s`: the Makefile has no such target", f.path, target)
					}
				}
			}
		}
	}
}

func TestPathsInPagesExist(t *testing.T) {
	for _, f := range files() {
		if !f.isProse() {
			continue
		}
		spans, _ := codeLines(f.text)
		for _, s := range spans {
			s, _, _ = strings.Cut(s, ":") // file:Symbol
			top, _, deep := strings.Cut(s, "/")
			known := slices.Contains(topFolders, top) || top == ".ci" || top == ".github"
			if !deep || !known || !pathLike.MatchString(s) || strings.Contains(s, "NNNN") {
				continue
			}
			if !exists(s) {
				t.Errorf("%s: `%s` does not exist: write what is there, or drop it", f.path, s)
			}
		}
		for _, m := range link.FindAllStringSubmatch(f.text, -1) {
			checkLink(t, f, m[1])
		}
	}
}

func checkLink(t *testing.T, f sourceFile, target string) {
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return
	}
	file, anchor, _ := strings.Cut(target, "#")
	page := f.path
	if file != "" {
		page = path.Join(f.dir(), file)
	}
	if !exists(page) {
		t.Errorf("%s links to %s, which does not exist", f.path, target)
		return
	}
	if anchor == "" || !strings.HasSuffix(page, ".md") {
		return
	}
	seen := map[string]int{} // the second of two headings with one name ends in -1
	for _, h := range heading.FindAllStringSubmatch(read(t, page), -1) {
		name := slug(h[1])
		if n := seen[name]; n > 0 {
			name += "-" + strconv.Itoa(n)
		}
		seen[slug(h[1])]++
		if name == anchor {
			return
		}
	}
	t.Errorf("%s links to %s, but %s has no such heading", f.path, target, page)
}

var notInSlug = regexp.MustCompile(`[^a-z0-9 _-]`)

func slug(heading string) string {
	return strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// A promise or a failure names its test; a test that was renamed would leave the page lying.
func TestTestsNamedInPagesExist(t *testing.T) {
	have := map[string]bool{}
	for _, f := range goFiles() {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				have[fn.Name.Name] = true
			}
		}
	}
	for _, f := range files() {
		if !f.isProse() {
			continue
		}
		spans, _ := codeLines(f.text)
		for _, s := range spans {
			name := s[strings.LastIndexByte(s, ':')+1:]
			name, _, _ = strings.Cut(name, "/")
			if testName.MatchString(name) && !have[name] {
				t.Errorf("%s names the test %s, which does not exist", f.path, name)
			}
		}
	}
}
