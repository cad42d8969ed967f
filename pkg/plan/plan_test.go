package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func must(t rapid.TB, l Load, p Policy, c Constants) *Result {
	r, err := Compute(l, p, c)
	if err != nil {
		t.Fatalf("%+v %+v: %v", l, p, err)
	}
	return r
}

func anyLoad(t *rapid.T) Load {
	l := DefaultLoad()
	l.Connections = rapid.Float64Range(1, 1e8).Draw(t, "connections")
	l.MessagesPerSecond = rapid.Float64Range(0, 5e5).Draw(t, "rate")
	l.PeakToMean = rapid.Float64Range(1, 10).Draw(t, "peak to mean")
	l.BodyBytes = rapid.Float64Range(1, 4000).Draw(t, "body")
	l.DevicesPerUser = rapid.Float64Range(1, 4).Draw(t, "devices")
	l.GroupShare = rapid.Float64Range(0, 1).Draw(t, "group share")
	l.GroupMembers = rapid.Float64Range(2, 2000).Draw(t, "members")
	l.Online = rapid.Float64Range(0, 1).Draw(t, "online")
	l.SessionMinutes = rapid.Float64Range(1, 600).Draw(t, "session")
	l.RetentionDays = rapid.Float64Range(1, 400).Draw(t, "retention")
	l.LogHours = rapid.Float64Range(0.1, 24).Draw(t, "log hours")
	l.TLS = rapid.Bool().Draw(t, "TLS")
	return l
}

func anyPolicy(t *rapid.T) Policy {
	p := DefaultPolicy()
	p.Headroom = rapid.Float64Range(0, 0.8).Draw(t, "headroom")
	p.Loss = rapid.SampledFrom([]Loss{LossNone, LossNode, LossZone}).Draw(t, "loss")
	p.Zones = rapid.IntRange(3, 7).Draw(t, "zones")
	p.RecoverSeconds = rapid.Float64Range(10, 1000).Draw(t, "recover")
	p.ConnectionsPerComet = rapid.Float64Range(5000, 1e6).Draw(t, "per comet")
	return p
}

func TestTheRestBearsAllWhenTheLossHasHappened(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		r := must(t, anyLoad(t), p, Default())
		for _, tier := range r.Tiers {
			if gone := tier.Nodes - tier.Survivors; p.Loss == LossZone && gone*p.Zones < tier.Nodes && tier.Name != "redis" {
				t.Fatalf("%s: %d of %d nodes are no zone of %d", tier.Name, gone, tier.Nodes, p.Zones)
			} else if p.Loss == LossNode && gone < 1 || tier.Survivors < 1 {
				t.Fatalf("%s: %d of %d are left", tier.Name, tier.Survivors, tier.Nodes)
			}
			for _, d := range tier.Needs {
				most := 1 - p.Headroom
				if d.whole {
					most = 1
				}
				if d.After > most*(1+1e-9) || d.Used > d.After*(1+1e-9) {
					t.Fatalf("%s: %s is used to %v, after the loss to %v, of %v", tier.Name, d.What, d.Used, d.After, most)
				}
			}
		}
	})
}

// One node, or one row of zones, less would not do.
func TestNoNodeIsForNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		r := must(t, anyLoad(t), p, Default())
		unit := 1
		if p.Loss == LossZone {
			unit = p.Zones
		}
		for _, tier := range r.Tiers {
			if tier.BoundBy == "minimum" || tier.Name == "redis" {
				continue
			}
			n := tier.Nodes - unit
			left := n - lost(n, p)
			fits := left > 0
			for _, d := range tier.Needs {
				free := d.Limit * (1 - p.Headroom)
				if d.whole {
					free = d.Limit
				}
				// Connects of those who come back are in the CPU as of the end; with fewer nodes there are more of them.
				if d.After*d.Limit*float64(d.bearers(tier.Nodes, tier.Survivors)) > float64(d.bearers(n, left))*free*(1+1e-9) {
					fits = false
				}
			}
			if fits && tier.Name != "comet" {
				t.Fatalf("%s: %d nodes would do instead of %d, which are there for %s", tier.Name, n, tier.Nodes, tier.BoundBy)
			}
		}
	})
}

