package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/protocol"
)

// appendSurely does what the owner of a partition does: the same block with the same expectation until the outcome is known.
func appendSurely(t *testing.T, l *bus.Log, block string, last uint64) {
	t.Helper()
	bustest.Until(t, fmt.Sprintf("block %d is stored", last+1), func() bool {
		ctx, cancel := context.WithTimeout(testContext(t), time.Second)
		defer cancel()
		_, err := l.Append(ctx, []byte(block), true, last)
		if errors.Is(err, bus.ErrMoved) {
			m, gerr := l.Get(ctx, last+1)
			if gerr == nil && string(m.Data) != block {
				t.Fatalf("%d is %q, want %q", last+1, m.Data, block)
			}
			return gerr == nil
		}
		return err == nil
	})
}

func TestClusterGoesOnWithoutALeaderThatStops(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	cl := bustest.StartCluster(t, 3)
	c := cl.Connect()
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 3, MaxBytes: 2 << 20})
	l := bustest.OpenLog(t, c, 0)
	f := follow(t, l, "userlog", bus.FollowOptions{UserOnly: true, AckWait: time.Second})
	var want []string
	add := func() {
		t.Helper()
		last := uint64(len(want))
		block := fmt.Sprintf("block %d", last+1)
		appendSurely(t, l, block, last)
		want = append(want, fmt.Sprintf("%d:%s", last+1, block))
	}
	for range 50 {
		add()
	}
	killed := cl.Leader(protocol.StreamLog(0))
	if killed < 0 {
		t.Fatal("the log has no leader")
	}
	cl.Kill(killed)
	for range 50 {
		add()
	}
	cl.Start(killed)
	equal(t, read(t, l, 0), want)
	bustest.Until(t, "the follower has every block", func() bool {
		ds, err := f.Fetch(testContext(t), 100, 1<<20, 100*time.Millisecond)
		if err == nil {
			ack(t, ds...)
		}
		floor, _, err := f.Floor(testContext(t))
		return err == nil && floor == uint64(len(want))
	})
	if _, err := bus.OpenLog(testContext(t), c, 0); err != nil {
		t.Fatal(err)
	}

	// Full is full on three disks as on one, and says so with certainty.
	last, block := uint64(len(want)), make([]byte, 200_000)
	for full := false; !full; {
		seq, err := l.Append(testContext(t), block, false, last)
		switch {
		case errors.Is(err, bus.ErrFull):
			full = true
		case err != nil:
			t.Fatal(err)
		default:
			last = seq
		}
	}
	if st := mustState(t, l); st.Last != last || st.First != 1 || st.Bytes > st.MaxBytes {
		t.Fatalf("full log is %+v after block %d", st, last)
	}
}

// A node that starts while all servers are down, or have just started and have no leaders yet, waits for them.
func TestANodeThatStartsBeforeNATSWaitsForIt(t *testing.T) {
	cl := bustest.StartCluster(t, 3)
	c := bustest.Open(t, bus.Config{Name: "node", URLs: cl.URLs(), NoReconnectBuffer: true})
	bustest.Create(t, c, bus.LogConfig{Partitions: 2, Replicas: 3, MaxBytes: 1 << 20})
	for i := range 3 {
		cl.Kill(i)
	}
	type answer struct {
		partitions int
		err        error
	}
	asked := make(chan answer, 1)
	go func() {
		n, err := bus.Partitions(testContext(t), c)
		asked <- answer{n, err}
	}()
	for i := range 3 {
		cl.Start(i)
	}
	if got := <-asked; got.err != nil || got.partitions != 2 {
		t.Fatalf("%d partitions, %v", got.partitions, got.err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	for i := range 3 {
		cl.Kill(i)
	}
	if _, err := bus.Partitions(ctx, c); err == nil || errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("after its time: %v", err)
	}
}

// A server comes back with an empty disk: the two others fill it, and it is worth as much as before.
func TestAServerThatLostItsDiskIsFilledByTheOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	cl := bustest.StartCluster(t, 3)
	c := cl.Connect()
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 3, MaxBytes: 2 << 20})
	l := bustest.OpenLog(t, c, 0)
	last := uint64(0)
	add := func(n int) {
		t.Helper()
		for range n {
			appendSurely(t, l, fmt.Sprintf("block %d", last+1), last)
			last++
		}
	}
	add(30)
	lost := cl.Leader(protocol.StreamLog(0))
	cl.Kill(lost)
	cl.Wipe(lost)
	add(30)
	cl.Start(lost)
	add(10)
	bustest.Until(t, "it has the whole log, and what says that there is one", func() bool {
		return cl.Has(lost, protocol.StreamLog(0), last) && cl.Has(lost, "KV_halley_cluster", 1)
	})
	// Without another one, what it was given is half of the quorum.
	cl.Kill((lost + 1) % 3)
	add(10)
	seen := uint64(0)
	if err := bustest.OpenLog(t, c, 0).Scan(testContext(t), 0, func(m bus.Message) error {
		if seen++; m.Seq != seen || string(m.Data) != fmt.Sprintf("block %d", seen) {
			return fmt.Errorf("block %d is %q", m.Seq, m.Data)
		}
		return nil
	}); err != nil || seen != last {
		t.Fatalf("%d of %d blocks, %v", seen, last, err)
	}
}
