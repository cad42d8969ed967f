package oracle

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = time.Second

// timed is group, with times: record n was written by n seconds, which took one, and is shown half a second later. The last write was
// never answered.
func timed() *Transcript {
	t := group()
	for i := range t.Writers {
		for k := range t.Writers[i].Sent {
			s := &t.Writers[i].Sent[k]
			if s.Outcome == Acked {
				s.Begun, s.Ended = time.Duration(s.Seq-1)*second, time.Duration(s.Seq)*second
			}
			if s.ClientID == "b2" {
				s.Begun = 7 * second
			}
		}
	}
	for i := range t.Devices {
		for k := range t.Devices[i].Shown {
			s := &t.Devices[i].Shown[k]
			s.At = time.Duration(s.Seq)*second + second/2
		}
	}
	return t
}

func read(user string, head uint64, asked, told float64) Read {
	return Read{By: user + ".0", User: user, Head: head, Asked: time.Duration(asked * float64(second)), Told: time.Duration(told * float64(second))}
}

func TestReadsThatOneOrderExplains(t *testing.T) {
	tr := timed()
	tr.Reads = []Read{
		read("", 1, 1.1, 1.2), read("", 2, 2, 2.3), read("", 3, 2.1, 2.2), // The third write is under way.
		read("bob", 5, 4.5, 5.1), read("alice", 4, 4.5, 5.1), // And the fifth: one saw it and the other did not.
		read("carol", 0, 0.2, 0.8), read("carol", 0, 1, 3.9), read("carol", 6, 6, 6.9), read("carol", 7, 7.1, 30), read("carol", 7, 20, 21), // carol sees no more.
		read("dave", 0, 1, 20), read("", 8, 9, 10), read("", 7, 7.2, 8.4),
	}
	if d, v := tr.Linearize(time.Minute); d != Linear {
		t.Errorf("%d, %v", d, v)
	}
}

// Each violation is planted alone.
func TestEachPlantedReadIsSeen(t *testing.T) {
	tests := []struct {
		name  string
		plant func(t *Transcript)
		says  string
	}{
		{"stale, from an owner past its lease", func(t *Transcript) { t.Reads = []Read{read("", 4, 5.2, 5.3)} }, "head 4 from 5.200 s"},
		{"goes backwards", func(t *Transcript) {
			t.Writers[0].Sent[1].Ended = 9 * second // Nobody was told of 5 before these two were.
			for i := range t.Devices {
				t.Devices[i].Shown = nil
			}
			for i := range t.Writers[1:] {
				t.Writers[i+1].Sent = slices.DeleteFunc(t.Writers[i+1].Sent, func(s Sent) bool { return s.Seq > 5 })
			}
			t.Reads = []Read{read("alice", 5, 6, 6.1), read("bob", 4, 6.2, 6.3)}
		}, ""},
		{"stale by what a device was shown only", func(t *Transcript) { t.Reads = []Read{read("bob", 7, 8.6, 8.7)} }, "head 7 from 8.600 s"},
		{"from before it was written", func(t *Transcript) { t.Reads = []Read{read("", 6, 3, 4)} }, ""},
		{"of what was never answered, before it was begun", func(t *Transcript) { t.Reads = []Read{read("", 8, 6, 6.5)} }, ""},
		{"of more than there is", func(t *Transcript) { t.Reads = []Read{read("", 9, 9, 9.5)} }, "head 9"},
		{"not there any more", func(t *Transcript) { t.Reads = []Read{read("alice", 0, 3, 4)} }, "head 0"},
		{"shown to who has left", func(t *Transcript) { t.Reads = []Read{read("carol", 8, 9, 9.5)} }, "carol.0's read of head 8"},
		{"withheld from who has joined", func(t *Transcript) { t.Reads = []Read{read("carol", 0, 4.2, 4.9)} }, "carol.0's read of head 0"},
		{"one seq is acknowledged twice", func(t *Transcript) {
			t.Writers[2].Sent = append(t.Writers[2].Sent, Sent{ClientID: "b9", Outcome: Acked, Seq: 5, Begun: 5 * second, Ended: 6 * second})
		}, "write of 5"},
		{"a later write comes before one that was over", func(t *Transcript) {
			w := t.Writers[2].Sent
			w[0].Begun, w[0].Ended = 5*second, 6*second // 3 is begun when 4 and 5 are over.
			for i := range t.Devices {
				t.Devices[i].Shown = nil
			}
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tr := timed()
			test.plant(tr)
			d, v := tr.Linearize(time.Minute)
			if d != NotLinear || v.Rule != RuleLinear || !strings.Contains(v.What, test.says) {
				t.Errorf("%d, %v", d, v)
			}
		})
	}
}

