package pebble

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// blockOf makes n records of 1:1 conversations with bodies of 100 bytes, as a block of the log carries them.
func blockOf(n int) []*logv1.Record {
	out := make([]*logv1.Record, n)
	for i := range out {
		c := store.Conversation{App: "main", ID: fmt.Sprintf("d:user-%04d:user-%04d", i, i+1)}
		out[i] = message(c, 1)
		out[i].Body = out[i].Body[:100]
	}
	return out
}

// BenchmarkAppend writes new records each time; one operation is one append with its sync. "mem" leaves out the disk and
// shows what the processor does.
func BenchmarkAppend(b *testing.B) {
	for _, disk := range []string{"mem", "disk"} {
		for _, n := range []int{1, 10, 50, 100, 500, 700} {
			b.Run(fmt.Sprintf("%s/%d", disk, n), func(b *testing.B) {
				s := openBench(b, disk)
				rs := blockOf(n)
				b.ReportAllocs()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				cpu := cpuTime(b)
				b.ResetTimer()
				for b.Loop() {
					for _, r := range rs {
						r.Seq++
					}
					if err := s.Append(b.Context(), rs); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				runtime.ReadMemStats(&after)
				records := float64(b.N * n)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/records, "ns/record")
				b.ReportMetric(float64(cpuTime(b)-cpu)/records, "cpu-ns/record")
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/records, "allocs/record")
			})
		}
	}
}

// cpuTime is what the process has used so far, with flushes and compactions, which elapsed time hides on a second processor.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppendParallel shows how concurrent appends share syncs.
func BenchmarkAppendParallel(b *testing.B) {
	const n = 100
	s := openBench(b, "disk")
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		rs := blockOf(n)
		for pb.Next() {
			for _, r := range rs {
				r.Seq++
			}
			if err := s.Append(b.Context(), rs); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
}

func BenchmarkRead(b *testing.B) {
	s := openBench(b, "disk")
	c := store.Conversation{App: "main", ID: "g:busy"}
	for from := uint64(1); from <= 20_000; from += 500 {
		var rs []*logv1.Record
		for seq := from; seq < from+500; seq++ {
			rs = append(rs, message(c, seq))
		}
		if err := s.Append(b.Context(), rs); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("newest 50", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rs, err := s.Range(b.Context(), c, 1, store.MaxSeq, 50, true)
			if err != nil || len(rs) != 50 {
				b.Fatal(len(rs), err)
			}
		}
	})
	b.Run("head", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if head, err := s.Head(b.Context(), c); err != nil || head.Seq != 20_000 {
				b.Fatal(head, err)
			}
		}
	})
}

func openBench(b *testing.B, disk string) *Store {
	b.Helper()
	var fs vfs.FS = vfs.Default
	path := b.TempDir()
	if disk == "mem" {
		fs, path = vfs.NewMem(), dir
	}
	s, err := open(path, Default(), quiet(), fs, func(message string) { b.Error(message) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}
