package oracle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// group is a transcript in which nothing is wrong: alice founds a group with bob, carol joins with 4 and leaves with 7, dave
// never was in it. alice has two devices.
//
//	1 created   2 a1   3 b1   4 +carol   5 a2   6 c1   7 −carol   8 b2
func group() *Transcript {
	t := &Transcript{Conversation: "g:1"}
	add := func(sender, clientID string, change func(*Entry)) {
		seq := uint64(len(t.History) + 1)
		e := Entry{Shown: Shown{Seq: seq, ClientID: clientID, Print: 100 + seq}, Sender: sender, Message: change == nil}
		if change != nil {
			change(&e)
		}
		t.History = append(t.History, e)
	}
	add("alice", "x1", func(e *Entry) { e.Joined = []string{"alice", "bob"} })
	add("alice", "a1", nil)
	add("bob", "b1", nil)
	add("alice", "x2", func(e *Entry) { e.Joined = []string{"carol"} })
	add("alice", "a2", nil)
	add("carol", "c1", nil)
	add("alice", "x3", func(e *Entry) { e.Left = []string{"carol"} })
	add("bob", "b2", nil)
	t.Writers = []Writer{
		{Name: "alice.0", User: "alice", Sent: []Sent{{ClientID: "a1", Outcome: Acked, Seq: 2}, {ClientID: "a2", Outcome: Acked, Seq: 5}}},
		{Name: "alice's changes", User: "alice", Sent: []Sent{{Outcome: Acked, Seq: 1}, {Outcome: Acked, Seq: 4}, {Outcome: Acked, Seq: 7}}},
		{Name: "bob.0", User: "bob", Sent: []Sent{{ClientID: "b1", Outcome: Acked, Seq: 3}, {ClientID: "b2", Outcome: Unknown, Seq: 0}}},
		{Name: "carol.0", User: "carol", Sent: []Sent{{ClientID: "c1", Outcome: Acked, Seq: 6}, {ClientID: "c2", Outcome: Refused, Seq: 0}}},
	}
	view := func(name, user string, from, to uint64) Device {
		d := Device{Name: name, User: user, Head: to, HeadKnown: true}
		for _, e := range t.History[from-1 : to] {
			d.Shown = append(d.Shown, e.Shown)
		}
		return d
	}
	t.Devices = []Device{
		view("alice.0", "alice", 1, 8), view("alice.1", "alice", 1, 8), view("bob.0", "bob", 1, 8), view("carol.0", "carol", 4, 7),
		{Name: "dave.0", User: "dave"},
	}
	return t
}

// The devices of group.
const (
	alice0 = iota
	alice1
	bob0
	carol0
	dave0
)

func TestNothingIsWrongWithAGoodTranscript(t *testing.T) {
	if found := group().Judge(); len(found) > 0 {
		t.Errorf("%v", found)
	}
}