func TestASearchWithoutTimeIsNoSuccess(t *testing.T) {
	tr := &Transcript{Conversation: "d:alice:bob"}
	var w Writer
	for n := range uint64(30_000) {
		tr.History = append(tr.History, Entry{Shown: Shown{Seq: n + 1, ClientID: fmt.Sprint(n)}})
		w.Sent = append(w.Sent, Sent{ClientID: fmt.Sprint(n), Outcome: Acked, Seq: n + 1, Ended: time.Hour})
	}
	tr.Writers = []Writer{w}
	if d, v := tr.Linearize(time.Nanosecond); d != Undecided || v != nil {
		t.Errorf("%d, %v", d, v)
	}
}

// A conversation of a long run is searched in pieces, and none of it costs more than it must.
func TestALongConversationIsDecided(t *testing.T) {
	tr := &Transcript{Conversation: "d:alice:bob"}
	var w Writer
	for n := range uint64(50_000) {
		begun := time.Duration(n)*10*time.Millisecond + time.Duration(n/50)*100*time.Millisecond // A pause now and then.
		tr.History = append(tr.History, Entry{Shown: Shown{Seq: n + 1, ClientID: fmt.Sprint(n)}})
		s := Sent{ClientID: fmt.Sprint(n), Outcome: Acked, Seq: n + 1, Begun: begun, Ended: begun + 20*time.Millisecond}
		w.Sent = append(w.Sent, s)
		tr.Reads = append(tr.Reads, Read{Head: n, Asked: begun, Told: begun + 2*time.Millisecond})
	}
	tr.Writers = []Writer{w}
	if d, v := tr.Linearize(time.Minute); d != Linear {
		t.Errorf("%d, %v", d, v)
	}
	tr.Reads[40_000].Asked += 2 * time.Second
	tr.Reads[40_000].Told += 2 * time.Second
	if d, v := tr.Linearize(time.Minute); d != NotLinear {
		t.Errorf("%d, %v", d, v)
	}
}

// The search agrees with arithmetic: write n falls between what was over before it and what it must be over for.
func TestTheSearchAgreesWithArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := &Transcript{Conversation: "d:alice:bob"}
		moment := func(name string) time.Duration { return time.Duration(rapid.IntRange(1, 24).Draw(t, name)) }
		n := rapid.IntRange(1, 8).Draw(t, "records")
		// The earliest and latest that each write can be, from what is known of it and of those who read.
		earliest, latest := make([]time.Duration, n+2), make([]time.Duration, n+2)
		latest[n+1] = math.MaxInt64 // One that never was.
		var w Writer
		for i := 1; i <= n; i++ {
			s := Sent{ClientID: fmt.Sprint(i), Outcome: Acked, Seq: uint64(i), Begun: moment("begun"), Ended: moment("ended")}
			s.Begun, s.Ended = min(s.Begun, s.Ended), max(s.Begun, s.Ended)
			earliest[i], latest[i] = s.Begun, s.Ended
			switch rapid.IntRange(0, 5).Draw(t, "outcome") {
			case 0: // Unanswered.
				s.Outcome, latest[i] = Unknown, math.MaxInt64
				w.Sent = append(w.Sent, s)
			case 1: // Nobody told of it.
				earliest[i], latest[i] = math.MinInt64, math.MaxInt64
			default:
				w.Sent = append(w.Sent, s)
			}
			tr.History = append(tr.History, Entry{Shown: Shown{Seq: uint64(i), ClientID: s.ClientID}})
		}
		tr.Writers = []Writer{w}
		for range rapid.IntRange(0, 12).Draw(t, "reads") {
			r := Read{Head: uint64(rapid.IntRange(0, n).Draw(t, "head")), Asked: moment("asked"), Told: moment("told")}
			r.Asked, r.Told = min(r.Asked, r.Told), max(r.Asked, r.Told)
			tr.Reads = append(tr.Reads, r)
			latest[r.Head] = min(latest[r.Head], r.Told)
			earliest[r.Head+1] = max(earliest[r.Head+1], r.Asked)
		}
		want, sofar := Linear, time.Duration(math.MinInt64)
		for i := 1; i <= n; i++ {
			if sofar = max(sofar, earliest[i]); sofar > latest[i] {
				want = NotLinear
			}
		}
		for _, atOnce := range []int{1, 3, 100} {
			if got, v := tr.linearize(time.Minute, atOnce); got != want {
				t.Fatalf("%d at once: %d, want %d: %v", atOnce, got, want, v)
			}
		}
	})
}
