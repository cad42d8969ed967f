package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// noted is a process that writes down what is done to it.
type noted struct {
	name string
	to   *notes
}

type notes struct {
	mu    sync.Mutex
	lines []string // guarded by mu
	fail  int      // guarded by mu: so many starts fail
}

func (p noted) do(_ context.Context, v verb) error {
	p.to.mu.Lock()
	defer p.to.mu.Unlock()
	p.to.lines = append(p.to.lines, string(v)+" "+p.name)
	if v == verbStart && p.to.fail > 0 {
		p.to.fail--
		return errors.New("not today")
	}
	return nil
}

func twoNodes(to *notes) []Kind {
	a, b := noted{"a", to}, noted{"b", to}
	return []Kind{
		killed("a", a), paused("a", a), killed("b", b), paused("b", b), restarted("b", b),
		{Name: "kill-all", Targets: []string{"a", "b"}, Most: 3 * time.Second, Fault: change{verbKill, verbStart, []process{a, b}}},
		{Name: "storm", Targets: []string{"gates"}, Fault: blow(func(context.Context) error { return nil })},
	}
}

func told(plan []Step) (lines []string) {
	for _, s := range plan {
		lines = append(lines, s.String())
	}
	return lines
}

func TestAPlanFollowsFromItsSeed(t *testing.T) {
	const length = 5 * time.Minute
	one, same := makePlan(1, length, twoNodes(&notes{})), makePlan(1, length, twoNodes(&notes{}))
	if !slices.Equal(told(one), told(same)) {
		t.Error("one seed, two plans")
	}
	if slices.Equal(told(one), told(makePlan(2, length, twoNodes(&notes{})))) {
		t.Error("two seeds, one plan")
	}
	if longer := makePlan(1, 2*length, twoNodes(&notes{})); !slices.Equal(told(longer)[:len(one)/2], told(one)[:len(one)/2]) {
		t.Error("a longer run begins otherwise")
	}
}

func TestPlansKeepTheirRules(t *testing.T) {
	kinds := twoNodes(&notes{})
	for seed := range uint64(300) {
		const length = 3 * time.Minute
		plan := makePlan(seed, length, kinds)
		seen := map[string]bool{}
		for i, s := range plan {
			seen[s.Kind.Name] = true
			if s.At < calm || s.At+s.Hold > length || s.Hold < s.Kind.Least || s.Hold > s.Kind.Most {
				t.Fatalf("seed %d: %v", seed, s)
			}
			for _, other := range plan[:i] {
				shared := slices.ContainsFunc(s.Kind.Targets, func(x string) bool { return slices.Contains(other.Kind.Targets, x) })
				if shared && other.At+other.Hold >= s.At && s.At+s.Hold >= other.At {
					t.Fatalf("seed %d: %v overlaps %v", seed, s, other)
				}
			}
		}
		if len(seen) != len(kinds) {
			t.Errorf("seed %d: three minutes saw %d of %d kinds", seed, len(seen), len(kinds))
		}
	}
}

func TestKindsAreChosenByPattern(t *testing.T) {
	kinds := twoNodes(&notes{})
	chosen, err := choose(kinds, "kill-*, storm")
	if err != nil || !slices.Equal(names(chosen), []string{"kill-a", "kill-b", "kill-all", "storm"}) {
		t.Errorf("%v, %v", names(chosen), err)
	}
	if all, err := choose(kinds, ""); err != nil || len(all) != len(kinds) {
		t.Errorf("%v, %v", names(all), err)
	}
	if _, err := choose(kinds, "flood"); err == nil || !strings.Contains(err.Error(), "pause-a") {
		t.Errorf("an unknown kind: %v", err)
	}
}

// Whatever began is ended, even when the plan is cut short, and an end that fails is tried again.
func TestTheNemesisEndsWhatItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &notes{fail: 3}
		p := noted{"a", to}
		k := killed("a", p)
		later := Step{At: time.Hour, Kind: k}
		n := newNemesis([]Step{{At: time.Second, Hold: time.Minute, Kind: k}, later}, t.Logf)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n.run(ctx)
		want := []string{"kill a", "start a", "start a", "start a", "start a"}
		if !slices.Equal(to.lines, want) || n.counts["kill-a"] != 1 || len(n.errs) != 0 {
			t.Errorf("%v, %v, %v", to.lines, n.counts, n.errs)
		}
	})
}

func TestAFaultWhoseEndTakesLongDelaysTheNextOnItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &notes{fail: 40}
		a := noted{"a", to}
		n := newNemesis([]Step{
			{At: time.Second, Hold: time.Second, Kind: killed("a", a)},
			{At: 4 * time.Second, Hold: 5 * time.Second, Kind: paused("a", a)},
		}, t.Logf)
		n.run(t.Context())
		pause, started := slices.Index(to.lines, "pause a"), 0
		for i, line := range to.lines {
			if line == "start a" {
				started = i
			}
		}
		if pause < started || len(n.errs) != 0 {
			t.Errorf("paused before it was started: %v, %v", to.lines, n.errs)
		}
	})
}

func TestAFaultThatDoesNotEndFailsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &notes{fail: 1 << 20}
		n := newNemesis([]Step{{At: time.Second, Kind: killed("a", noted{"a", to})}}, t.Logf)
		n.run(t.Context())
		if len(n.errs) != 1 {
			t.Errorf("%v", n.errs)
		}
	})
}
