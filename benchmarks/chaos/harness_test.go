package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	logicapi "github.com/halley-im/halley/logic/api"
	"github.com/halley-im/halley/pkg/auth"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// echo answers each line with its name.
func echo(t *testing.T, name string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, name)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func ask(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, "who"); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func TestAGatePassesDeadNodesByAndCutsAll(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	g, err := openGate([]string{dead.Addr().String(), echo(t, "alive")})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	var conns []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", g.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if who, err := ask(c); who != "alive\n" {
			t.Fatalf("%q, %v", who, err)
		}
		conns = append(conns, c)
	}
	g.cut()
	for _, c := range conns {
		if _, err := ask(c); err == nil {
			t.Error("a connection was not cut")
		}
	}
	again, err := net.Dial("tcp", g.address())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if who, err := ask(again); who != "alive\n" {
		t.Errorf("after the cut: %q, %v", who, err)
	}
}

// A record must have the same fingerprint whichever way it came, and another if anything in it changes.
func TestPrintsOfOneRecordAgree(t *testing.T) {
	pushed := &recordv1.Record{
		Seq: 7, Count: 5, Id: 1 << 60, Sender: "alice", ClientId: "c", TimeUs: 99, Target: 3, Joined: []string{"bob", "eve"}, Left: []string{"dave"},
		Body: &recordv1.Record_Message{Message: &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: "hello"}}}},
	}
	data, err := json.Marshal(logicapi.Record{
		Seq: 7, Count: 5, ID: fmt.Sprint(uint64(1 << 60)), Sender: "alice", ClientID: "c", TimeUs: 99, Target: 3, Joined: pushed.Joined, Left: pushed.Left,
		Type: "message", Body: json.RawMessage(`{"text":{"text":"hello"}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	var read record
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	e, err := read.entry()
	if err != nil || e.Shown != shownOf(pushed) || !e.Message {
		t.Fatalf("%+v, %v; pushed %+v", e, err, shownOf(pushed))
	}
	whole := said{seq: 7, count: 5, id: 1, target: 3, timeUs: 99, sender: "alice", clientID: "c", joined: []string{"b"}, left: []string{"d"}, text: "x"}
	for i, n := 0, reflect.TypeFor[said]().NumField(); i < n; i++ {
		changed := []said{whole, whole, whole, whole, whole, whole, whole, whole, whole, whole}[i]
		[]func(){
			func() { changed.seq++ }, func() { changed.count++ }, func() { changed.id++ }, func() { changed.target++ }, func() { changed.timeUs++ },
			func() { changed.sender = "eve" }, func() { changed.clientID = "z" }, func() { changed.joined = nil }, func() { changed.left = nil },
			func() { changed.text = "y" },
		}[i]()
		if changed.print() == whole.print() {
			t.Errorf("%s is not in the fingerprint", reflect.TypeFor[said]().Field(i).Name)
		}
	}
}

func TestTakeoversAreCountedOverRestarts(t *testing.T) {
	values := []int{2, 5, 5, 1, 4} // It was killed after the third.
	i := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE %s counter\n%s_not 7\n%s %d\n", takeoversMetric, takeoversMetric, takeoversMetric, values[i])
	}))
	defer s.Close()
	count := &takeovers{admins: []string{strings.TrimPrefix(s.URL, "http://")}, last: map[string]float64{}}
	for i = range values {
		count.ask(t.Context())
	}
	if count.sum != 9 {
		t.Errorf("%v, want 9", count.sum)
	}
}

func TestWhatAColdStartChangesIsSeen(t *testing.T) {
	history := func(prints ...uint64) *evidence {
		var h []oracle.Entry
		for i, p := range prints {
			h = append(h, oracle.Entry{Shown: oracle.Shown{Seq: uint64(i + 1), Print: p}})
		}
		return &evidence{transcripts: []oracle.Transcript{{Conversation: "u:alice", History: h}}}
	}
	before := history(1, 2, 3)
	for _, test := range []struct {
		after *evidence
		want  string
	}{{history(1, 2, 3), ""}, {history(1, 2, 3, 4), ""}, {history(1, 2), "lost 1"}, {history(1, 9, 3), "conflict 1"}, {history(), "lost 1"}} {
		if got := oracle.Count(before.differs(test.after)); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// What may yet arrive is waited for; what cannot be undone is not.
func TestOnlyWhatIsMissingIsWaitedFor(t *testing.T) {
	lost := []oracle.Violation{{Rule: oracle.RuleLost}}
	if late(nil) || late(lost) || !late(append(lost, oracle.Violation{Rule: oracle.RuleHidden})) || !late([]oracle.Violation{{Rule: oracle.RuleHead}}) {
		t.Error("hidden and head may be late, and nothing else")
	}
}

func TestAFleetFollowsFromItsSeed(t *testing.T) {
	g, err := openGate(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	one, same := newFleet(5, small, auth.NewKey(), g, g), newFleet(5, small, auth.NewKey(), g, g)
	if !reflect.DeepEqual(one.of, same.of) || len(one.devices) != len(same.devices) {
		t.Error("one seed, two fleets")
	}
	if other := newFleet(6, small, auth.NewKey(), g, g); reflect.DeepEqual(one.of, other.of) {
		t.Error("two seeds, one fleet")
	}
	for seed := range uint64(300) {
		f := newFleet(seed, small, auth.NewKey(), g, g)
		for _, user := range f.users {
			if len(f.of[user]) == 0 {
				t.Errorf("seed %d: %s has nobody to write to", seed, user)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	now := time.Date(2026, 3, 9, 23, 0, 0, 0, time.UTC)
	o, err := parse([]string{"-short", "-topology", "serve", "-faults", "kill-*"}, now, io.Discard)
	if err != nil || o.seed != 20260309 || o.repeat() != "make chaos-short SEED=20260309 TOPOLOGY=serve FAULTS='kill-*'" {
		t.Errorf("%+v, %v, %q", o, err, o.repeat())
	}
	o, err = parse([]string{"-seed", "3", "-minutes", "0.5"}, now, io.Discard)
	if err != nil || o.repeat() != "make chaos SEED=3 MINUTES=0.5 TOPOLOGY=tiers" {
		t.Errorf("%+v, %v, %q", o, err, o.repeat())
	}
	for _, bad := range [][]string{{"-minutes", "0"}, {"more"}, {"-nope"}} {
		if _, err := parse(bad, now, io.Discard); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
