package halley_test

import (
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// importRule forbids folders to one another.
type importRule struct {
	from    []string
	never   []string
	through bool // Also forbids what is reached through other packages.
	instead string
}

var bodies = []string{
	"protocol/halley/message", "protocol/halley/conversation", "protocol/halley/receipt", "protocol/halley/signal",
	"protocol/halley/record",
}

var importRules = []importRule{
	{
		from: []string{"comet"}, never: []string{"logic", "job", "cmd", "benchmarks"}, through: true,
		instead: "comet passes requests on through link.Router and takes deliveries as a link.Node",
	},
	{
		from: []string{"logic"}, never: []string{"comet", "job", "cmd", "benchmarks"}, through: true,
		instead: "logic sends through link.Sender; what follows a record is a follower of the log, in job",
	},
	{
		from: []string{"job"}, never: []string{"comet", "logic", "cmd", "benchmarks"}, through: true,
		instead: "job reads the log and asks the owner of a partition on protocol.SubjectServer",
	},
	{
		from: []string{"pkg"}, never: []string{"comet", "logic", "job", "cmd", "benchmarks"}, through: true,
		instead: "a leaf takes what it needs as an argument or an interface of its own",
	},
	{
		from: []string{"protocol"}, never: []string{"comet", "logic", "job", "pkg", "cmd", "benchmarks"}, through: true,
		instead: "protocol is the bottom: words and codes, no behaviour",
	},
	{
		from: []string{"comet", "job/history", "pkg/store", "pkg/link", "pkg/presence", "pkg/bus"}, never: bodies,
		instead: "bodies are opaque here: put what you need into the envelope or the record of the log",
	},
	{
		from: []string{"logic/partition"}, never: []string{"pkg/store/pebble", "pkg/store/cassandra", "pkg/presence/redis"},
		instead: "the write path takes a store.Store and a presence.Registry; cmd chooses",
	},
}

// leaves lists which leaf of pkg may import which other, with the reason. The suites beside a contract follow its rule.
var leaves = map[[2]string]string{
	{"presence", "link"}: "an entry names the codec of its session",
	{"client", "ids"}:    "a device makes the ids of its writes",
	{"link", "bus"}:      "the link between tiers runs over NATS; the contract and the local link do not need it",
}

// owners says which folders may import a third-party module; "(tests)" after a folder, or alone, means its tests only. A
// module that this list lacks fails: to add a dependency is a decision.
var owners = map[string][]string{
	"github.com/panjf2000/gnet/v2":            {"comet/transport/loop", "benchmarks"},
	"github.com/gobwas/ws":                    {"comet/transport/websocket", "pkg/client", "benchmarks", "comet (tests)"},
	"github.com/pires/go-proxyproto":          {"comet/transport/proxy (tests)"}, // It judges the reader of headers.
	"github.com/nats-io/nats.go":              {"pkg/bus"},
	"github.com/nats-io/nats-server/v2":       {"pkg/bus"},
	"github.com/redis/go-redis/v9":            {"pkg/presence/redis"},
	"github.com/alicebob/miniredis/v2":        {"pkg/presence/redis"},
	"github.com/gocql/gocql":                  {"pkg/store/cassandra"},
	"github.com/cockroachdb/pebble/v2":        {"pkg/store/pebble"},
	"github.com/sony/sonyflake/v2":            {"pkg/ids"},
	"github.com/golang-jwt/jwt/v5":            {"pkg/auth"},
	"github.com/danielgtaylor/huma/v2":        {"logic/api"},
	"github.com/knadh/koanf/v2":               {"pkg/config"},
	"go.yaml.in/yaml/v3":                      {"pkg/config", "pkg/plan", "benchmarks"}, // Settings; constants and scenarios, which are none.
	"github.com/prometheus/common":            {"benchmarks (tests)"},
	"github.com/prometheus/procfs":            {"pkg/observe", "benchmarks/million"},
	"github.com/alecthomas/kong":              {"cmd/halley"},
	"github.com/HdrHistogram/hdrhistogram-go": {"benchmarks"},
	"github.com/sony/gobreaker/v2":            {"pkg/presence/redis", "pkg/store/cassandra"}, // For what may not answer, each with bounds of its own.
	"golang.org/x/crypto":                     {"pkg/certs"},
	"github.com/letsencrypt/pebble/v2":        {"pkg/certs/acmetest"}, // An authority for tests, and
	"github.com/miekg/dns":                    {"pkg/certs/acmetest"}, // the names that it looks up.
	"golang.org/x/crypto/x509roots/fallback":  {"cmd/halley"},
	"golang.org/x/time":                       {"comet", "logic", "pkg/client", "benchmarks"},
	"github.com/google/uuid":                  {"pkg/ids", "pkg/auth"},
	"google.golang.org/protobuf":              everywhere, // The wire.
	"github.com/planetscale/vtprotobuf":       everywhere, // The wire, generated.
	"github.com/prometheus/client_golang":     everywhere, // Each package registers its own figures.
	"github.com/google/go-cmp":                inTests,
	"github.com/rogpeppe/go-internal":         inTests,
	"go.uber.org/goleak":                      inTests,
	"github.com/anishathalye/porcupine":       {"benchmarks/oracle"},
	"github.com/chromedp/chromedp":            {"deploy/integration"},
	"github.com/chromedp/cdproto":             {"deploy/integration"},
	"pgregory.net/rapid":                      inTests,
}

var (
	everywhere = []string{"cmd", "comet", "logic", "job", "pkg", "protocol", "benchmarks"}
	inTests    = []string{"(tests)"}
)

func TestImportRules(t *testing.T) {
	graph := importGraph()
	for _, r := range importRules {
		for from := range graph {
			if !under(from, r.from...) {
				continue
			}
			for _, chain := range reached(graph, from, r.through) {
				if last := chain[len(chain)-1]; under(last, r.never...) && !under(last, from) {
					t.Errorf("%s must not import %s: %s", strings.Join(chain, " → "), last, r.instead)
				}
			}
		}
	}
}

// importGraph maps each folder to the folders of this module that its product code and suites import.
func importGraph() map[string][]string {
	graph := map[string][]string{}
	for _, f := range goFiles() {
		if strings.HasSuffix(f.path, "_test.go") && !under(f.dir(), "comet", "logic", "job", "pkg", "protocol") {
			continue
		}
		for _, imp := range f.imports {
			if to, ok := local(imp); ok && to != f.dir() && !slices.Contains(graph[f.dir()], to) {
				graph[f.dir()] = append(graph[f.dir()], to)
			}
		}
	}
	return graph
}

// reached returns the shortest chain from a folder to each folder that it imports, directly or through others.
func reached(graph map[string][]string, from string, through bool) [][]string {
	var out [][]string
	seen := map[string]bool{from: true}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		for _, to := range graph[chain[len(chain)-1]] {
			if seen[to] {
				continue
			}
			seen[to] = true
			next := append(slices.Clone(chain), to)
			out = append(out, next)
			if through {
				queue = append(queue, next)
			}
		}
	}
	return out
}