// Each violation is planted alone, and the rules named are all that may see it.
func TestEachPlantedViolationIsSeen(t *testing.T) {
	cut := func(d *Device, seq uint64) {
		d.Shown = slices.DeleteFunc(d.Shown, func(s Shown) bool { return s.Seq == seq })
	}
	tests := []struct {
		name  string
		plant func(t *Transcript)
		want  []Rule
	}{
		{"acknowledged, and replaced in history", func(t *Transcript) {
			t.History[4].ClientID = "b3"
			t.Writers[2].Sent = append(t.Writers[2].Sent, Sent{ClientID: "b3"})
			t.History[4].Sender = "bob"
			for i := range t.Devices {
				for k := range t.Devices[i].Shown {
					if t.Devices[i].Shown[k].Seq == 5 {
						t.Devices[i].Shown[k].ClientID = "b3"
					}
				}
			}
			t.Writers[2].Sent = []Sent{{ClientID: "b1", Outcome: Acked, Seq: 3}, {ClientID: "b3", Outcome: Unknown, Seq: 0}, {ClientID: "b2", Outcome: Unknown, Seq: 0}}
		}, []Rule{RuleLost}},
		{"acknowledged at the end, and gone", func(t *Transcript) {
			t.Writers[0].Sent = append(t.Writers[0].Sent, Sent{ClientID: "a3", Outcome: Acked, Seq: 9})
		}, []Rule{RuleLost}},
		{"a change acknowledged, and gone", func(t *Transcript) {
			t.Writers[1].Sent = append(t.Writers[1].Sent, Sent{Outcome: Acked, Seq: 9})
		}, []Rule{RuleLost}},
		{"acknowledged under another seq than history's", func(t *Transcript) { t.Writers[0].Sent[1].Seq = 6 }, []Rule{RuleTwice}},
		{"one write under two seqs", func(t *Transcript) {
			t.History[7].ClientID = "b1"
			for _, i := range []int{alice0, alice1, bob0} {
				t.Devices[i].Shown[7].ClientID = "b1"
			}
			t.Writers[2].Sent = []Sent{{ClientID: "b1", Outcome: Unknown, Seq: 0}}
		}, []Rule{RuleTwice}},
		{"a device was shown another record under a seq", func(t *Transcript) { t.Devices[alice1].Shown[4].ClientID = "z" }, []Rule{RuleConflict}},
		{"a record says something else on one device", func(t *Transcript) { t.Devices[bob0].Shown[4].Print++ }, []Rule{RuleConflict}},
		{"a hole in history", func(t *Transcript) {
			t.History = slices.Delete(t.History, 2, 3)
			t.Writers[2].Sent = t.Writers[2].Sent[1:]
			for i := range t.Devices {
				cut(&t.Devices[i], 3)
			}
		}, []Rule{RuleHole}},
		{"history begins at 2", func(t *Transcript) {
			t.History[1].Joined = t.History[0].Joined
			t.History = t.History[1:]
			t.Writers[1].Sent = t.Writers[1].Sent[1:]
			for i := range t.Devices {
				cut(&t.Devices[i], 1)
			}
		}, []Rule{RuleHole}},
		{"a device's writes turned round", func(t *Transcript) {
			t.Writers[0].Sent = []Sent{{ClientID: "a2", Outcome: Acked, Seq: 5}, {ClientID: "a1", Outcome: Acked, Seq: 2}}
		}, []Rule{RuleReordered}},
		{"the same with an answer that was never heard", func(t *Transcript) {
			t.Writers[2].Sent = []Sent{{ClientID: "b2", Outcome: Unknown, Seq: 0}, {ClientID: "b1", Outcome: Acked, Seq: 3}}
		}, []Rule{RuleReordered}},
		{"shown out of order", func(t *Transcript) {
			s := t.Devices[bob0].Shown
			s[3], s[4] = s[4], s[3]
		}, []Rule{RuleReordered}},
		{"shown twice", func(t *Transcript) {
			d := &t.Devices[bob0]
			d.Shown = append(d.Shown, d.Shown[7])
		}, []Rule{RuleReordered}},
		{"a message that nobody wrote", func(t *Transcript) { t.Writers[2].Sent = t.Writers[2].Sent[:1] }, []Rule{RuleInvented}},
		{"a message in another's name", func(t *Transcript) { t.History[7].Sender = "alice" }, []Rule{RuleInvented}},
		{"refused, and in history", func(t *Transcript) { t.Writers[2].Sent[1] = Sent{ClientID: "b2", Outcome: Refused, Seq: 0} }, []Rule{RuleInvented}},
		{"one device lacks a record in the middle", func(t *Transcript) { cut(&t.Devices[alice1], 5) }, []Rule{RuleHidden}},
		{"one device lacks the last", func(t *Transcript) { cut(&t.Devices[alice1], 8) }, []Rule{RuleHidden}},
		{"one device lacks all", func(t *Transcript) { t.Devices[bob0].Shown = nil }, []Rule{RuleHidden}},
		{"one who left lacks the record of leaving", func(t *Transcript) { cut(&t.Devices[carol0], 7) }, []Rule{RuleHidden}},
		{"one who joined lacks the record of joining", func(t *Transcript) { cut(&t.Devices[carol0], 4) }, []Rule{RuleHidden}},
		{"shown from before joining", func(t *Transcript) {
			d := &t.Devices[carol0]
			d.Shown = slices.Insert(d.Shown, 0, t.History[2].Shown)
		}, []Rule{RuleForeign}},
		{"shown from after leaving", func(t *Transcript) {
			d := &t.Devices[carol0]
			d.Shown = append(d.Shown, t.History[7].Shown)
		}, []Rule{RuleForeign}},
		{"shown to a stranger", func(t *Transcript) { t.Devices[dave0].Shown = []Shown{t.History[1].Shown} }, []Rule{RuleForeign}},
		{"shown what history lacks", func(t *Transcript) {
			d := &t.Devices[bob0]
			d.Shown = append(d.Shown, Shown{Seq: 9, ClientID: "a3"})
		}, []Rule{RuleLost}},
		{"written by one who had left", func(t *Transcript) {
			t.History[7].Sender, t.Writers[3].Sent = "carol", []Sent{{ClientID: "c1", Outcome: Acked, Seq: 6}, {ClientID: "b2", Outcome: Acked, Seq: 8}}
			t.Writers[2].Sent = t.Writers[2].Sent[:1]
		}, []Rule{RuleForeign}},
		{"a head too low", func(t *Transcript) { t.Devices[alice1].Head = 7 }, []Rule{RuleHead}},
		{"a head beyond the leave", func(t *Transcript) { t.Devices[carol0].Head = 8 }, []Rule{RuleHead}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := group()
			test.plant(g)
			found := g.Judge()
			var rules []Rule
			for _, v := range found {
				if !slices.Contains(rules, v.Rule) {
					rules = append(rules, v.Rule)
				}
			}
			if !slices.Equal(rules, test.want) {
				t.Errorf("found %v, want %v only", found, test.want)
			}
		})
	}
}

