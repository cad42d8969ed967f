package simulation

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/halley-im/halley/benchmarks/mistakes"
	"github.com/halley-im/halley/pkg/overlay"
)

// mutant is the write path with one mistake in it. A simulation that does not find it out is worth nothing.
type mutant struct {
	name    string
	patches []overlay.Patch
}

// one is the replacement of what stands once in a file of logic/partition.
func one(file, old, by string) []overlay.Patch {
	return []overlay.Patch{{File: "logic/partition/" + file, Old: old, New: by}}
}

const beforeAppend = "	start := time.Now()\n	err := o.append(ctx, b, o.block.user)\n"

var mutants = []mutant{
	{"delivers before the commit", one("commit.go", beforeAppend, `	for _, s := range o.block.records {
		o.stage.put(parcel{deliveries: []delivery{{
			app: s.record.App, conversation: s.record.Conversation, record: s.record, users: s.recipients,
		}}})
	}
`+beforeAppend)},
	// To look up before the append alone does no harm here: a device registers and then reads, and its read waits for the append.
	{"delivers by what presence said a second ago", slices.Concat(
		one("stage.go", "	// Owned by run.\n", "	seen   map[presence.User][]presence.Entry\n	seenAt time.Time\n"),
		one("stage.go", "		s.entries, failed = entries, err\n", `		s.entries, failed = entries, err
		if s.seen == nil || time.Since(s.seenAt) > time.Second {
			s.seen, s.seenAt = make(map[presence.User][]presence.Entry), time.Now()
		}
		for i, u := range s.users {
			if e, ok := s.seen[u]; ok {
				s.entries[i] = e
			}
			s.seen[u] = s.entries[i]
		}
`))},
	{"takes silence of the log for a yes", one("commit.go", "			unanswered = true\n", "			done()\n			return nil\n")},
	{"takes any block in its place for its own", one("commit.go", "case err == nil && mine:", "case err == nil && (mine || true):")},
	{"forgets retries of what is in the block", one("decide.go", "c.find(r.User, r.Device, r.ClientID); s != nil {", "c.find(r.User, r.Device, r.ClientID); s != nil && s.cell == nil {")},
	{"looks for retries in memory only", one("decide.go", "(first == 0 || r.Since+1 < first) && o.search(c, r)", "first == 1<<63")},
	{"looks for retries in memory and in the store only", one("load.go", "	logged := c.Window.Candidates(r.User, r.Device, r.ClientID, r.Since)\n", "	var logged []state.Place\n")},
	{"reads of history what is in memory and in the store only", one("tail.go", "	m, err := o.Log.Get(ctx, block)\n", "	m, err := bus.Message{}, bus.ErrNoMessage\n")},
	{"forgets who joined when it lets go of the record", one("tail.go", "c.Evict(block, o.floorOf(c), !c.loaded)", "c.Evict(block, o.floorOf(c), false)")},
	{"does not keep a device's order", one("decide.go", `if r.After != "" && !c.wrote(r, o.cfg.SearchRecords) {`, `if r.After == "\x00" {`)},
	{"takes late copies of an earlier epoch", one("decide.go", "h.Write && r.Epoch < o.epoch", "h.Write && r.Epoch > 1<<63")},
	{"forgets what it refused", one("refusals.go", "if len(f.codes) == 0 {", "if len(f.codes) >= 0 {")},
	{"forgets what it refused without a new epoch", one("owner.go", "			if err := o.fence(ctx, o.epoch+1); err != nil {", "			o.refused.clear()\n			if err := ctx.Err(); err != nil {")},
	{"delivers under an epoch that is over", one("commit.go", "o.stage.epoch.Store(epoch)", "o.stage.epoch.CompareAndSwap(0, epoch)")},
	{"decides on members before they are committed", one("decide.go", "	c.barrier = d.Alone || len(d.Joined) > 0 || len(d.Left) > 0\n", "")},
	{"takes over without a fence", one("takeover.go", "		err := o.fence(ctx, epoch+1)\n", "		o.epoch = epoch + 1\n		var err error\n")},
	{"takes over from history's floor without the log", one("takeover.go", "			o.replay(r, m.Seq)\n", "			_ = r\n")},
	{"goes on as a candidate after its reign", one("housekeep.go", "		return errSucceeded\n", "		return err\n")},
}

// mutantSeeds is how many a mutant may survive: CI runs more.
const mutantSeeds = "1500"

var verdict = regexp.MustCompile(`seed (\d+), after (\d+) seeds:\n *([^\n]*)`)

// Each mutant is built with -overlay, so nothing in the product knows of it, and must be found out.
func TestMutantsAreCaught(t *testing.T) {
	if os.Getenv("SIM_MUTANTS") == "" {
		t.Skip("it builds the write path anew for each mutant: make mutants")
	}
	all := slices.Clone(mutants)
	for _, m := range mistakes.All { // What chaos must find out too.
		all = append(all, mutant{m.Name, m.Patches(0)})
	}
	for _, m := range all {
		if only := os.Getenv("SIM_MUTANTS"); only != "all" && !strings.Contains(m.name, only) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			bin := m.build(t)
			out, caught := simulated(t, bin, "SIM_SEEDS="+mutantSeeds)
			if !caught {
				t.Fatalf("lived through %s seeds", mutantSeeds)
			}
			v := verdict.FindSubmatch(out)
			if v == nil {
				t.Logf("crashed: %.200s", out)
				return
			}
			again := 0
			for range 5 {
				if _, caught := simulated(t, bin, "SIM_SEED="+string(v[1]), "SIM_SEEDS=1"); caught {
					again++
				}
			}
			t.Logf("caught after %s seeds, and by that seed %d times of 5 again: %s", v[2], again, v[3])
		})
	}
}

// Where the product moves on, so must its mutants.
func TestMutantsFitTheProduct(t *testing.T) {
	for _, m := range mutants {
		if _, err := overlay.Write("../..", t.TempDir(), m.patches...); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

// simulated runs the simulation of a mutant, and says whether it failed.
func simulated(t *testing.T, bin string, env ...string) ([]byte, bool) {
	cmd := exec.CommandContext(t.Context(), bin, "-test.run", "^TestPromisesHoldUnderSeededFaults$", "-test.timeout", "20m")
	cmd.Env = append(append(os.Environ(), "SIM_MUTANTS="), env...)
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out, err != nil
}

// build makes the test of this package with the mutant in place of the product.
func (m *mutant) build(t *testing.T) string {
	dir := t.TempDir()
	list, err := overlay.Write("../..", dir, m.patches...)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "mutant.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", list, "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}
