package partition

import (
	"slices"
	"testing"

	"github.com/halley-im/halley/logic/state"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Members come and go in small groups too, whose deliveries never ask what nodes must be told: it is forgotten all the same.
func TestWhatIsToldOfASmallGroupIsForgotten(t *testing.T) {
	o := &owner{}
	c := &cell{Conversation: state.New("main", "g:small")}
	for seq := uint64(1); seq <= 10_000; seq++ {
		o.note(c, &logv1.Record{App: "main", Conversation: "g:small", Seq: seq, Left: []string{"bot"}}, seq)
		if seq%100 == 0 { // A second passes, and the users' logs tell of all before.
			o.toldTo, o.tick = seq-1, o.tick+1
		}
	}
	if n := len(c.told.changes); n > (settleTicks+1)*100+64 {
		t.Errorf("%d changes are kept", n)
	}
	o.toldTo = o.changed
	o.settle(c) // From now on they are counted down.
	o.tick += settleTicks
	if o.settle(c); len(c.told.changes) != 0 || !c.idle(0, o.toldTo) {
		t.Errorf("%d changes are kept for ever", len(c.told.changes))
	}
}

// Of those who leave, and of all where the group crosses the line, the log says since when they were members: this time, and not one before.
func TestTheLogSaysSinceWhenWhomItNamesWasAMember(t *testing.T) {
	o := &owner{Partition: &Partition{}}
	o.cfg.LargeMembers = 8
	c := &cell{Conversation: state.New("main", "g:x")}
	users := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}
	for block, change := range []struct {
		joined, left           []string
		leftSince, activeSince []uint64
	}{
		{joined: users[:8]},
		{left: []string{"a", "b"}, leftSince: []uint64{1, 1}},
		{joined: []string{"b"}},
		{joined: []string{"i", "a"}, activeSince: []uint64{4, 3, 1, 1, 1, 1, 1, 1, 4}},      // Large.
		{left: []string{"b", "c", "a"}, leftSince: []uint64{3, 1, 4}},                       //
		{left: []string{"d"}, leftSince: []uint64{1}, activeSince: []uint64{1, 1, 1, 1, 4}}, // No more.
	} {
		seq := uint64(block + 1)
		r := &logv1.Record{App: "main", Conversation: "g:x", Seq: seq, Joined: change.joined, Left: change.left}
		o.measure(c, r)
		if !slices.Equal(r.Since.GetLeft(), change.leftSince) || !slices.Equal(r.Since.GetActive(), change.activeSince) || len(r.Active) != len(r.Since.GetActive()) {
			t.Errorf("%d: left since %v, active %v since %v; want %v, %v", seq, r.Since.GetLeft(), r.Active, r.Since.GetActive(), change.leftSince, change.activeSince)
		}
		c.Apply(r, seq)
	}
}
