package oracle

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// A conversation is a list that grows at its end: a write is one step, from a length to the next, and a read tells the length. What
// everybody was told, and when, must be explained by one order of all steps and reads, in which nothing stands before what
// was over when it began. Holes, doubles and what was lost are seen without times; a read that an owner answered past its lease is not.

// Read is what somebody was told of a conversation's head.
type Read struct {
	By string
	// User whose membership bounds what he is told; empty is the app's server, which is told everything.
	User        string
	Head        uint64 // 0: it is not there.
	Asked, Told time.Duration
}

// Decision is what became of a search for the order.
type Decision int

// The decisions.
const (
	Linear Decision = iota
	NotLinear
	Undecided // The time was over.
)

// The times of what nobody saw begin, and of what did not come.
const (
	unknown = time.Duration(math.MinInt64)
	never   = time.Duration(math.MaxInt64)
)

// step is an operation of the model: a write, which makes the list as long as its seq, or a read, which is true of lengths from and to.
type step struct {
	write    bool
	seq      uint64
	from, to uint64
	what     string // In words.
}

// lengths is the model of a list that has this many records already. Its state is the length.
func lengths(already uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return already },
		Step: func(state, input, _ any) (bool, any) {
			length, s := state.(uint64), input.(*step)
			if s.write {
				return s.seq == length+1, s.seq
			}
			return s.from <= length && length <= s.to, length
		},
	}
}

// Linearize looks for the order, for so long at most. Writes whose answer was never heard are where history has them, or never
// were; they may have happened at any time since they were begun, and until somebody was shown them.
func (t *Transcript) Linearize(within time.Duration) (Decision, *Violation) {
	return t.linearize(within, atOnce)
}

// atOnce is about how many operations are searched at once. What a search remembers grows with their square.
const atOnce = 256

func (t *Transcript) linearize(within time.Duration, atOnce int) (Decision, *Violation) {
	j := &judge{Transcript: t, at: map[string]uint64{}, members: map[string][]interval{}}
	j.readHistory()
	ops := append(j.steps(), j.reads()...)
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	end := time.Now().Add(within)
	for already := uint64(0); len(ops) > 0; {
		part := ops[:quiet(ops, atOnce)]
		ops = ops[len(part):]
		began := time.Now()
		switch porcupine.CheckOperationsTimeout(lengths(already), part, max(end.Sub(began), 1)) {
		case porcupine.Unknown:
			return Undecided, nil
		case porcupine.Illegal: // Once more, to say why; a second search is as long as the first.
			_, info := porcupine.CheckOperationsVerbose(lengths(already), part, 2*time.Since(began)+time.Second)
			return NotLinear, &Violation{Rule: RuleLinear, Conversation: t.Conversation, What: explain(part, info)}
		}
		for _, op := range part {
			if op.Input.(*step).write {
				already++
			}
		}
	}
	return Linear, nil
}

// quiet finds how many of the operations, sorted by when they began, were over when all others began: at least so many, if there is such a
// moment. An order of all is an order of these and then one of the rest.
func quiet(ops []porcupine.Operation, least int) int {
	over := int64(math.MinInt64)
	for i, op := range ops {
		if i >= least && op.Call > over {
			return i
		}
		over = max(over, op.Return)
	}
	return len(ops)
}