func TestMoreNeedsNoFewer(t *testing.T) {
	larger := map[string]func(l *Load, p *Policy, by float64){
		"connections":       func(l *Load, _ *Policy, by float64) { l.Connections *= by },
		"messages":          func(l *Load, _ *Policy, by float64) { l.MessagesPerSecond *= by },
		"body":              func(l *Load, _ *Policy, by float64) { l.BodyBytes = min(l.BodyBytes*by, 32<<10) },
		"retention":         func(l *Load, _ *Policy, by float64) { l.RetentionDays *= by },
		"log hours":         func(l *Load, _ *Policy, by float64) { l.LogHours *= by },
		"online":            func(l *Load, _ *Policy, by float64) { l.Online = min(1, l.Online*by) },
		"shorter sessions":  func(l *Load, _ *Policy, by float64) { l.SessionMinutes /= by },
		"TLS":               func(l *Load, _ *Policy, _ float64) { l.TLS = true },
		"headroom":          func(_ *Load, p *Policy, by float64) { p.Headroom = min(0.9, p.Headroom*by) },
		"a faster recovery": func(_ *Load, p *Policy, by float64) { p.RecoverSeconds /= by },
		"fewer on each":     func(_ *Load, p *Policy, by float64) { p.ConnectionsPerComet /= by },
		"members, of the same kind": func(l *Load, p *Policy, by float64) {
			if l.GroupMembers > p.LargeMembers || l.GroupMembers*by <= p.LargeMembers {
				l.GroupMembers *= by
			}
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		l, p := anyLoad(t), anyPolicy(t)
		what := rapid.SampledFrom(slices.Sorted(maps.Keys(larger))).Draw(t, "what")
		before := must(t, l, p, Default())
		larger[what](&l, &p, rapid.Float64Range(1, 3).Draw(t, "by"))
		after := must(t, l, p, Default())
		for i, tier := range before.Tiers {
			if moreComets(before, after) && i > 0 {
				continue
			}
			if after.Tiers[i].Nodes < tier.Nodes {
				t.Fatalf("more %s: %s has %d nodes instead of %d", what, tier.Name, after.Tiers[i].Nodes, tier.Nodes)
			}
		}
	})
}

// moreComets: the one that is lost of them has fewer connections, and other tiers have less to do when these come back.
func moreComets(before, after *Result) bool {
	return after.Tier("comet").Nodes > before.Tier("comet").Nodes
}

func TestALargerLossTakesNoFewer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, p := anyLoad(t), anyPolicy(t)
		var before *Result
		for _, loss := range []Loss{LossNone, LossNode, LossZone} {
			p.Loss = loss
			r := must(t, l, p, Default())
			for i := range r.Tiers {
				if before != nil && moreComets(before, r) && i > 0 {
					continue
				}
				if before != nil && r.Tiers[i].Nodes < before.Tiers[i].Nodes {
					t.Fatalf("%s: %d nodes where a %s may be missing, %d where less may", r.Tiers[i].Name, r.Tiers[i].Nodes, loss, before.Tiers[i].Nodes)
				}
			}
			before = r
		}
	})
}

func TestWithoutGroupsTheirSizeDoesNotMatter(t *testing.T) {
	l := DefaultLoad()
	l.Connections, l.MessagesPerSecond, l.GroupShare = 1e6, 1e4, 0
	var nodes [][]Tier
	for _, l.GroupMembers = range []float64{2, 20, 200, 1e5} {
		nodes = append(nodes, must(t, l, DefaultPolicy(), Default()).Tiers)
	}
	for _, other := range nodes[1:] {
		if d := cmp.Diff(nodes[0], other, cmp.AllowUnexported(Need{})); d != "" {
			t.Error(d)
		}
	}
}

// Without a message there are connections all the same, and without both the fewest that a cluster can be.
func TestAnIdleClusterIsTheSmallest(t *testing.T) {
	l := DefaultLoad()
	l.Connections, l.MessagesPerSecond = 1, 0
	for loss, want := range map[Loss][]int{LossNone: {2, 2, 2, 3, 2, 3}, LossNode: {2, 2, 2, 3, 2, 3}, LossZone: {3, 3, 3, 3, 2, 3}} {
		p := DefaultPolicy()
		p.Loss = loss
		r := must(t, l, p, Default())
		for i, tier := range r.Tiers {
			if tier.Nodes != want[i] || tier.BoundBy != "minimum" {
				t.Errorf("loss of %s: %s has %d nodes for %s, want %d", loss, tier.Name, tier.Nodes, tier.BoundBy, want[i])
			}
		}
		if r.Partitions != 16 {
			t.Errorf("%d partitions", r.Partitions)
		}
	}
}

// The arithmetic by hand, of one tier, with round constants.
func TestTheArithmeticByHand(t *testing.T) {
	c := Default()
	values := map[string]float64{}
	for _, one := range c {
		values[one.Name] = 0
	}
	values["cassandra_cpu_us_per_message"], values["cassandra_overhead_bytes_per_message"] = 100, 100
	values["logic_cpu_us_per_message"] = 10
	c, err := c.With(values)
	if err != nil {
		t.Fatal(err)
	}
	l, p := DefaultLoad(), DefaultPolicy()
	l.Connections, l.MessagesPerSecond, l.PeakToMean, l.RetentionDays = 1000, 1e6, 2, 100
	p.Headroom = 0.5
	r := must(t, l, p, c)
	// 1 M/s × 100 µs × 3 copies are 300 cores, of which 8 of 16 may be used: 37.5 nodes left, so 38, which are two zones of three: 57.
	// The disk: 500,000/s × 86,400 × 100 days × 200 bytes × 3 = 2.592e15 bytes, 2 TiB on each: 1,179 nodes, 1,179 in whole zones.
	if got := r.Tier("cassandra"); got.Nodes != 1179 || got.BoundBy != "disk" {
		t.Errorf("%+v", got)
	}
	// 10 cores, 4 of 8 on each: 3 nodes left, of 6 in three zones (4 would be left of 6).
	if got := r.Tier("logic"); got.Nodes != 6 || got.Survivors != 4 || got.BoundBy != "cpu" {
		t.Errorf("%+v", got)
	}
	// One for each of 20 cores, four for each of 6 nodes: 24, so 32.
	if r.Partitions != 32 {
		t.Errorf("%d partitions", r.Partitions)
	}
	p.Shapes.Cassandra.DiskBytes = 1e15
	if got := must(t, l, p, c).Tier("cassandra"); got.Nodes != 57 || got.Survivors != 38 || got.BoundBy != "cpu" {
		t.Errorf("%+v", got)
	}
}

