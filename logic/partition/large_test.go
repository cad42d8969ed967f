package partition

import (
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
