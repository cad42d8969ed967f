package halley_test

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// mutableVars lists package-level variables that change while the program runs, as "folder.name", with the reason why
// they are not fields of something.
var mutableVars = map[string]string{
	"cmd/halley.version":             "the linker writes it, see the Makefile",
	"cmd/halley.commit":              "the linker writes it, see the Makefile",
	"pkg/link/natslink.requestPool":  "empty batches, which nobody can tell apart",
	"pkg/link/natslink.dataPool":     "empty buffers, which nobody can tell apart",
	"pkg/link/natslink.deliveryPool": "empty batches, which nobody can tell apart",
}

func TestNothingHappensAtInit(t *testing.T) {
	for _, f := range goFiles() {
		if !f.product() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s:%d: no init(): whoever needs it calls a constructor, in the order that main spells out",
					f.path, f.line(fn))
			}
		}
	}
}

// A variable of a package is shared by every instance in the process, and by every test.
func TestNoMutablePackageVariables(t *testing.T) {
	seen := map[string]bool{}
	written := writtenNames()
	for _, f := range goFiles() {
		if !f.product() {
			continue
		}
		for _, d := range f.ast.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, s := range gen.Specs {
				spec := s.(*ast.ValueSpec)
				for i, name := range spec.Names {
					if name.Name == "_" {
						continue
					}
					why := mutability(f, gen, spec, i)
					if why == "" && written[f.dir()][name.Name] {
						why = "is written to"
					}
					key := f.dir() + "." + name.Name
					seen[key] = why != ""
					if why != "" && mutableVars[key] == "" {
						t.Errorf("%s:%d: %s %s: make it a field that New sets, or list it in mutableVars with the reason",
							f.path, f.line(name), name.Name, why)
					}
				}
			}
		}
	}
	for key := range mutableVars {
		if !seen[key] {
			t.Errorf("mutableVars lists %s, which does not exist or does not change: delete the line", key)
		}
	}
}

// mutability says why the declaration alone shows that the variable changes, or "".
func mutability(f goFile, gen *ast.GenDecl, spec *ast.ValueSpec, i int) string {
	if embedded(gen, spec) {
		return ""
	}
	if len(spec.Values) == 0 {
		return "has no value yet"
	}
	i = min(i, len(spec.Values)-1) // One call may give several values.
	if from := f.text[f.fset.Position(spec.Values[i].Pos()).Offset:]; holdsState(from) {
		return "holds a lock, a pool or an atomic"
	}
	return ""
}

func holdsState(value string) bool {
	value = strings.TrimPrefix(value, "&")
	return (strings.HasPrefix(value, "sync.") && !strings.HasPrefix(value, "sync.OnceValue")) ||
		strings.HasPrefix(value, "atomic.") || strings.HasPrefix(value, "make(chan ")
}

func embedded(gen *ast.GenDecl, spec *ast.ValueSpec) bool {
	return slices.ContainsFunc([]*ast.CommentGroup{gen.Doc, spec.Doc}, func(g *ast.CommentGroup) bool {
		return g != nil && slices.ContainsFunc(g.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
	})
}

// writtenNames collects, by folder, the package-level names that some function assigns to, in whole or in part.
func writtenNames() map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for _, f := range goFiles() {
		if !f.product() {
			continue
		}
		names := out[f.dir()]
		if names == nil {
			names = map[string]bool{}
			out[f.dir()] = names
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				for name := range assigned(fn) {
					names[name] = true
				}
			}
		}
	}
	return out
}

// assigned returns the names that fn writes to and does not declare itself.
func assigned(fn *ast.FuncDecl) map[string]bool {
	own, out := map[string]bool{}, map[string]bool{}
	declare := func(fields *ast.FieldList) {
		if fields == nil {
			return
		}
		for _, field := range fields.List {
			for _, n := range field.Names {
				own[n.Name] = true
			}
		}
	}
	declare(fn.Recv)
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			declare(n.Params)
			declare(n.Results)
		case *ast.AssignStmt:
			for _, lhs := range n.Lhs {
				if id, ok := lhs.(*ast.Ident); ok && n.Tok == token.DEFINE {
					own[id.Name] = true
				} else {
					out[root(lhs)] = true
				}
			}
		case *ast.IncDecStmt:
			out[root(n.X)] = true
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					own[id.Name] = true
				}
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				own[id.Name] = true
			}
		}
		return true
	})
	for name := range own {
		delete(out, name)
	}
	return out
}

// root is the variable that an assignable expression starts from.
func root(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return ""
		}
	}
}

// A test that sleeps is slow on a fast machine and fails on a slow one. In a synctest bubble the clock is false, and
// sleeping is how to move it.
func TestTestsDoNotSleep(t *testing.T) {
	bubbles := map[string]bool{} // folders whose tests run in one
	for _, f := range goFiles() {
		if slices.Contains(f.imports, "testing/synctest") {
			bubbles[path.Dir(f.path)] = true
		}
	}
	for _, f := range goFiles() {
		if !strings.HasSuffix(f.path, "_test.go") || bubbles[path.Dir(f.path)] {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && callee(call) == "time.Sleep" {
				t.Errorf("%s:%d: time.Sleep in a test: poll with a deadline, or use testing/synctest", f.path, f.line(call))
			}
			return true
		})
	}
}

// callee is the name of a called function as pkg.Func, or "".
func callee(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return pkg.Name + "." + sel.Sel.Name
}
