package bus_test

import (
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

func benchLog(b *testing.B, sync bool) *bus.Log {
	b.Helper()
	e := bustest.Embedded(b, bus.EmbeddedConfig{Dir: b.TempDir(), SyncAlways: sync})
	b.Cleanup(e.Shutdown)
	c := bustest.Connect(b, e)
	bustest.Create(b, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: 8 << 30})
	return bustest.OpenLog(b, c, 0)
}

func benchAppend(b *testing.B, sync bool, size int) {
	l := benchLog(b, sync)
	block := make([]byte, size)
	ctx := testContext(b)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	last := uint64(0)
	for b.Loop() {
		seq, err := l.Append(ctx, block, false, last)
		if err != nil {
			b.Fatal(err)
		}
		last = seq
	}
}

func BenchmarkAppend1K(b *testing.B)           { benchAppend(b, false, 1<<10) }
func BenchmarkAppend64K(b *testing.B)          { benchAppend(b, false, 64<<10) }
func BenchmarkAppendSyncAlways1K(b *testing.B) { benchAppend(b, true, 1<<10) }
func BenchmarkAppendSyncAlways64K(b *testing.B) {
	benchAppend(b, true, 64<<10)
}

func benchScan(b *testing.B, size, n int) {
	l := benchLog(b, false)
	block := make([]byte, size)
	for i := range uint64(n) {
		mustAppend(b, l, string(block), false, i)
	}
	b.SetBytes(int64(size * n))
	b.ReportAllocs()
	for b.Loop() {
		seen := 0
		err := l.Scan(testContext(b), 0, func(bus.Message) error { seen++; return nil })
		if err != nil || seen != n {
			b.Fatal(seen, err)
		}
	}
}

func BenchmarkScan1K(b *testing.B)  { benchScan(b, 1<<10, 20_000) }
func BenchmarkScan16K(b *testing.B) { benchScan(b, 16<<10, 10_000) }

// What a follower costs per block: fetched in batches, acknowledged one by one.
func BenchmarkFollow1K(b *testing.B) {
	l := benchLog(b, false)
	block := make([]byte, 1<<10)
	f := follow(b, l, "history", bus.FollowOptions{MaxAckPending: 4096})
	const n = 5000
	last := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for range n {
			last = mustAppend(b, l, string(block), false, last)
		}
		b.StartTimer()
		for got := 0; got < n; {
			ds, err := f.Fetch(testContext(b), 512, 4<<20, time.Second)
			if err != nil {
				b.Fatal(err)
			}
			ack(b, ds...)
			got += len(ds)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/block")
}

// The hot path of the partition's owner: what an append allocates is gated, what it takes is only reported.
func TestAppendAllocatesLittle(t *testing.T) {
	l := bustest.OpenLog(t, bustest.Logs(t, 1), 0)
	ctx := testContext(t)
	block := make([]byte, 1<<10)
	last := uint64(0)
	// The server is in this process, so its allocations count too.
	if got := testing.AllocsPerRun(200, func() {
		seq, err := l.Append(ctx, block, false, last)
		if err != nil {
			t.Fatal(err)
		}
		last = seq
	}); got > 50 {
		t.Fatalf("%v allocations per append, client and server together, want at most 50", got)
	}
}
