package bus_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// Who only reads must not even write down how far the log was seen, and must notice all the same a log that has lost its end.
func TestReaderReadsALogAndLeavesNoTrace(t *testing.T) {
	c := bustest.Logs(t, 1)
	l := bustest.OpenLog(t, c, 0)
	mustAppend(t, l, "a", false, 0)
	mustAppend(t, l, "b", true, 1)

	r, err := bus.OpenReader(testContext(t), c, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetFact(testContext(t), "seen.0"); !errors.Is(err, bus.ErrNoFact) {
		t.Errorf("what was seen of the log: %v, want that nothing was written down", err)
	}
	var got []string
	err = r.Scan(testContext(t), 0, func(m bus.Message) error {
		got = append(got, fmt.Sprintf("%d:%s", m.Seq, m.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, []string{"1:a", "2:b"})
	if st, err := r.State(testContext(t)); err != nil || st.Last != 2 {
		t.Errorf("%+v, %v", st, err)
	}
	if floor, err := r.Floor(testContext(t), "history", false); err != nil || floor != 0 {
		t.Errorf("floor %d of a follower that never was, %v", floor, err)
	}

	if err := l.Witness(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenReader(testContext(t), c, 0); err != nil {
		t.Errorf("a log as long as it was seen: %v", err)
	}
	if _, err := bus.OpenReader(testContext(t), c, 1); err == nil {
		t.Error("a partition that the cluster does not have is opened")
	}
}

func TestReaderRefusesALogThatHasLostItsEnd(t *testing.T) {
	c := bustest.Logs(t, 1)
	mustAppend(t, bustest.OpenLog(t, c, 0), "a", false, 0)
	if _, err := c.PutFactOnce(testContext(t), "seen.0", []byte("2")); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenReader(testContext(t), c, 0); !errors.Is(err, bus.ErrIncarnation) {
		t.Errorf("a log that ends at 1 and had reached 2: %v, want ErrIncarnation", err)
	}
}
