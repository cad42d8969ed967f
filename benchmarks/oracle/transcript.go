package oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Ledger counts what went wrong among millions of messages; a Transcript keeps every record that anybody was shown and says what
// went wrong, and where. It knows members who join and leave, several devices of a user, and records that are no messages.

// Rule is a promise that a Transcript can see broken.
type Rule string

// The rules.
const (
	RuleLost      Rule = "lost"      // Acknowledged, and not in history under its seq.
	RuleTwice     Rule = "twice"     // One write under two seqs.
	RuleConflict  Rule = "conflict"  // One seq, two records.
	RuleHole      Rule = "hole"      // History is not 1, 2, 3 … up to the head.
	RuleReordered Rule = "reordered" // A device's writes, or what it was shown, out of order.
	RuleInvented  Rule = "invented"  // A message in history that nobody wrote, or that was refused.
	RuleHidden    Rule = "hidden"    // A device lacks a record of its user's time as a member.
	RuleForeign   Rule = "foreign"   // A record shown to, or written by, one who was no member.
	RuleHead      Rule = "head"      // A device is told of another head than history's.
	RuleLinear    Rule = "linear"    // No order of writes and reads explains what everybody was told, and when.
)

// Violation is one broken promise.
type Violation struct {
	Rule         Rule
	Conversation string
	What         string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s in %s: %s", v.Rule, v.Conversation, v.What)
}

// Shown is a record as somebody was shown it.
type Shown struct {
	Seq      uint64
	ClientID string
	// Print is a fingerprint of all that the record says.
	Print uint64
	// At is when, since the run began, where it was pushed to a device.
	At time.Duration
}

// Entry is a record of history.
type Entry struct {
	Shown
	Sender string
	// Message says that somebody wrote it as one: it must be among what was sent.
	Message      bool
	Joined, Left []string
}

// Outcome is what became of a write, as far as its device knows.
type Outcome int

// The outcomes.
const (
	Unknown Outcome = iota // The device ended before the answer came.
	Acked
	Refused
)

// Sent is a write. Client ids of writes that are no messages are not known to whoever made them: they are empty.
type Sent struct {
	ClientID string
	Outcome  Outcome
	Seq      uint64 // Where acknowledged.
	// Since the run began; Ended where acknowledged.
	Begun, Ended time.Duration
}

// Writer is one line of writes, each begun after those before it: a device's messages, or somebody's changes of a group.
type Writer struct {
	Name, User string
	Sent       []Sent
}

// Device is one device's view of a conversation.
type Device struct {
	Name, User string
	Shown      []Shown // In the order in which it was shown them.
	// Head is what it was told last, if HeadKnown.
	Head      uint64
	HeadKnown bool
	// Paged are records of pages of history that it asked for, in any order.
	Paged []Shown
	// Sessions are when it was connected, in order.
	Sessions []Span
}

// Transcript is all that is known of one conversation. History must have been read after the devices' views were taken.
type Transcript struct {
	Conversation string
	History      []Entry
	Writers      []Writer
	Devices      []Device
	Reads        []Read
}

// Judge names every broken promise.
func (t *Transcript) Judge() []Violation {
	j := &judge{Transcript: t, at: map[string]uint64{}, members: map[string][]interval{}}
	j.readHistory()
	for i := range t.Writers {
		j.sent(&t.Writers[i])
	}
	for i := range t.Devices {
		d := &t.Devices[i]
		j.shown(d)
		j.complete(d)
	}
	j.invented()
	return j.found
}

// interval is a membership, from the record of the join to that of the leave; a zero To is one that goes on.
type interval struct{ From, To uint64 }

func (i interval) covers(seq uint64) bool { return seq >= i.From && (i.To == 0 || seq <= i.To) }

type judge struct {
	*Transcript
	at      map[string]uint64 // By client id, the seq that history has for it.
	members map[string][]interval
	found   []Violation
}

func (j *judge) broken(rule Rule, format string, args ...any) {
	j.found = append(j.found, Violation{rule, j.Conversation, fmt.Sprintf(format, args...)})
}

func (j *judge) head() uint64 {
	if len(j.History) == 0 {
		return 0
	}
	return j.History[len(j.History)-1].Seq
}

