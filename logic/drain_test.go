package logic_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/protocol"
)

// unlisted reports whether the node is out of the list of live ones.
func (w *world) unlisted(name string) error {
	leases, err := bus.OpenLeases(w.t.Context(), w.conn, "halley_logic", time.Duration(w.cfg.Partition.LeaseTTLMs)*time.Millisecond, 1)
	if err != nil {
		return err
	}
	listed, err := leases.List(w.t.Context())
	if err == nil && listed[name] != nil {
		err = fmt.Errorf("%s is listed", name)
	}
	return err
}

func TestADrainedNodeHandsItsPartitionsOverAndTakesNoneUntilUndrain(t *testing.T) {
	w := newWorld(t)
	n1 := w.ready("n1")
	held := func(n *node, ok func(int) bool) func() error {
		return func() error {
			if got := n.Partitions(); !ok(got) {
				return fmt.Errorf("%s holds %d partitions", n.name, got)
			}
			return nil
		}
	}
	none, some := func(n int) bool { return n == 0 }, func(n int) bool { return n > 0 }
	c := w.comet()
	alice, bob := c.connect(w, "alice", "a"), c.connect(w, "bob", "b")
	d := protocol.Direct("alice", "bob")
	next := uint64(1)
	say := func() {
		t.Helper()
		if ack := alice.say(d, fmt.Sprint("c", next), next-1, fmt.Sprint(next)); ack.Seq != next {
			t.Fatalf("message %d acked as %v", next, ack)
		}
		next++
	}
	say()

	// The last node of all keeps what it serves: there is nobody to hand over to.
	n1.Drain()
	if n1.Ready() == nil {
		t.Error("ready though drained")
	}
	eventually(t, func() error { return w.unlisted("n1") })
	say()
	if n1.Partitions() == 0 {
		t.Fatal("the last node gave its partitions up")
	}

	n2 := w.start("n2")
	eventually(t, n2.Ready)
	eventually(t, held(n1, none))
	say()
	n1.Drain() // asking again changes nothing
	if !n1.Drained() || n1.Ready() == nil {
		t.Error("not drained any more")
	}
	if err := n2.Ready(); err != nil {
		t.Error(err)
	}

	n1.Undrain()
	eventually(t, held(n1, some))
	eventually(t, n1.Ready)
	eventually(t, n2.Ready)
	say()
	n2.Drain()
	eventually(t, held(n2, none))
	say()
	if err := n2.stop(); err != nil { // drained, it has nothing left to hand over
		t.Fatal(err)
	}
	say()
	eventually(t, func() error { return bob.hasSeqs(d, 1, 2, 3, 4, 5, 6) })
}

func TestANodeThatIsStoppedWhileItStartsEndsWell(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		if err := w.start(fmt.Sprintf("n%d", i)).stop(); err != nil {
			t.Fatal(err)
		}
	}
}
