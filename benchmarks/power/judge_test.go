package main

import (
	"slices"
	"strings"
	"testing"
)

// told is a ledger of three messages of two users in one conversation, acknowledged and shown as history has them.
func told() (*ledger, []record) {
	l := newLedger()
	history := []record{
		{seq: 1, id: 11, sender: "ann", text: "a1"},
		{seq: 2, id: 12, sender: "bob", text: "b1"},
		{seq: 3, id: 13, sender: "ann", text: "a2"},
	}
	for _, r := range history {
		l.sends(r.text, message{conversation: "d:ann:bob", sender: r.sender, number: int(r.text[1] - '0')})
		l.ack(r.text, r.seq, r.id)
		l.show(place{"bob", "d:ann:bob"}, r.seq, r.id)
	}
	return l, history
}

func TestWhatAJudgeSees(t *testing.T) {
	for name, c := range map[string]struct {
		change     func(l *ledger, history []record) []record
		lost       int
		violations int
	}{
		"nothing, where all is as it was told": {change: func(_ *ledger, h []record) []record { return h }},
		"a message that was never answered and is there": {change: func(l *ledger, h []record) []record {
			l.sends("b2", message{conversation: "d:ann:bob", sender: "bob", number: 2})
			return append(h, record{seq: 4, id: 14, sender: "bob", text: "b2"})
		}},
		"a record that is no message": {change: func(_ *ledger, h []record) []record {
			return append(h, record{seq: 4, id: 14, sender: "bob"})
		}},
		"the end is gone": {lost: 1, violations: 1, change: func(_ *ledger, h []record) []record { return h[:2] }},
		"all is gone":     {lost: 3, violations: 3, change: func(*ledger, []record) []record { return nil }},
		"another message has its seq": {lost: 1, violations: 1, change: func(l *ledger, h []record) []record {
			l.sends("b2", message{conversation: "d:ann:bob", sender: "bob", number: 2})
			h[2] = record{seq: 3, id: 14, sender: "bob", text: "b2"}
			return h
		}},
		"its text, under another id": {lost: 1, violations: 1, change: func(_ *ledger, h []record) []record {
			h[1].id = 99
			return h
		}},
		"a hole": {lost: 1, violations: 2, change: func(_ *ledger, h []record) []record { return slices.Delete(h, 1, 2) }},
		"a message twice": {violations: 1, change: func(_ *ledger, h []record) []record {
			return append(h, record{seq: 4, id: 14, sender: "ann", text: "a2"})
		}},
		"a sender's messages in the wrong order": {lost: 2, violations: 3, change: func(_ *ledger, h []record) []record {
			h[0].text, h[2].text, h[0].id, h[2].id = h[2].text, h[0].text, h[2].id, h[0].id
			return h
		}},
		"a message that nobody sent": {violations: 1, change: func(_ *ledger, h []record) []record {
			return append(h, record{seq: 4, id: 14, sender: "ann", text: "a9"})
		}},
		"a message of another sender": {violations: 1, change: func(_ *ledger, h []record) []record {
			h[1].sender = "ann"
			return h
		}},
		"a device was shown what is no more": {violations: 1, change: func(l *ledger, h []record) []record {
			l.show(place{"bob", "d:ann:bob"}, 4, 14)
			return h
		}},
		"a device was shown a record twice": {violations: 1, change: func(l *ledger, h []record) []record {
			l.show(place{"bob", "d:ann:bob"}, 3, 13)
			return h
		}},
		"two devices were shown different records": {violations: 3, change: func(l *ledger, h []record) []record {
			l.show(place{"ann", "d:ann:bob"}, 3, 15) // Without 1 and 2, too.
			return h
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, history := told()
			l.judge("d:ann:bob", c.change(l, history))
			got := l.result(1)
			if got.lost != c.lost || got.violations != c.violations || got.kept() != (c.lost == 0 && c.violations == 0) {
				t.Errorf("%v, want lost=%d violations=%d\n%s", got, c.lost, c.violations, l.examples(10))
			}
		})
	}
}

func TestALossIsCountedOnceHoweverOftenItIsSeen(t *testing.T) {
	l, history := told()
	l.judge("d:ann:bob", history[:2])
	l.judge("d:ann:bob", history[:2])
	if got := l.result(2).String(); got != "cuts=2 acked=3 lost=1 violations=1" {
		t.Error(got)
	}
	if got := l.examples(5); !strings.Contains(got, `lost: "a2", acknowledged as 3 of d:ann:bob`) {
		t.Error(got)
	}
}