func TestEveryConstantCounts(t *testing.T) {
	l, p := DefaultLoad(), DefaultPolicy()
	l.Connections, l.MessagesPerSecond = 1e7, 1e5
	text := func(c Constants) string {
		data, err := json.Marshal(must(t, l, p, c).Tiers)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := text(Default())
	for _, one := range Default() {
		if one.Value <= 0 || one.Unit == "" || one.Basis == "" || one.What == "" || one.Command == "" {
			t.Errorf("%+v is not told in full", one)
		}
		c, err := Default().With(map[string]float64{one.Name: one.Value * 1.5})
		if err != nil {
			t.Fatal(err)
		}
		if text(c) == before {
			t.Errorf("%s changes nothing", one.Name)
		}
	}
}

func TestConstantsOfOnesOwn(t *testing.T) {
	var b bytes.Buffer
	if err := Default().Write(&b); err != nil {
		t.Fatal(err)
	}
	values, err := ReadValues(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range Default() {
		if values[one.Name] != one.Value {
			t.Errorf("%s is read as %v", one.Name, values[one.Name])
		}
	}
	for text, want := range map[string]string{
		"comet_cpu: 3":                           `"comet_cpu"`,
		"comet_cpu_us_per_message: -1":           "comet_cpu_us_per_message: must be",
		"comet_cpu_us_per_message: .nan":         "comet_cpu_us_per_message: must be",
		"comet_cpu_us_per_message: three":        "name: value",
		"- 3":                                    "name: value",
		"{\"logic_cpu_us_per_message\": 4}":      "",
		"":                                       "",
		"# nothing\nlogic_cpu_us_per_message: 0": "",
	} {
		values, err := ReadValues(strings.NewReader(text))
		if err == nil {
			_, err = Default().With(values)
		}
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{"x": "name=value", "x=y": "not a number", "x=1": ""} {
		_, _, err := ParseValue(text)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWhatCannotBeIsNamed(t *testing.T) {
	for want, spoil := range map[string]func(l *Load, p *Policy){
		"connections: must be 1 to":  func(l *Load, _ *Policy) { l.Connections = 0 },
		"messages_per_second":        func(l *Load, _ *Policy) { l.MessagesPerSecond = math.NaN() },
		"peak_to_mean":               func(l *Load, _ *Policy) { l.PeakToMean = 0.5 },
		"group_share":                func(l *Load, _ *Policy) { l.GroupShare = 1.1 },
		"group_members":              func(l *Load, _ *Policy) { l.GroupMembers = 1 },
		"online":                     func(l *Load, _ *Policy) { l.Online = -0.1 },
		"retention_days":             func(l *Load, _ *Policy) { l.RetentionDays = 0 },
		"headroom: must be 0 to 0.9": func(_ *Load, p *Policy) { p.Headroom = 1 },
		"three at least":             func(_ *Load, p *Policy) { p.Zones = 2 },
		"loss: want":                 func(_ *Load, p *Policy) { p.Loss = "all" },
		"replicas":                   func(_ *Load, p *Policy) { p.ReplicasOfLogs = 1 },
		"nats.disk_bytes":            func(_ *Load, p *Policy) { p.Shapes.NATS.DiskBytes = 0 },
		"comet: a node of":           func(_ *Load, p *Policy) { p.Shapes.Comet.MemoryBytes = 1 << 20 },
		"give it larger ones":        func(l *Load, p *Policy) { l.Connections, p.ConnectionsPerComet = 1e9, 1 },
	} {
		l, p := DefaultLoad(), DefaultPolicy()
		l.Connections, l.MessagesPerSecond = 1e6, 1e4
		spoil(&l, &p)
		if _, err := Compute(l, p, Default()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestNumbersAreReadable(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.30000000000000004: "0.3", 12.345: "12.3", 123.4: "123", 1234567: "1,234,567", -1500: "-1,500", 2e17: "2e+17"} {
		if got := number(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
	if got := fmt.Sprint(quantity(1536, "bytes"), " ", quantity(3*tib, "bytes"), " ", quantity(2, "1/s"), " ", quantity(2, "cores")); got != "1.5 KiB 3 TiB 2/s 2 cores" {
		t.Error(got)
	}
}
