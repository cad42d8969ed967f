package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/halley-im/halley/pkg/plan"
)

const (
	capacityPage = "../../docs/capacity.md"
	tableBegin   = "<!-- The table is written by: go test ./cmd/halley -run TestCapacityPage -rewrite -->\n"
	tableEnd     = "<!-- end of the table -->"
)

// What the page shows is what the program prints, with the constants that it ships.
func TestCapacityPage(t *testing.T) {
	text, err := os.ReadFile(capacityPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("the page has no place for the table of constants")
	}
	var page strings.Builder
	page.WriteString(before + tableBegin + constantsTable() + tableEnd)
	shown := 0
	for i, part := range strings.Split(after, "```") {
		if i > 0 {
			page.WriteString("```")
		}
		line, _, _ := strings.Cut(strings.TrimPrefix(part, "console\n"), "\n")
		args, ok := strings.CutPrefix(line, "$ halley ")
		if i%2 == 0 || !ok {
			page.WriteString(part)
			continue
		}
		out, stderr, code := call(t, strings.Fields(args)...)
		if code != exitOK {
			t.Fatalf("%s: %s", line, stderr)
		}
		page.WriteString("console\n" + line + "\n" + out)
		shown++
	}
	if shown < 3 {
		t.Errorf("%d plans are shown", shown)
	}
	golden(t, capacityPage, page.String())
}

func constantsTable() string {
	var b strings.Builder
	b.WriteString("| constant | value | basis | what | to be measured by |\n|---|---|---|---|---|\n")
	for _, c := range plan.Default() {
		fmt.Fprintf(&b, "| `%s` | %s %s | %s | %s | `%s` |\n", c.Name, strconv.FormatFloat(c.Value, 'f', -1, 64), c.Unit, c.Basis, c.What, c.Command)
	}
	return b.String()
}

func TestPlanIsToldToProgramsToo(t *testing.T) {
	out, stderr, code := call(t, "plan", "-n", "1000000", "--rate", "10000", "--json", "--redis", "4x64GiB")
	if code != exitOK {
		t.Fatal(stderr)
	}
	var r plan.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Tiers) != 6 || r.Load.Connections != 1e6 || r.Tier("redis").Shape.MemoryBytes != 64<<30 || len(r.Steps) == 0 {
		t.Errorf("%+v", r)
	}
	// What the flags say where nothing is said is what the package says.
	want, policy := plan.DefaultLoad(), plan.DefaultPolicy()
	want.Connections, want.MessagesPerSecond = 1e6, 1e4
	policy.Shapes.Redis = plan.Shape{Cores: 4, MemoryBytes: 64 << 30}
	if r.Load != want || r.Policy != policy {
		t.Errorf("%+v\n%+v", r.Load, r.Policy)
	}
}

func TestPlanWithConstantsOfOnesOwn(t *testing.T) {
	out, stderr, code := call(t, "plan", "--show-constants")
	if code != exitOK {
		t.Fatal(stderr)
	}
	file := filepath.Join(t.TempDir(), "own.yaml")
	spoilt := strings.ReplaceAll(out, "process_memory_bytes: 536870912", "process_memory_bytes: 1")
	if spoilt == out {
		t.Fatal(out)
	}
	if err := os.WriteFile(file, []byte(spoilt), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code = call(t, "plan", "--constants", file, "--constant", "redis_cpu_us_per_connect=7.5", "--show-constants")
	if code != exitOK || !strings.Contains(out, "process_memory_bytes: 1\n") || !strings.Contains(out, "redis_cpu_us_per_connect: 7.5\n") {
		t.Errorf("%d %s%s", code, stderr, out)
	}
}

func TestPlanSaysWhatIsWrong(t *testing.T) {
	for args, want := range map[string]string{
		"":                                            "--connections and --rate",
		"-n 10":                                       "--connections and --rate",
		"-n 0.5 --rate 1":                             "connections: must be",
		"-n 10 --rate 1 --headroom 2":                 "headroom: must be",
		"-n 10 --rate 1 --zones 2":                    "zones: 2",
		"-n 10 --rate 1 --comet 8":                    `"8" is not a shape such as 8x32GiB`,
		"-n 10 --rate 1 --nats 8x32GBx1TiB":           "is not a shape",
		"-n 10 --rate 1 --nats 8x32GiB":               "nats.disk_bytes",
		"-n 10 --rate 1 --constant x=1":               `no constant is called "x"`,
		"-n 10 --rate 1 --constant x":                 "name=value",
		"-n 10 --rate 1 --constants testdata/missing": "no such file",
		"-n 10 --rate 1 --loss all":                   "must be one of",
	} {
		_, stderr, code := call(t, append([]string{"plan"}, strings.Fields(args)...)...)
		if code == exitOK || !strings.Contains(stderr, want) {
			t.Errorf("%q: %d %q does not say %q", args, code, stderr, want)
		}
	}
}