func TestLeavesOfPkgDoNotImportEachOther(t *testing.T) {
	used := map[[2]string]bool{}
	for _, f := range goFiles() {
		if !under(f.dir(), "pkg") {
			continue
		}
		for _, imp := range f.imports {
			dir, ok := local(imp)
			if !ok || !under(dir, "pkg") || strings.HasSuffix(f.path, "_test.go") {
				continue
			}
			edge := [2]string{leaf(f.dir()), leaf(dir)}
			used[edge] = true
			if edge[0] != edge[1] && leaves[edge] == "" {
				t.Errorf("%s imports pkg/%s: take an argument or an interface instead, or list the pair in leaves with its reason",
					f.path, edge[1])
			}
		}
	}
	for edge := range leaves {
		if !used[edge] {
			t.Errorf("leaves allows pkg/%s → pkg/%s, which nothing uses: delete the line", edge[0], edge[1])
		}
	}
}

// leaf is the first folder below pkg.
func leaf(dir string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(dir, "pkg/"), "/")
	return name
}

// Siblings share a contract and a suite in their parent; one that imports another cannot be taken away.
func TestSiblingsDoNotImportEachOther(t *testing.T) {
	for _, f := range goFiles() {
		for _, parent := range []string{"logic/feature", "job"} {
			own, ok := strings.CutPrefix(f.dir(), parent+"/")
			if !ok || isSuite(f.dir()) || strings.HasSuffix(f.path, "_test.go") {
				continue
			}
			if own, _, _ = strings.Cut(own, "/"); own == "all" {
				continue // The list.
			}
			for _, imp := range f.imports {
				dir, _ := local(imp)
				other, ok := strings.CutPrefix(dir, parent+"/")
				if other, _, _ = strings.Cut(other, "/"); ok && other != own {
					t.Errorf("%s imports %s: what two of them need belongs into %s itself", f.path, dir, parent)
				}
			}
		}
	}
}

