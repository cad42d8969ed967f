package main

import (
	"fmt"
	"slices"
	"strings"
)

// record is one of a conversation's history, as a device reads it.
type record struct {
	seq, id      uint64
	sender, text string // No text: not a message.
}

// result counts over all cuts so far.
type result struct {
	cuts, acked, lost, violations int
}

func (r result) kept() bool { return r.lost == 0 && r.violations == 0 }

func (r result) add(o result) result {
	return result{r.cuts + o.cuts, r.acked + o.acked, r.lost + o.lost, r.violations + o.violations}
}

func (r result) String() string {
	return fmt.Sprintf("cuts=%d acked=%d lost=%d violations=%d", r.cuts, r.acked, r.lost, r.violations)
}

// judge compares a conversation's history, from its first record, with all that devices were told. A message is lost where it
// was acknowledged and is not the record of its seq; all else that should not be is a violation.
func (l *ledger) judge(conversation string, history []record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[string]uint64{}
	numbers := map[string]int{}
	for i, r := range history {
		if want := uint64(i + 1); r.seq != want {
			l.breaks("%s: history has %d where %d should be", conversation, r.seq, want)
		}
		if r.text != "" {
			l.judgeMessage(conversation, r, seen, numbers)
		}
	}
	at := func(seq uint64) (r record) {
		if i, ok := slices.BinarySearchFunc(history, seq, func(r record, seq uint64) int { return int(r.seq) - int(seq) }); ok {
			r = history[i]
		}
		return r
	}
	for text, m := range l.messages {
		if m.conversation != conversation || !m.acked {
			continue
		}
		if r := at(m.seq); r.text != text || r.id != m.id {
			m.lost = true
		}
	}
	for seq, id := range l.shown[conversation] {
		if r := at(seq); r.id != id {
			l.breaks("%s: a device was shown record %d as %d; history has %d there", conversation, id, seq, r.id)
		}
	}
}

// judgeMessage holds one message of the history against what was sent.
func (l *ledger) judgeMessage(conversation string, r record, seen map[string]uint64, numbers map[string]int) {
	m := l.messages[r.text]
	if m == nil || m.conversation != conversation || m.sender != r.sender {
		l.breaks("%s: %d of %s is not what anybody sent: %q", conversation, r.seq, r.sender, r.text)
		return
	}
	if first, twice := seen[r.text]; twice {
		l.breaks("%s: %q is %d and %d", conversation, r.text, first, r.seq)
		return
	}
	seen[r.text] = r.seq
	if m.number < numbers[m.sender] {
		l.breaks("%s: %q comes after %d of the same sender", conversation, r.text, numbers[m.sender])
	}
	numbers[m.sender] = max(numbers[m.sender], m.number)
}

// violation notes what a round found beside the histories.
func (l *ledger) violation(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaks(format, args...)
}

func (l *ledger) result(cuts int) result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := result{cuts: cuts, acked: l.acked, violations: len(l.broken)}
	for _, m := range l.messages {
		if m.lost {
			r.lost++
		}
	}
	return r
}

// examples are some of what is lost or should not be, for people.
func (l *ledger) examples(most int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for text, m := range l.messages {
		if m.lost {
			lines = append(lines, fmt.Sprintf("lost: %q, acknowledged as %d of %s", text, m.seq, m.conversation))
		}
	}
	slices.Sort(lines)
	lines = lines[:min(len(lines), most)]
	for what := range l.broken {
		if len(lines) >= 2*most {
			break
		}
		lines = append(lines, "violation: "+what)
	}
	return strings.Join(lines, "\n")
}
