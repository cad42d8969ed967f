// Package oracle says whether a run kept its promises: what was acknowledged is everywhere, once, in its sender's order,
// without holes and unchanged. It sees only what devices see, and never talks to the server.
package oracle

// ID names one message of a run within its conversation: who sent it and its how-manieth it was, from 1.
type ID uint64

// Foreign is a record that no message of this run explains: another run's late retry, a join.
const Foreign ID = ^ID(0)

const counterBits = 40

// MakeID packs a member's index and a counter.
func MakeID(member, counter uint32) ID { return ID(member+1)<<counterBits | ID(counter) }

// Member is the index of the sender among the members.
func (id ID) Member() uint32 { return uint32(id>>counterBits) - 1 }

// Counter counts the sender's messages from 1.
func (id ID) Counter() uint32 { return uint32(id & (1<<counterBits - 1)) }

// Ledger is what one conversation's devices were told: 8 bytes for each record and 4 for each acknowledged message. It is
// not safe for concurrent use: a conversation lives on one loop.
type Ledger struct {
	base uint64
	head uint64
	ids  []ID       // By seq−base−1; 0 where no device saw the record.
	acks [][]uint32 // By member, then counter−1: seq−base; 0 where not acknowledged.

	conflicts int64 // A seq with two ids, or an id acknowledged under two seqs.
	below     int64 // Acks with a seq that was given before the run.
}

// NewLedger begins at the head that the conversation had before the run's first message.
func NewLedger(members int, base uint64) *Ledger {
	return &Ledger{base: base, head: base, acks: make([][]uint32, members)}
}

// Base is the head before the run.
func (l *Ledger) Base() uint64 { return l.base }

// Head is the highest seq that anybody was told of.
func (l *Ledger) Head() uint64 { return l.head }

// Saw notes that the conversation reaches up to seq.
func (l *Ledger) Saw(seq uint64) { l.head = max(l.head, seq) }

// maxAhead bounds how far a server may make the arrays grow with one seq.
const maxAhead = 1 << 24

// Record notes that some device was given the record seq. False means that the seq cannot be: it is counted as a conflict.
func (l *Ledger) Record(seq uint64, id ID) bool {
	if seq <= l.base {
		return true
	}
	if !l.plausible(seq) {
		return false
	}
	i := seq - l.base - 1
	for uint64(len(l.ids)) <= i {
		l.ids = append(l.ids, 0)
	}
	switch l.ids[i] {
	case 0:
		l.ids[i] = id
	case id:
	default:
		l.conflicts++
	}
	return true
}

func (l *Ledger) plausible(seq uint64) bool {
	if seq > l.head+maxAhead {
		l.conflicts++
		return false
	}
	l.Saw(seq)
	return true
}

// Acked notes that the message was acknowledged under seq. An ack of the same message under the same seq changes nothing.
// False means that the seq cannot be.
func (l *Ledger) Acked(id ID, seq uint64) bool {
	if seq <= l.base {
		l.below++
		return false
	}
	if !l.plausible(seq) {
		return false
	}
	m, i := id.Member(), int(id.Counter())-1
	for len(l.acks[m]) <= i {
		l.acks[m] = append(l.acks[m], 0)
	}
	switch at := uint32(seq - l.base); l.acks[m][i] {
	case 0:
		l.acks[m][i] = at
	case at:
	default:
		l.conflicts++
	}
	return true
}

// Verdict counts broken promises; all zero is what a correct server gets.
type Verdict struct {
	// Lost are (acknowledged message, device) pairs: the device, of another member, does not have it.
	Lost int64
	// Duplicated are messages with a second seq, and seqs with a second message.
	Duplicated int64
	// Reordered are messages whose seq is below that of an earlier message of the same sender, and records pushed to a
	// device after a later one.
	Reordered int64
	// Gaps are (device, seq) pairs: the device lacks a record up to the head, even after it asked for it.
	Gaps int64
}

// Add sums verdicts.
func (v *Verdict) Add(o Verdict) {
	v.Lost += o.Lost
	v.Duplicated += o.Duplicated
	v.Reordered += o.Reordered
	v.Gaps += o.Gaps
}

// Judge is the verdict over one conversation; views are its members' devices, by index.
func (l *Ledger) Judge(views []*View) Verdict {
	v := Verdict{Duplicated: l.conflicts, Lost: l.below}
	l.judgeOrder(&v)
	for m, acks := range l.acks {
		for i, at := range acks {
			if at != 0 {
				v.Lost += l.missing(views, MakeID(uint32(m), uint32(i+1)), l.base+uint64(at))
			}
		}
	}
	for _, view := range views {
		v.Reordered += view.behind
		v.Gaps += view.missing(l.head)
	}
	return v
}

// judgeOrder walks the records by seq: each sender's counters must rise, and none may come twice.
func (l *Ledger) judgeOrder(v *Verdict) {
	type progress struct {
		last uint32
		seen []uint64
	}
	senders := make([]progress, len(l.acks))
	for _, id := range l.ids {
		if id == 0 || id == Foreign {
			continue
		}
		s, c := &senders[id.Member()], id.Counter()
		for uint32(len(s.seen)) <= c/64 {
			s.seen = append(s.seen, 0)
		}
		switch bit := uint64(1) << (c % 64); {
		case s.seen[c/64]&bit != 0:
			v.Duplicated++
		case c < s.last:
			v.Reordered++
			s.seen[c/64] |= bit
		default:
			s.last = c
			s.seen[c/64] |= bit
		}
	}
}

// missing counts the devices of other members that do not have the acknowledged message at its seq.
func (l *Ledger) missing(views []*View, id ID, seq uint64) (n int64) {
	i := seq - l.base - 1
	there := i < uint64(len(l.ids)) && l.ids[i] == id
	for m, view := range views {
		if uint32(m) != id.Member() && (!there || !view.Has(seq)) {
			n++
		}
	}
	return n
}