// Who comes again after a leave has both times, and nothing from between. A device that learned of the conversation only the
// second time begins there.
func TestAMemberWhoComesAgain(t *testing.T) {
	again := func(shown ...uint64) []Violation {
		g := group()
		e := Entry{Shown: Shown{Seq: 9, ClientID: "x4", Print: 109}, Sender: "alice", Joined: []string{"carol"}}
		g.History = append(g.History, e)
		for _, i := range []int{alice0, alice1, bob0} {
			d := &g.Devices[i]
			d.Shown, d.Head = append(d.Shown, e.Shown), 9
		}
		d := &g.Devices[carol0]
		d.Shown, d.Head = nil, 9
		for _, seq := range shown {
			d.Shown = append(d.Shown, g.History[seq-1].Shown)
		}
		return g.Judge()
	}
	for _, good := range [][]uint64{{4, 5, 6, 7, 9}, {9}} {
		if found := again(good...); len(found) > 0 {
			t.Errorf("shown %v: %v", good, found)
		}
	}
	for _, bad := range []struct {
		shown []uint64
		want  Rule
	}{{nil, RuleHidden}, {[]uint64{4, 5, 6, 7}, RuleHidden}, {[]uint64{6, 7, 9}, RuleHidden}, {[]uint64{4, 5, 6, 7, 8, 9}, RuleForeign}} {
		if found := again(bad.shown...); len(found) != 1 || found[0].Rule != bad.want {
			t.Errorf("shown %v: %v, want %s", bad.shown, found, bad.want)
		}
	}
}

func TestViolationsAreTold(t *testing.T) {
	if got := ranges([]uint64{1, 2, 3, 7, 9, 10}); got != "1–3, 7, 9–10" {
		t.Errorf("%q", got)
	}
	var many []uint64
	for i := range uint64(20) {
		many = append(many, 2*i)
	}
	if got := ranges(many); !strings.HasSuffix(got, "14 …") {
		t.Errorf("%q", got)
	}
	if got := Count([]Violation{{Rule: RuleLost}, {Rule: RuleHole}, {Rule: RuleLost}}); got != "hole 1, lost 2" {
		t.Errorf("%q", got)
	}
	if got := fmt.Sprint(Violation{RuleHole, "g:1", "3 follows 1 in history"}); got != "hole in g:1: 3 follows 1 in history" {
		t.Errorf("%q", got)
	}
}