// steps are the writes: one for each that was acknowledged, and one for each record of history beside these.
func (j *judge) steps() []porcupine.Operation {
	shown := j.firstShown()
	begun := map[string]Sent{}
	var ops []porcupine.Operation
	add := func(seq uint64, from, to time.Duration, what string) {
		if at, known := shown[seq]; known {
			to = min(to, at)
		}
		ops = append(ops, porcupine.Operation{Input: &step{write: true, seq: seq, what: what}, Call: int64(min(from, to)), Return: int64(to)})
	}
	acked := map[uint64]bool{}
	for _, w := range j.Writers {
		for _, s := range w.Sent {
			if s.ClientID != "" {
				begun[s.ClientID] = s
			}
			if s.Outcome == Acked {
				acked[s.Seq] = true
				add(s.Seq, s.Begun, s.Ended, fmt.Sprintf("%s's write of %d from %s to %s", w.Name, s.Seq, at(s.Begun), at(s.Ended)))
			}
		}
	}
	for i := range j.History {
		if e := &j.History[i]; !acked[e.Seq] {
			acked[e.Seq] = true
			from := unknown
			if s, known := begun[e.ClientID]; known {
				from = s.Begun
			}
			add(e.Seq, from, never, fmt.Sprintf("the write of %d, begun at %s", e.Seq, at(from)))
		}
	}
	// Where many began at once, those come first that can; and one of which nobody knows when it began stands behind those before it.
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return compare(a.Input.(*step).seq, b.Input.(*step).seq) })
	last := int64(unknown)
	for i := range ops {
		if ops[i].Call == int64(unknown) {
			ops[i].Call = min(last, ops[i].Return)
		}
		last = max(last, ops[i].Call)
	}
	return ops
}

// firstShown is when anybody was first shown a record: by then it was written.
func (j *judge) firstShown() map[uint64]time.Duration {
	first := map[uint64]time.Duration{}
	for i := range j.Devices {
		for _, s := range j.Devices[i].Shown {
			if at, known := first[s.Seq]; s.At > 0 && (!known || s.At < at) {
				first[s.Seq] = s.At
			}
		}
	}
	return first
}

// reads are the reads that bind the order: of those that are true of the same lengths, the one that was answered first and the one that was
// asked last. All others follow from these two, and a search among all of them takes for ever where there is no order.
func (j *judge) reads() []porcupine.Operation {
	type lengths struct{ from, to uint64 }
	first, last := map[lengths]*Read{}, map[lengths]*Read{}
	for i := range j.Reads {
		r := &j.Reads[i]
		from, to := j.told(r.User, r.Head)
		key := lengths{from, to}
		if have := first[key]; have == nil || r.Told < have.Told {
			first[key] = r
		}
		if have := last[key]; have == nil || r.Asked > have.Asked {
			last[key] = r
		}
	}
	var ops []porcupine.Operation
	for key, r := range first {
		ends := []*Read{r}
		if other := last[key]; other != r {
			ends = append(ends, other)
		}
		for _, r := range ends {
			what := fmt.Sprintf("%s's read of head %d from %s to %s", r.By, r.Head, at(r.Asked), at(r.Told))
			ops = append(ops, porcupine.Operation{Input: &step{from: key.from, to: key.to, what: what}, Call: int64(r.Asked), Return: int64(r.Told)})
		}
	}
	return ops
}

// told is between which lengths of the list a user is told head: its length, to one who is a member; where the user left, from
// then until the user is back. A head that he is never told has none.
func (j *judge) told(user string, head uint64) (from, to uint64) {
	if user == "" {
		return head, head
	}
	its := j.members[user]
	for i, m := range its {
		next := uint64(math.MaxUint64) // Up to where nothing is new to the user.
		if i+1 < len(its) {
			next = its[i+1].From - 1
		}
		switch {
		case head == 0 && i == 0:
			return 0, m.From - 1
		case m.To != 0 && head == m.To:
			return head, next
		case m.covers(head):
			return head, head
		}
	}
	if head == 0 {
		return 0, math.MaxUint64
	}
	return 1, 0
}

// explain names the operation that has no place in the longest order that was found.
func explain(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, orders := range info.PartialLinearizationsOperations() {
		for _, order := range orders {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	placed := map[*step]bool{}
	for _, op := range longest {
		placed[op.Input.(*step)] = true
	}
	var odd *porcupine.Operation
	for i := range ops {
		if op := &ops[i]; !placed[op.Input.(*step)] && (odd == nil || op.Return < odd.Return) {
			odd = op
		}
	}
	if odd == nil {
		return "no order of writes and reads explains what everybody was told"
	}
	return fmt.Sprintf("%s has no place behind the %d writes and reads that can stand before it", odd.Input.(*step).what, len(longest))
}

func at(d time.Duration) string {
	if d < 0 {
		return "before"
	}
	return fmt.Sprintf("%.3f s", d.Seconds())
}
