// Package halley_test holds the rules that this repository keeps, as tests. A rule that fails says what to do instead; an
// exception is data in the rule, with its reason.
package halley_test

import (
	"bufio"
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/halley-im/halley"

var rewrite = flag.Bool("rewrite", false, "write golden parts instead of comparing them")

// sourceFile is one file of the repository, by its slash-separated path from the root.
type sourceFile struct {
	path      string
	text      string
	generated bool
}

func (f sourceFile) dir() string   { return path.Dir(f.path) }
func (f sourceFile) isGo() bool    { return strings.HasSuffix(f.path, ".go") }
func (f sourceFile) isTest() bool  { return strings.HasSuffix(f.path, "_test.go") || isSuite(f.dir()) }
func (f sourceFile) lines() int    { return strings.Count(f.text, "\n") }
func (f sourceFile) isProse() bool { return strings.HasSuffix(f.path, ".md") }

// isSuite reports whether the package is test code that other packages' tests import: storetest, linktest …
func isSuite(dir string) bool { return strings.HasSuffix(path.Base(dir), "test") }

// product reports whether the file is code that ships.
func (f sourceFile) product() bool {
	return f.isGo() && !f.generated && !f.isTest() && f.dir() != "." && !under(f.dir(), "deploy")
}

// What a build or a run leaves in the tree, and git does not see.
var leftBehind = []string{".git", ".tools", "bin", "halley", "halley-data", "node_modules", "__pycache__"}

var generatedLine = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// files reads the whole tree once.
var files = sync.OnceValue(func() []sourceFile {
	var out []sourceFile
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != "." && slices.Contains(leftBehind, d.Name()) && (d.Name() != "halley" || p == "halley") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if bytes.IndexByte(data[:min(len(data), 8000)], 0) >= 0 {
			return nil // Not text.
		}
		f := sourceFile{path: filepath.ToSlash(p), text: string(data)}
		f.generated = f.isGo() && generatedLine.MatchString(f.text)
		out = append(out, f)
		return nil
	})
	if err != nil {
		panic(err)
	}
	return out
})

// goFile is a parsed Go file.
type goFile struct {
	sourceFile
	fset    *token.FileSet
	ast     *ast.File
	imports []string
}

func (f goFile) line(n ast.Node) int { return f.fset.Position(n.Pos()).Line }

// goFiles parses every Go file once.
var goFiles = sync.OnceValue(func() []goFile {
	var out []goFile
	for _, f := range files() {
		if !f.isGo() || strings.Contains(f.path, "testdata/") {
			continue
		}
		g := goFile{sourceFile: f, fset: token.NewFileSet()}
		parsed, err := parser.ParseFile(g.fset, f.path, f.text, parser.ParseComments)
		if err != nil {
			panic(err)
		}
		g.ast = parsed
		for _, imp := range parsed.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				panic(err)
			}
			g.imports = append(g.imports, p)
		}
		out = append(out, g)
	}
	return out
})

// under reports whether dir is one of the folders, or below one.
func under(dir string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return dir == f || strings.HasPrefix(dir, f+"/") })
}

// local turns an import path of this module into a folder.
func local(importPath string) (dir string, ok bool) { return strings.CutPrefix(importPath, module+"/") }

// eachLine calls fn with every line of the file, numbered from 1.
func eachLine(f sourceFile, fn func(n int, line string)) {
	s := bufio.NewScanner(strings.NewReader(f.text))
	s.Buffer(nil, 1<<20)
	for n := 1; s.Scan(); n++ {
		fn(n, s.Text())
	}
}

// exists reports whether the path is in the tree, or is a pattern that matches something in it.
func exists(p string) bool {
	m, err := filepath.Glob(filepath.FromSlash(p))
	return err == nil && len(m) > 0
}

func read(t *testing.T, p string) string {
	t.Helper()
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
