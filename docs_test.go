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

// Every window of docs/failures.md says what happens, for how long, what an operator sees of it, and which test makes it happen; and
// none of that is made up.
func TestFailuresAreTestedAndSeen(t *testing.T) {
	const page = "docs/failures.md"
	text := read(t, page)
	tests, code := testsByFolder(), productText()
	targets := makeTarget.FindAllStringSubmatch(read(t, "Makefile"), -1)
	rows := 0
	for _, table := range tablesOf(text) {
		at := slices.Index(table[0], "test")
		if at < 0 {
			continue
		}
		for _, row := range table[1:] {
			rows++
			if len(row) != len(table[0]) || slices.Contains(row, "") {
				t.Errorf("%s: %q has %d cells, some perhaps empty; want all of %q", page, row[0], len(row), table[0])
				continue
			}
			named := 0
			for _, m := range codeSpan.FindAllStringSubmatch(row[at], -1) {
				named++
				folder, name, isTest := strings.Cut(m[1], ":")
				target, isTarget := strings.CutPrefix(m[1], "make ")
				target, _, _ = strings.Cut(target, " ")
				switch {
				case isTest && slices.Contains(tests[folder], name):
				case isTarget && slices.ContainsFunc(targets, func(m []string) bool { return m[1] == target }):
				default:
					t.Errorf("%s: %q is held by %s, which is neither a test of its folder nor a make target", page, row[0], m[1])
				}
			}
			if named == 0 {
				t.Errorf("%s: %q has no test: write one that makes it happen", page, row[0])
			}
			if seen := slices.Index(table[0], "what an operator sees"); seen >= 0 {
				checkSeen(t, page, row[0], row[seen], code)
			}
		}
	}
	if rows < 50 {
		t.Errorf("%s has %d rows: are its tables not read any more?", page, rows)
	}
}

var (
	metricName = regexp.MustCompile("`(halley_[a-z0-9_]+)(?:\\{[^`]*\\})?`")
	logLine    = regexp.MustCompile(`"([^"]{8,})"`)
)

// checkSeen looks for the metrics and the log lines of a cell in the code.
func checkSeen(t *testing.T, page, what, cell, code string) {
	t.Helper()
	for _, m := range metricName.FindAllStringSubmatch(cell, -1) {
		// Comet puts its prefix before most of its own.
		short, isComet := strings.CutPrefix(m[1], "halley_comet_")
		if !strings.Contains(code, `"`+m[1]+`"`) && (!isComet || !strings.Contains(code, `"`+short+`"`)) {
			t.Errorf("%s: %q is seen by %s, which nothing registers", page, what, m[1])
		}
	}
	cell = codeSpan.ReplaceAllString(cell, "")
	for _, m := range logLine.FindAllStringSubmatch(cell, -1) {
		if !strings.Contains(code, m[1]) {
			t.Errorf("%s: %q is seen by the log line %q, which nothing writes", page, what, m[1])
		}
	}
}

// tablesOf returns the tables of a page: rows of cells, the first the heads.
func tablesOf(text string) (tables [][][]string) {
	inside := false
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case !inside:
			tables = append(tables, [][]string{cells})
		case !strings.HasPrefix(cells[0], "---"):
			tables[len(tables)-1] = append(tables[len(tables)-1], cells)
		}
		inside = true
	}
	return tables
}

// testsByFolder maps folders to the tests that are declared in them, whatever their build tags.
func testsByFolder() map[string][]string {
	out := map[string][]string{}
	for _, f := range goFiles() {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && testName.MatchString(fn.Name.Name) {
				out[f.dir()] = append(out[f.dir()], fn.Name.Name)
			}
		}
	}
	return out
}

// productText is all code but tests.
func productText() string {
	var out strings.Builder
	for _, f := range goFiles() {
		if !f.isTest() {
			out.WriteString(f.text)
		}
	}
	return out.String()
}
