package halley_test

import (
	"fmt"
	"go/doc"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What stands at the top, and what each folder is for. A new one is a new idea: it needs an ADR.
var topFolders = []string{"cmd", "comet", "logic", "job", "pkg", "protocol", "deploy", "benchmarks", "docs", "sdk"}

// The root holds what tools look for there, the pages that people read first, and these tests.
var rootFile = regexp.MustCompile(`^(go\.mod|go\.sum|Makefile|LICENSE|[A-Z]+\.md|\w+_test\.go|\..+)$`)

const maxLines = 600

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case slices.Contains(leftBehind, name), strings.HasSuffix(name, ".test"), strings.HasSuffix(name, ".prof"):
		case e.IsDir():
			if !strings.HasPrefix(name, ".") && !slices.Contains(topFolders, name) {
				t.Errorf("folder %s: the top level holds %v only; put it into one of them", name, topFolders)
			}
		case !rootFile.MatchString(name):
			t.Errorf("file %s: the root holds go.mod, the Makefile, LICENSE, pages, rule tests and dot files only", name)
		}
	}
}

func TestFilesAreSmall(t *testing.T) {
	for _, f := range files() {
		switch path.Ext(f.path) {
		case ".go", ".sh", ".proto", ".js", ".css", ".html", ".py", ".cql":
			if !f.generated && f.lines() > maxLines {
				t.Errorf("%s has %d lines, more than %d: find the second noun in it and give it a file", f.path, f.lines(), maxLines)
			}
		}
	}
}

// synopses maps each package's folder to the first sentence of its doc comment.
func synopses(t *testing.T) map[string]string {
	out := map[string]string{}
	var pkg doc.Package
	for _, f := range goFiles() {
		if strings.HasSuffix(f.path, "_test.go") || f.generated {
			continue
		}
		if _, ok := out[f.dir()]; !ok {
			out[f.dir()] = ""
		}
		if f.ast.Doc == nil {
			continue
		}
		if out[f.dir()] != "" {
			t.Errorf("%s: the package comment stands in another file already: one file carries it", f.path)
		}
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(f.ast.Doc.Text(), want) {
			t.Errorf("%s: the package comment must begin with %q", f.path, want)
		}
		out[f.dir()] = pkg.Synopsis(f.ast.Doc.Text())
	}
	return out
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	for dir, s := range synopses(t) {
		if s == "" {
			t.Errorf("%s has no package comment: one sentence what it is, one what it never does", dir)
		}
	}
}

const (
	architecture = "ARCHITECTURE.md"
	treeBegin    = "<!-- The tree is written by: go test -run TestArchitectureTree -rewrite . -->\n```\n"
	treeEnd      = "```\n<!-- end of the tree -->"
)

func TestArchitectureTree(t *testing.T) {
	text := read(t, architecture)
	before, rest, ok := strings.Cut(text, treeBegin)
	have, after, ok2 := strings.Cut(rest, treeEnd)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines between which the tree stands:\n%s%s", architecture, treeBegin, treeEnd)
	}
	want := tree(synopses(t))
	if have == want {
		return
	}
	if !*rewrite {
		t.Fatalf("the tree in %s is not that of the repository; run: go test -run TestArchitectureTree -rewrite .\nwant:\n%s",
			architecture, want)
	}
	if err := os.WriteFile(architecture, []byte(before+treeBegin+want+treeEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree draws the packages, and the folders on the way to them, each with its sentence.
func tree(synopses map[string]string) string {
	dirs := map[string]bool{}
	for dir := range synopses {
		for ; dir != "."; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	ordered := make([]string, 0, len(dirs))
	for dir := range dirs {
		ordered = append(ordered, dir)
	}
	slices.SortFunc(ordered, func(a, b string) int {
		as, bs := strings.Split(a, "/"), strings.Split(b, "/")
		if as[0] != bs[0] {
			return slices.Index(topFolders, as[0]) - slices.Index(topFolders, bs[0])
		}
		return slices.Compare(as, bs)
	})
	var b strings.Builder
	for _, dir := range ordered {
		indent := strings.Repeat("  ", strings.Count(dir, "/"))
		name := indent + path.Base(dir) + "/"
		if s := sentence(synopses[dir]); s == "" {
			fmt.Fprintln(&b, name)
		} else {
			fmt.Fprintf(&b, "%-26s %s\n", name, s)
		}
	}
	return b.String()
}

// sentence drops the words "Package x is", which the tree says already, and what does not fit on a line.
func sentence(synopsis string) string {
	words := strings.Fields(synopsis)
	if len(words) < 3 {
		return ""
	}
	s := strings.TrimSuffix(strings.Join(words[2:], " "), ".")
	s = strings.TrimPrefix(s, "is ")
	for _, mark := range []string{"; ", ": ", " (", ", "} {
		if len(s) > 90 {
			s, _, _ = strings.Cut(s, mark)
		}
	}
	return s
}

var adrName = regexp.MustCompile(`^(\d{4})-[a-z0-9-]+\.md$`)

func TestDecisionsAreNumbered(t *testing.T) {
	pages, err := filepath.Glob("docs/adr/*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(pages)
	for i, page := range pages {
		m := adrName.FindStringSubmatch(path.Base(filepath.ToSlash(page)))
		if want := fmt.Sprintf("%04d", i+1); m == nil || m[1] != want {
			t.Errorf("%s: decisions are docs/adr/NNNN-title.md without gaps; this one is number %s", page, want)
			continue
		}
		text := read(t, page)
		if !strings.HasPrefix(text, "# "+m[1]+". ") {
			t.Errorf("%s must begin with %q and its title", page, "# "+m[1]+". ")
		}
		last := 0
		for _, part := range []string{"## Context", "## Decision", "## Consequences", "## Alternatives"} {
			at := strings.Index(text, "\n"+part+"\n")
			if at <= last {
				t.Errorf("%s lacks %q, or has it out of order: context, decision, consequences, alternatives", page, part)
			}
			last = at
		}
		if n := strings.Count(text, "\n"); n > 60 {
			t.Errorf("%s has %d lines: a decision fits on one page of 60", page, n)
		}
	}
}
