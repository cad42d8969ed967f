package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/protocol"
)

func TestADeviceKnowsWhenItWasConnected(t *testing.T) {
	var s session
	at := func(n int) time.Duration { return time.Duration(n) * time.Second }
	s.state(client.State{}, at(1))
	s.state(client.State{Connected: true}, at(2))
	s.state(client.State{Connected: true, Recovered: true}, at(5))
	s.state(client.State{}, at(6))
	s.disconnected(at(7)) // Its program ended too.
	s.state(client.State{Connected: true}, at(8))
	want := session{connected: true, since: at(8), recovered: at(3), sessions: []oracle.Span{{From: at(2), To: at(6)}, {From: at(8), To: oracle.Open}}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("%+v, want %+v", s, want)
	}
}

func TestPresenceThatStaysUntrueIsTold(t *testing.T) {
	g, err := openGate(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	f := newFleet(5, small, auth.NewKey(), g, g)
	for _, d := range f.devices {
		d.slow = false
	}
	w := newWatch(f, nil)
	user, sec := view{"a", f.users[0]}, time.Second
	w.see(user, 1*sec, 0, true, 1, 1)
	w.see(user, 2*sec, 0, true, 0, 1)
	w.see(view{"b", f.users[0]}, 2*sec, 0, true, 1, 1) // Another node sees it right.
	w.see(user, 15*sec, 0, true, 0, 1)
	w.see(user, 16*sec, 15500*time.Millisecond, true, 0, 2) // The devices have changed.
	w.see(user, 29*sec, 15500*time.Millisecond, true, 0, 2)
	w.see(user, 30*sec, 15500*time.Millisecond, false, 0, 2) // Nobody knows.
	w.see(user, 45*sec, 15500*time.Millisecond, true, 0, 2)
	if len(w.untrue) > 0 || w.longest != 15*sec {
		t.Fatalf("%v, %v", w.untrue, w.longest)
	}
	for at := 46 * sec; at < 50*sec; at += sec {
		w.see(user, at, 15500*time.Millisecond, true, 0, 2)
	}
	if len(w.untrue) != 1 || !strings.Contains(w.untrue[0], user.user+" has 2 devices connected, a says 0, for 16.0 s at 46.0 s") {
		t.Errorf("%v", w.untrue)
	}
	f.devices[0].slow = true
	if w := newWatch(f, nil); slices.Contains(w.users, f.devices[0].user) || len(w.users) != len(f.users)-1 {
		t.Error("a slow device's word was taken")
	}
}

func TestWhatAnAuditSaysIsRead(t *testing.T) {
	const partitions = 4
	home := protocol.Partition(protocol.DefaultApp, "g:1", partitions)
	lines := []string{
		`{"record":{"partition":1,"block":7,"app":"main","conversation":"g:1","seq":3,"sender":"alice","device":"phone","client_id":"a3"}}`,
		`{"record":{"partition":1,"block":7,"app":"other","conversation":"g:1","seq":9,"sender":"eve","client_id":"e"}}`,
		`{"violation":{"kind":"seq","detail":"seq 3 follows seq 1"}}`,
		fmt.Sprintf(`{"partition":{"partition":%d,"first":5}}`, home),
		`{"report":{"violations":1,"partitions":4}}`,
	}
	a, err := readAudit(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil || a.count != 1 || len(a.violations) != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	want := &oracle.Log{Records: []oracle.Logged{{Seq: 3, ClientID: "a3", Sender: "alice"}}}
	if got := a.of("g:1"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "no JSON", lines[0]} {
		if _, err := readAudit(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken for an audit", bad)
		}
	}
	// The exit code that says violations is no failure to audit; others are.
	if _, err := runAudit(t.Context(), "/bin/false"); err == nil || !strings.Contains(err.Error(), "without a report") {
		t.Errorf("%v", err)
	}
	if _, err := runAudit(t.Context(), "/bin/no-such-program"); err == nil {
		t.Error("a program that is not there has audited")
	}
}

func TestViolationsAreCountedByOracle(t *testing.T) {
	got := caughtBy([]string{"lost in g:1: a", "hidden in g:1: b", "lost in g:2: c", "audit, killed: d", "undecided: e"})
	if got != "audit 1, hidden 1, lost 2, undecided 1" {
		t.Error(got)
	}
	failed := []string{"nemesis: it could not", "unfinished: the run", "undecided: no order"}
	if proves(failed) || proves(nil) || !proves(append(failed, "audit, as it is: a")) {
		t.Error("a run that failed proves nothing, and a broken promise does")
	}
}
