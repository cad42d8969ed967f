package bus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

func follow(t testing.TB, l *bus.Log, name string, opt bus.FollowOptions) *bus.Follower {
	t.Helper()
	f, err := l.Follow(testContext(t), name, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// fetch returns n deliveries, however many calls that takes.
func fetch(t testing.TB, f *bus.Follower, n int) []bus.Delivery {
	t.Helper()
	var out []bus.Delivery
	bustest.Until(t, fmt.Sprintf("%d deliveries", n), func() bool {
		got, err := f.Fetch(testContext(t), n-len(out), 1<<20, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, got...)
		return len(out) == n
	})
	return out
}

func nothing(t testing.TB, f *bus.Follower) {
	t.Helper()
	got, err := f.Fetch(testContext(t), 10, 1<<20, 200*time.Millisecond)
	if err != nil || len(got) != 0 {
		t.Fatalf("got %d deliveries, %v, want none", len(got), err)
	}
}

func ack(t testing.TB, ds ...bus.Delivery) {
	t.Helper()
	for _, d := range ds {
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
	}
}

func floorIs(t testing.TB, f *bus.Follower, floor, pending uint64) {
	t.Helper()
	var gotFloor, gotPending uint64
	bustest.Until(t, fmt.Sprintf("floor %d with %d pending", floor, pending), func() bool {
		var err error
		gotFloor, gotPending, err = f.Floor(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if gotFloor > floor {
			t.Fatalf("floor is %d (pending %d), above %d", gotFloor, gotPending, floor)
		}
		return gotFloor == floor && gotPending == pending
	})
}

func TestFloorIsContiguousWhateverTheOrderOfAcks(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	f := follow(t, l, "history", bus.FollowOptions{})
	floorIs(t, f, 0, 0)
	for i := range uint64(5) {
		mustAppend(t, l, "x", false, i)
	}
	floorIs(t, f, 0, 5)
	ds := fetch(t, f, 5)
	ack(t, ds[4], ds[2], ds[1])
	floorIs(t, f, 0, 2)
	ack(t, ds[0])
	floorIs(t, f, 3, 1)
	ack(t, ds[3])
	floorIs(t, f, 5, 0)
}

func TestBlockOfADeadNodeComesToAnotherAndHoldsTheFloor(t *testing.T) {
	c := bustest.Logs(t, 1)
	l := bustest.OpenLog(t, c, 0)
	opt := bus.FollowOptions{AckWait: 500 * time.Millisecond}
	dies, lives := follow(t, l, "history", opt), follow(t, bustest.OpenLog(t, c, 0), "history", opt)
	mustAppend(t, l, "a", false, 0)
	lost := fetch(t, dies, 1)[0]
	dies.Close() // mid-block
	mustAppend(t, l, "b", false, 1)
	ack(t, fetch(t, lives, 1)...)
	floorIs(t, lives, 0, 1)

	again := fetch(t, lives, 1)[0]
	if again.Seq != lost.Seq || again.Redelivered != 1 {
		t.Fatalf("got block %d, redelivered %d times, want %d, once", again.Seq, again.Redelivered, lost.Seq)
	}
	ack(t, again)
	floorIs(t, lives, 2, 0)
}

func TestNakComesBackAfterItsDelayAndInProgressDoesNot(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	f := follow(t, l, "history", bus.FollowOptions{AckWait: 700 * time.Millisecond})
	mustAppend(t, l, "a", false, 0)
	d := fetch(t, f, 1)[0]
	start := time.Now()
	if err := d.Nak(300 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	d = fetch(t, f, 1)[0]
	if took := time.Since(start); took < 250*time.Millisecond || d.Redelivered != 1 {
		t.Fatalf("came back after %v with redelivered %d", took, d.Redelivered)
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if err := d.InProgress(); err != nil {
			t.Fatal(err)
		}
		nothing(t, f)
	}
	ack(t, d)
	floorIs(t, f, 1, 0)
}

// A follower of users' news sees none of the blocks in between, yet must not hold back trimming below them.
func TestFloorOfAFilteredFollowerPassesWhatItNeedNotSee(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	f := follow(t, l, "userlog", bus.FollowOptions{UserOnly: true})
	mustAppend(t, l, "d", false, 0)
	mustAppend(t, l, "d", false, 1)
	floorIs(t, f, 2, 0)
	mustAppend(t, l, "u", true, 2)
	mustAppend(t, l, "d", false, 3)
	mustAppend(t, l, "u", true, 4)
	mustAppend(t, l, "d", false, 5)
	ds := fetch(t, f, 2)
	if ds[0].Seq != 3 || ds[1].Seq != 5 {
		t.Fatalf("got blocks %d and %d, want 3 and 5", ds[0].Seq, ds[1].Seq)
	}
	ack(t, ds[1])
	if floor, pending, err := f.Floor(testContext(t)); err != nil || floor > 2 || pending == 0 {
		t.Fatalf("floor %d with %d pending, %v: block 3 is not acknowledged", floor, pending, err)
	}
	ack(t, ds[0])
	floorIs(t, f, 6, 0)
	mustAppend(t, l, "d", false, 6)
	floorIs(t, f, 7, 0)
	if err := l.Trim(testContext(t), 7); err != nil { // no block of its kind is left
		t.Fatal(err)
	}
	floorIs(t, f, 7, 0)
}

func TestFetchTakesWhatIsThereUpToItsBounds(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	f := follow(t, l, "history", bus.FollowOptions{MaxAckPending: 10})
	nothing(t, f)
	for i := range uint64(30) {
		mustAppend(t, l, "0123456789", false, i)
	}
	next := uint64(1)
	for next <= 30 {
		ds, err := f.Fetch(testContext(t), 7, 40, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if len(ds) > 4 {
			t.Fatalf("%d blocks of 10 bytes, want at most 40 bytes", len(ds))
		}
		for _, d := range ds {
			if d.Seq != next {
				t.Fatalf("got block %d, want %d", d.Seq, next)
			}
			next++
		}
		ack(t, ds...)
	}
	floorIs(t, f, 30, 0)
}

func TestMaxAckPendingBoundsWhatIsOut(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	f := follow(t, l, "history", bus.FollowOptions{MaxAckPending: 3})
	for i := range uint64(5) {
		mustAppend(t, l, "x", false, i)
	}
	ds := fetch(t, f, 3)
	nothing(t, f)
	ack(t, ds[0])
	if d := fetch(t, f, 1)[0]; d.Seq != 4 {
		t.Fatalf("got block %d, want 4", d.Seq)
	}
}

// The server also says when a pull has ended as it should. That must not be taken for a refusal, after which a follower pauses.
func TestSmallBatchesFollowEachOtherWithoutAPause(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	f := follow(t, l, "history", bus.FollowOptions{})
	const blocks = 200
	for i := range uint64(blocks) {
		mustAppend(t, l, "x", false, i)
	}
	start := time.Now()
	for range blocks / 2 {
		ack(t, fetch(t, f, 2)...)
	}
	// One pause is 100 ms, so with one for each batch this takes 10 s.
	if took := time.Since(start); took > 4*time.Second {
		t.Fatalf("%d batches took %v", blocks/2, took)
	}
}