// entry is history's record with the seq, or nil.
func (j *judge) entry(seq uint64) *Entry {
	i, found := slices.BinarySearchFunc(j.History, seq, func(e Entry, seq uint64) int { return compare(e.Seq, seq) })
	if !found {
		return nil
	}
	return &j.History[i]
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// readHistory checks the numbering and derives who was a member when.
func (j *judge) readHistory() {
	last := uint64(0)
	for i := range j.History {
		e := &j.History[i]
		if e.Seq != last+1 {
			j.broken(RuleHole, "%d follows %d in history", e.Seq, last)
		}
		last = e.Seq
		if e.ClientID != "" {
			if first, twice := j.at[e.ClientID]; twice {
				j.broken(RuleTwice, "%s is both %d and %d", e.ClientID, first, e.Seq)
			}
			j.at[e.ClientID] = e.Seq
		}
		for _, user := range e.Joined {
			if its := j.members[user]; len(its) == 0 || its[len(its)-1].To != 0 {
				j.members[user] = append(its, interval{From: e.Seq})
			}
		}
		if e.Message && !j.member(e.Sender, e.Seq) {
			j.broken(RuleForeign, "%s, who was no member, wrote %d", e.Sender, e.Seq)
		}
		for _, user := range e.Left {
			if its := j.members[user]; len(its) > 0 && its[len(its)-1].To == 0 {
				its[len(its)-1].To = e.Seq
			}
		}
	}
	slices.SortStableFunc(j.History, func(a, b Entry) int { return compare(a.Seq, b.Seq) })
}

func (j *judge) member(user string, seq uint64) bool {
	return slices.ContainsFunc(j.members[user], func(i interval) bool { return i.covers(seq) })
}

// sent checks what became of one line of writes.
func (j *judge) sent(w *Writer) {
	last := uint64(0)
	for _, s := range w.Sent {
		seq := s.Seq
		if s.ClientID != "" {
			at, written := j.at[s.ClientID]
			switch {
			case s.Outcome == Acked && !written:
				j.broken(RuleLost, "%s's %s was acknowledged as %d", w.Name, s.ClientID, s.Seq)
			case s.Outcome == Acked && at != s.Seq:
				j.broken(RuleTwice, "%s's %s was acknowledged as %d and is %d in history", w.Name, s.ClientID, s.Seq, at)
			case s.Outcome == Refused && written:
				j.broken(RuleInvented, "%s's %s was refused and is %d in history", w.Name, s.ClientID, at)
			}
			seq = at
		} else if s.Outcome == Acked {
			if e := j.entry(seq); e == nil || e.Sender != w.User {
				j.broken(RuleLost, "a change by %s was acknowledged as %d", w.Name, seq)
			}
		}
		if seq == 0 {
			continue
		}
		if seq < last {
			j.broken(RuleReordered, "%s wrote what is %d before what is %d", w.Name, last, seq)
		}
		last = max(last, seq)
	}
}

// shown checks a device's records against history's, one by one.
func (j *judge) shown(d *Device) {
	last := uint64(0)
	for _, s := range d.Shown {
		if s.Seq <= last {
			j.broken(RuleReordered, "%s was shown %d after %d", d.Name, s.Seq, last)
		}
		last = max(last, s.Seq)
		j.same(d, s)
	}
	for _, s := range d.Paged {
		j.same(d, s)
	}
}

// same holds one record that a device was shown to history's, and its user to his time as a member.
func (j *judge) same(d *Device, s Shown) {
	switch e := j.entry(s.Seq); {
	case e == nil:
		j.broken(RuleLost, "%s was shown %d (%s), which history lacks", d.Name, s.Seq, s.ClientID)
	case e.ClientID != s.ClientID:
		j.broken(RuleConflict, "%d is %s in history and %s at %s", s.Seq, e.ClientID, s.ClientID, d.Name)
	case e.Print != s.Print:
		j.broken(RuleConflict, "%d (%s) says something else at %s than in history", s.Seq, s.ClientID, d.Name)
	}
	if !j.member(d.User, s.Seq) {
		j.broken(RuleForeign, "%s was shown %d and %s was no member then", d.Name, s.Seq, d.User)
	}
}

// complete checks that a device has all that is its own. One that learned of the conversation in a later membership of its user
// begins there; from where it begins nothing may be missing.
func (j *judge) complete(d *Device) {
	its := j.members[d.User]
	if len(its) == 0 {
		return
	}
	current := its[len(its)-1]
	end := j.head()
	if current.To != 0 {
		end = current.To
	}
	if d.HeadKnown && d.Head != end {
		j.broken(RuleHead, "%s is told %d, history ends for it at %d", d.Name, d.Head, end)
	}
	have := make(map[uint64]bool, len(d.Shown))
	begin := current.From
	for _, s := range d.Shown {
		have[s.Seq] = true
		for _, i := range its {
			if i.covers(s.Seq) {
				begin = min(begin, i.From)
			}
		}
	}
	var missing []uint64
	for i := range j.History {
		if seq := j.History[i].Seq; seq >= begin && j.member(d.User, seq) && !have[seq] {
			missing = append(missing, seq)
		}
	}
	if len(missing) > 0 {
		j.broken(RuleHidden, "%s lacks %s of %d up to %d", d.Name, ranges(missing), len(missing), end)
	}
}

// invented looks for messages that nobody wrote. Users' own logs are written by the server.
func (j *judge) invented() {
	written := map[string]string{}
	for _, w := range j.Writers {
		for _, s := range w.Sent {
			written[s.ClientID] = w.User
		}
	}
	for i := range j.History {
		e := &j.History[i]
		if !e.Message {
			continue
		}
		if user, known := written[e.ClientID]; !known || user != e.Sender {
			j.broken(RuleInvented, "%d (%s) of %s, which nobody wrote", e.Seq, e.ClientID, e.Sender)
		}
	}
}

// ranges writes ascending seqs as 1–3, 7; the first few.
func ranges(seqs []uint64) string {
	var parts []string
	for i := 0; i < len(seqs); {
		k := i
		for k+1 < len(seqs) && seqs[k+1] == seqs[k]+1 {
			k++
		}
		if len(parts) == 8 {
			return strings.Join(parts, ", ") + " …"
		}
		if k == i {
			parts = append(parts, fmt.Sprint(seqs[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d–%d", seqs[i], seqs[k]))
		}
		i = k + 1
	}
	return strings.Join(parts, ", ")
}

// Count is how many violations there are of each rule, in words.
func Count(found []Violation) string {
	n := map[Rule]int{}
	for _, v := range found {
		n[v.Rule]++
	}
	var parts []string
	for _, rule := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%s %d", rule, n[rule]))
	}
	return strings.Join(parts, ", ")
}
