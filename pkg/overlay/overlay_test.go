package overlay

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const program = `package main

const word = "shipped"

func main() { print(word, other) }
`

func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.org/p\n\ngo 1.26\n", "cmd/p/main.go": program, "cmd/p/other.go": "package main\n\nconst other = \" too\"\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestABuildHasThePatchesAndTheTreeHasNot(t *testing.T) {
	root := tree(t)
	list, err := Write(root, t.TempDir(),
		Patch{"cmd/p/main.go", `"shipped"`, `"broken"`}, Patch{"cmd/p/other.go", "too", "twice"}, Patch{"cmd/p/main.go", "print(", "print(word, "})
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"run"}, args...)...)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if broken, whole := run("-overlay", list, "./cmd/p"), run("./cmd/p"); broken != "brokenbroken twice" || whole != "shipped too" {
		t.Errorf("%q and %q", broken, whole)
	}
}

func TestAPatchThatDoesNotFitIsRefused(t *testing.T) {
	root := tree(t)
	for name, p := range map[string]Patch{
		"not there":    {"cmd/p/main.go", "Shipped", ""},
		"there twice":  {"cmd/p/main.go", "word", ""},
		"no such file": {"cmd/p/none.go", "word", ""},
	} {
		if _, err := Write(root, t.TempDir(), p); err == nil || !strings.Contains(err.Error(), p.File) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
