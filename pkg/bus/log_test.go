package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/protocol"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bustest.Wait)
	t.Cleanup(cancel)
	return ctx
}

func mustAppend(t testing.TB, l *bus.Log, block string, user bool, last uint64) uint64 {
	t.Helper()
	seq, err := l.Append(testContext(t), []byte(block), user, last)
	if err != nil {
		t.Fatalf("append after %d: %v", last, err)
	}
	if seq != last+1 {
		t.Fatalf("append after %d: stored as %d", last, seq)
	}
	return seq
}

func mustState(t testing.TB, l *bus.Log) bus.LogState {
	t.Helper()
	st, err := l.State(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func read(t testing.TB, l *bus.Log, from uint64) []string {
	t.Helper()
	var out []string
	err := l.Scan(testContext(t), from, func(m bus.Message) error {
		out = append(out, fmt.Sprintf("%d:%s", m.Seq, m.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestAppendFencesAnOwnerWhoseLogMovedOn(t *testing.T) {
	c := bustest.Logs(t, 1)
	old, next := bustest.OpenLog(t, c, 0), bustest.OpenLog(t, c, 0)
	mustAppend(t, old, "a", false, 0)
	mustAppend(t, next, "fence", false, 1)

	if _, err := old.Append(testContext(t), []byte("late"), false, 1); !errors.Is(err, bus.ErrMoved) {
		t.Fatalf("got %v, want ErrMoved", err)
	}
	equal(t, read(t, old, 0), []string{"1:a", "2:fence"})
}

// The expectation is on the stream, so what was purged is not forgotten: an owner that believes in an empty log stays fenced.
func TestAppendAfterTrimStillExpectsTheLastSequence(t *testing.T) {
	c := bustest.Logs(t, 1)
	l := bustest.OpenLog(t, c, 0)
	for i := range uint64(10) {
		mustAppend(t, l, "x", i%2 == 0, i)
	}
	if err := l.Trim(testContext(t), 1000); err != nil {
		t.Fatal(err)
	}
	if st := mustState(t, l); st.First != 10 || st.Last != 10 {
		t.Fatalf("trimmed to %+v, want the last block alone", st)
	}
	for _, stale := range []uint64{0, 1, 9, 11} {
		if _, err := l.Append(testContext(t), []byte("aba"), false, stale); !errors.Is(err, bus.ErrMoved) {
			t.Fatalf("expecting %d: got %v, want ErrMoved", stale, err)
		}
	}
	mustAppend(t, l, "y", false, 10)
}

func TestTrimKeepsTheSequenceItNames(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	for i := range uint64(5) {
		mustAppend(t, l, fmt.Sprint(i+1), false, i)
	}
	for range 2 { // the second is another job node's
		if err := l.Trim(testContext(t), 3); err != nil {
			t.Fatal(err)
		}
		equal(t, read(t, l, 0), []string{"3:3", "4:4", "5:5"})
	}
	if _, err := l.Get(testContext(t), 2); !errors.Is(err, bus.ErrNoMessage) {
		t.Fatalf("got %v, want ErrNoMessage", err)
	}
}

func TestFullLogRefusesAndStaysWhole(t *testing.T) {
	c := bustest.Connect(t, bustest.StartEmbedded(t))
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: 1 << 20})
	l := bustest.OpenLog(t, c, 0)
	block := bytes.Repeat([]byte("x"), 100_000)
	var last uint64
	var err error
	for err == nil {
		var seq uint64
		if seq, err = l.Append(testContext(t), block, false, last); err == nil {
			last = seq
		}
	}
	if !errors.Is(err, bus.ErrFull) || last != 10 {
		t.Fatalf("after %d blocks: got %v, want ErrFull after 10", last, err)
	}
	st := mustState(t, l)
	if st.First != 1 || st.Last != last || st.Bytes > st.MaxBytes {
		t.Fatalf("full log is %+v", st)
	}
	if err := l.Trim(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(testContext(t), block, false, last); err != nil {
		t.Fatalf("after making room: %v", err)
	}
}

func TestAppendWithoutAServerLeavesTheOutcomeUnknown(t *testing.T) {
	cfg := bus.EmbeddedConfig{Dir: t.TempDir()}
	e := bustest.Embedded(t, cfg)
	c := bustest.Connect(t, e)
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: 1 << 20})
	l := bustest.OpenLog(t, c, 0)
	e.Shutdown()

	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := l.Append(ctx, []byte("x"), false, 0)
	if err == nil || errors.Is(err, bus.ErrMoved) || errors.Is(err, bus.ErrFull) {
		t.Fatalf("got %v, want an error that says nothing about the outcome", err)
	}
}

// An answer that arrives after its append was given up must not be taken for the next one's.
func TestAppendIgnoresTheAnswerToAnEarlierTry(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.Append(gone, []byte("a"), false, 0)
	for try := 0; err == nil && try < 100; try++ { // the answer may have been faster than the look at ctx
		_, err = l.Append(gone, []byte("a"), false, uint64(try+1))
	}
	bustest.Until(t, "the block that was given up is stored", func() bool { return mustState(t, l).Last > 0 })
	last := mustState(t, l).Last
	if seq := mustAppend(t, l, "b", false, last); seq != last+1 {
		t.Fatalf("answered %d, want %d", seq, last+1)
	}
	// The same expectation again: what an owner does that got no answer.
	if _, err := l.Append(testContext(t), []byte("b"), false, last); !errors.Is(err, bus.ErrMoved) {
		t.Fatalf("got %v, want ErrMoved", err)
	}
	if m, err := l.Get(testContext(t), last+1); err != nil || string(m.Data) != "b" || m.Time.IsZero() {
		t.Fatalf("got %+v, %v", m, err)
	}
}

func TestScanReadsEverySizeOfLog(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	c := bustest.Logs(t, 1)
	l := bustest.OpenLog(t, c, 0)
	equal(t, read(t, l, 0), nil)
	var want []string
	var last uint64
	check := func(from uint64) {
		t.Helper()
		first := max(from, 1)
		var exp []string
		if int(first) <= len(want) {
			exp = want[first-1:]
		}
		equal(t, read(t, l, from), exp)
	}
	for _, n := range []int{1, 2, 700, 5000} {
		for range n {
			block := make([]byte, rnd.IntN(40))
			for i := range block {
				block[i] = byte('a' + rnd.IntN(26))
			}
			last = mustAppend(t, l, string(block), rnd.IntN(2) == 0, last)
			want = append(want, fmt.Sprintf("%d:%s", last, block))
		}
		check(0)
		check(last)
		check(last + 1)
		check(1 + rnd.Uint64N(last))
	}
}

func TestScanStopsWithTheCallersError(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	for i := range uint64(5) {
		mustAppend(t, l, "x", false, i)
	}
	enough := errors.New("enough")
	n := 0
	err := l.Scan(testContext(t), 0, func(bus.Message) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 3 {
		t.Fatalf("got %v after %d blocks", err, n)
	}
}

func TestScanOfLargeBlocksComesInSeveralBatches(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	block := bytes.Repeat([]byte("y"), 500_000)
	const n = 50 // 25 MB, a batch is 8 MiB
	for i := range uint64(n) {
		mustAppend(t, l, string(block), false, i)
	}
	seen := 0
	err := l.Scan(testContext(t), 0, func(m bus.Message) error {
		seen++
		if m.Seq != uint64(seen) || !bytes.Equal(m.Data, block) {
			return fmt.Errorf("block %d is not what was appended as %d", m.Seq, seen)
		}
		return nil
	})
	if err != nil || seen != n {
		t.Fatalf("%d blocks, %v", seen, err)
	}
}

func TestScanNoticesThatTheLogWasTrimmedUnderIt(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	block := string(bytes.Repeat([]byte("y"), 500_000))
	for i := range uint64(50) {
		mustAppend(t, l, block, false, i)
	}
	err := l.Scan(testContext(t), 0, func(m bus.Message) error {
		if m.Seq == 2 { // the first batch is under way, the second is not
			return l.Trim(testContext(t), 45)
		}
		return nil
	})
	if !errors.Is(err, bus.ErrTrimmed) {
		t.Fatalf("got %v, want ErrTrimmed", err)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	cfg := bus.EmbeddedConfig{Dir: t.TempDir(), SyncAlways: true}
	e := bustest.Embedded(t, cfg)
	c := bustest.Connect(t, e)
	bustest.Create(t, c, bus.LogConfig{Partitions: 2, Replicas: 1, MaxBytes: 1 << 20})
	l := bustest.OpenLog(t, c, 1)
	mustAppend(t, l, "a", false, 0)
	mustAppend(t, l, "b", true, 1)
	f, err := l.Follow(testContext(t), "history", bus.FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range fetch(t, f, 1) {
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Until(t, "floor 1", func() bool { floor, _, _ := f.Floor(testContext(t)); return floor == 1 })
	c.Close()
	start := time.Now()
	e.Shutdown()
	stopped := time.Since(start)

	start = time.Now()
	e = bustest.Embedded(t, cfg)
	defer e.Shutdown()
	if started := time.Since(start); started > time.Second || stopped > time.Second {
		t.Errorf("stopped in %v, started in %v, want less than 1 s", stopped, started)
	}
	c = bustest.Connect(t, e)
	if n, err := bus.Partitions(testContext(t), c); err != nil || n != 2 {
		t.Fatalf("%d partitions, %v", n, err)
	}
	l = bustest.OpenLog(t, c, 1)
	equal(t, read(t, l, 0), []string{"1:a", "2:b"})
	mustAppend(t, l, "c", false, 2)
	f, err = l.Follow(testContext(t), "history", bus.FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, f, 2); got[0].Seq != 2 || got[1].Seq != 3 {
		t.Fatalf("history goes on at %d, %d, want 2, 3", got[0].Seq, got[1].Seq)
	}
}

func TestOpenLogRefusesAStreamThatIsNotTheClustersOwn(t *testing.T) {
	e := bustest.StartEmbedded(t)
	c := bustest.Connect(t, e)
	ctx := testContext(t)
	if _, err := bus.OpenLog(ctx, c, 0); !errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("before creation: got %v, want ErrNotCreated", err)
	}
	bustest.Create(t, c, bus.LogConfig{Partitions: 2, Replicas: 1, MaxBytes: 1 << 20})
	l := bustest.OpenLog(t, c, 0)
	mustAppend(t, l, "a", false, 0)
	if err := l.Witness(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenLog(ctx, c, 2); err == nil {
		t.Fatal("opened partition 2 of 2")
	}

	raw := rawJetStream(t, e)
	stream := protocol.StreamLog(0)
	info, err := raw.StreamInfo(stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.DeleteStream(stream); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenLog(ctx, c, 0); !errors.Is(err, bus.ErrIncarnation) {
		t.Fatalf("deleted: got %v, want ErrIncarnation", err)
	}
	// What a server that lost its disk does: the same stream, metadata included, with nothing in it.
	if _, err := raw.AddStream(&info.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenLog(ctx, c, 0); !errors.Is(err, bus.ErrIncarnation) {
		t.Fatalf("empty: got %v, want ErrIncarnation", err)
	}
	if _, err := l.Append(ctx, []byte("b"), false, 1); !errors.Is(err, bus.ErrMoved) {
		t.Fatalf("owner of the lost log: got %v, want ErrMoved", err)
	}
	if err := raw.DeleteStream(stream); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.AddStream(&nats.StreamConfig{Name: stream, Subjects: []string{"log.0.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.State(ctx); !errors.Is(err, bus.ErrIncarnation) {
		t.Fatalf("made by hand: got %v, want ErrIncarnation", err)
	}
	// Creating again is no cure: it leaves a cluster that was ready as it is.
	bustest.Create(t, c, bus.LogConfig{Partitions: 2, Replicas: 1, MaxBytes: 1 << 20})
	if _, err := bus.OpenLog(ctx, c, 0); !errors.Is(err, bus.ErrIncarnation) {
		t.Fatalf("created again: got %v, want ErrIncarnation", err)
	}
}

func TestCreateLogsIsDoneOnceAndFinishesWhatWasInterrupted(t *testing.T) {
	e := bustest.StartEmbedded(t)
	c := bustest.Connect(t, e)
	ctx := testContext(t)
	cfg := bus.LogConfig{Partitions: 3, Replicas: 1, MaxBytes: 1 << 20}
	if _, err := bus.Partitions(ctx, c); !errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("got %v, want ErrNotCreated", err)
	}
	// Somebody else's stream stands where the third belongs, so creation stops half-way.
	raw := rawJetStream(t, e)
	if _, err := raw.AddStream(&nats.StreamConfig{Name: protocol.StreamLog(2), Subjects: []string{"elsewhere"}}); err != nil {
		t.Fatal(err)
	}
	if err := bus.CreateLogs(ctx, c, cfg); !errors.Is(err, bus.ErrCreatedDifferently) {
		t.Fatalf("got %v, want ErrCreatedDifferently", err)
	}
	if _, err := bus.Partitions(ctx, c); !errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("half-way: got %v, want ErrNotCreated", err)
	}
	if _, err := bus.OpenLog(ctx, c, 0); !errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("half-way: got %v, want ErrNotCreated", err)
	}
	other := cfg
	other.Partitions = 4
	if err := bus.CreateLogs(ctx, c, other); !errors.Is(err, bus.ErrCreatedDifferently) {
		t.Fatalf("half-way with another number: got %v, want ErrCreatedDifferently", err)
	}
	if err := raw.DeleteStream(protocol.StreamLog(2)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		bustest.Create(t, c, cfg)
		if n, err := bus.Partitions(ctx, c); err != nil || n != 3 {
			t.Fatalf("%d partitions, %v", n, err)
		}
	}
	if err := bus.CreateLogs(ctx, c, other); !errors.Is(err, bus.ErrCreatedDifferently) {
		t.Fatalf("got %v, want ErrCreatedDifferently", err)
	}
}

func TestFactsAreWrittenOnce(t *testing.T) {
	c := bustest.Connect(t, bustest.StartEmbedded(t))
	ctx := testContext(t)
	if _, err := c.GetFact(ctx, "colour"); !errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("got %v, want ErrNotCreated", err)
	}
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: 1 << 20})
	if _, err := c.GetFact(ctx, "colour"); !errors.Is(err, bus.ErrNoFact) {
		t.Fatalf("got %v, want ErrNoFact", err)
	}
	for _, colour := range []string{"red", "green"} {
		if got, err := c.PutFactOnce(ctx, "colour", []byte(colour)); err != nil || string(got) != "red" {
			t.Fatalf("put %s: got %s, %v, want red", colour, got, err)
		}
	}
}

// rawJetStream is a way around the package, for what an operator or an accident does.
func rawJetStream(t testing.TB, e *bus.Embedded) nats.JetStreamContext {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(e.Server()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	return js
}
