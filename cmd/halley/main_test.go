package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

var rewrite = flag.Bool("rewrite", false, "write what the program prints into the golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"halley": main})
}

// TestScripts uses the program as people do; see testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		UpdateScripts:      *rewrite,
		RequireUniqueNames: true,
	})
}

// call runs the program within the test.
func call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(&program{args: args, stdin: strings.NewReader(""), stdout: &out, stderr: &errs})
	return out.String(), errs.String(), code
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; go test ./cmd/halley -rewrite makes it", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s is not what the program prints; go test ./cmd/halley -rewrite if it should be:\n%s", path, d)
	}
}

// The page in docs is what the program prints, so it cannot describe another version.
func TestConfigurationPageIsUpToDate(t *testing.T) {
	out, stderr, code := call(t, "config", "doc")
	if code != exitOK {
		t.Fatal(stderr)
	}
	golden(t, "../../docs/configuration.md", out)
}

func TestEverySettingIsExplained(t *testing.T) {
	s := settingsSchema()
	for _, k := range s.Keys {
		if k.Doc == "" {
			t.Errorf("%s has no text: give its field a doc tag", k.Path)
		}
	}
	for _, section := range s.Sections[1:] {
		if section.Doc == "" {
			t.Errorf("section %s has no text: give its field a doc tag", section.Path)
		}
	}
}

// A section that no tier uses would never be validated.
func TestEverySectionBelongsToATier(t *testing.T) {
	schema := settingsSchema()
	for tier, list := range sectionsOf {
		for _, name := range list {
			found := false
			for _, s := range schema.Sections {
				found = found || s.Path == name
			}
			if !found {
				t.Errorf("%s uses a section %s, which does not exist", tier, name)
			}
		}
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	t.Setenv("COLUMNS", "100")
	for _, words := range commandLines(t) {
		name := "halley"
		if words != "" {
			name += "-" + strings.ReplaceAll(words, " ", "-")
		}
		t.Run(name, func(t *testing.T) {
			out, stderr, code := call(t, append(strings.Fields(words), "-help")...)
			if code != exitOK || stderr != "" {
				t.Fatalf("exit code %d, %s", code, stderr)
			}
			golden(t, filepath.Join("testdata", "help", name+".txt"), out)
		})
	}
}

// commandLines lists every command with the words that lead to it.
func commandLines(t *testing.T) []string {
	t.Helper()
	var lines []string
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(n.Path(), "halley")))
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(newParser(&program{stdout: io.Discard, stderr: io.Discard}).Model.Node)
	return lines
}