func TestThirdPartyModulesHaveOneOwner(t *testing.T) {
	required := read(t, "go.mod")
	for m := range owners {
		if !strings.Contains(required, m+" v") {
			t.Errorf("owners lists %s, which go.mod does not require: delete the line", m)
		}
	}
	nested := nestedModules()
	for _, f := range goFiles() {
		if under(f.dir(), nested...) {
			continue // Its go.mod says what it requires.
		}
		for _, imp := range f.imports {
			if !thirdParty(imp) {
				continue
			}
			m := moduleOf(imp)
			if m == "" {
				t.Errorf("%s imports %s, which has no owner: name its one folder in owners, or do without it", f.path, imp)
				continue
			}
			if allowed := owners[m]; !slices.ContainsFunc(allowed, func(place string) bool { return covers(place, f.sourceFile) }) {
				t.Errorf("%s imports %s, which belongs to %q: go through that package instead", f.path, imp, allowed)
			}
		}
	}
}

// A module of its own keeps what it requires out of Halley's go.mod. It may not be a way around the rules above.
func TestNestedModulesStandAlone(t *testing.T) {
	nested := nestedModules()
	for _, dir := range nested {
		if !under(dir, "benchmarks") {
			t.Errorf("%s/go.mod: only what is measured against Halley may be a module of its own", dir)
		}
	}
	for _, f := range goFiles() {
		for _, imp := range f.imports {
			to, ok := local(imp)
			if ok && under(f.dir(), nested...) {
				t.Errorf("%s imports %s: what stands beside Halley does not use it", f.path, imp)
			}
			if ok && under(to, nested...) {
				t.Errorf("%s imports %s, which is another module: run it as a program", f.path, imp)
			}
		}
	}
}

// nestedModules are the folders below the root with a go.mod.
func nestedModules() (dirs []string) {
	for _, f := range files() {
		if path.Base(f.path) == "go.mod" && f.dir() != "." {
			dirs = append(dirs, f.dir())
		}
	}
	return dirs
}

// covers reports whether the file lies in a place of owners.
func covers(place string, f sourceFile) bool {
	folder, testsOnly := strings.CutSuffix(place, "(tests)")
	folder = strings.TrimSpace(folder)
	return (folder == "" || under(f.dir(), folder)) && (!testsOnly || f.isTest())
}

// thirdParty: the standard library has no dot in its first element.
func thirdParty(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return strings.Contains(first, ".") && importPath != module && !strings.HasPrefix(importPath, module+"/")
}

// moduleOf returns the longest listed module that holds the package.
func moduleOf(importPath string) string {
	best := ""
	for m := range maps.Keys(owners) {
		if (importPath == m || strings.HasPrefix(importPath, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
