//go:build integration

package cassandra

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// BenchmarkOnARealNode: one operation is one append of records that nobody wrote before, with bodies of 100 bytes.
func BenchmarkOnARealNode(b *testing.B) {
	cfg := testConfig(b)
	dropAfter(b, cfg)
	if err := Migrate(b.Context(), cfg, quiet()); err != nil {
		b.Fatal(err)
	}
	s := mustOpen(b, cfg)
	b.Cleanup(func() { _ = s.Close() })
	for _, shape := range []struct{ callers, conversations, records int }{
		{1, 1, 1}, {8, 1, 1}, {1, 1, 100}, {8, 1, 100}, {1, 7, 100}, {1, 700, 1}, {8, 700, 1},
	} {
		b.Run(fmt.Sprintf("callers=%d/conversations=%d/records=%d", shape.callers, shape.conversations, shape.records), func(b *testing.B) {
			var left atomic.Int64
			left.Store(int64(b.N))
			var callers sync.WaitGroup
			for range shape.callers {
				callers.Go(func() {
					for from := rand.Uint64N(1 << 40); left.Add(-1) >= 0; from += uint64(shape.records) {
						if err := s.Append(b.Context(), block(shape.conversations, shape.records, from)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			callers.Wait()
			b.ReportMetric(float64(b.N*shape.conversations*shape.records)/b.Elapsed().Seconds(), "rows/s")
		})
	}
	b.Run("users' logs that begin", func(b *testing.B) { beginLogs(b, s) })
	b.Run("newest 50", func(b *testing.B) {
		c := store.Conversation{App: "bench", ID: "read"}
		rs := block(1, 5000, 1)
		for _, r := range rs {
			r.Conversation = c.ID
		}
		if err := s.Append(b.Context(), rs); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if got, err := s.Range(b.Context(), c, 1, store.MaxSeq, 50, true); err != nil || len(got) != 50 {
				b.Fatal(len(got), err)
			}
		}
	})
}

// beginLogs has users join a group who had no log: one operation is the look for it, its first record, and its row of the user's list.
func beginLogs(b *testing.B, s *Store) {
	const at = 500 // Users in one request to an owner, and in one write of history.
	run := rand.Uint64N(1 << 40)
	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for first := 0; first < b.N; first += at {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			var records []*logv1.Record
			var standings []store.UserStanding
			for i := first; i < min(first+at, b.N); i++ {
				user := fmt.Sprintf("user-%d-%d", run, i)
				if got, err := s.Range(b.Context(), store.Conversation{App: "bench", ID: "u:" + user}, 1, store.MaxSeq, 1, true); err != nil || len(got) > 0 {
					b.Error(got, err)
				}
				records = append(records, &logv1.Record{
					App: "bench", Conversation: "u:" + user, Seq: 1, Count: 0, Id: uint64(i) << 20, Sender: user, ClientId: fmt.Sprintf("s-%d-%d", run, i),
					TimeUs: int64(i + 1), Type: 16, Joined: []string{user}, Body: []byte(strings.Repeat("x", 40)),
				})
				standings = append(standings, store.UserStanding{
					User: user, MinuteUs: 60_000_000, Standing: store.Standing{Conversation: "g:group", Seq: uint64(i + 1), Member: true, JoinedSeq: uint64(i + 1), Large: true},
				})
			}
			if err := s.Append(b.Context(), records); err != nil {
				b.Error(err)
			}
			if err := s.PutStandings(b.Context(), "bench", standings); err != nil {
				b.Error(err)
			}
		})
	}
	wait.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "users/s")
}

func block(conversations, records int, from uint64) []*logv1.Record {
	var out []*logv1.Record
	for i := range conversations {
		for j := range records {
			seq := from + uint64(j)
			out = append(out, &logv1.Record{
				// The seqs of callers lie far apart: in buckets of their own, and below 4,096 as most 1:1 conversations are.
				App: "bench", Conversation: fmt.Sprintf("d:%d:%d", i, from>>bucketShift), Seq: 1 + seq&(1<<bucketShift-2), Count: seq, Id: seq << 20,
				Sender: "user-1", Device: "phone", ClientId: fmt.Sprintf("c%d", seq), TimeUs: int64(seq + 1), Type: 16,
				Body: []byte(strings.Repeat("x", 100)),
			})
		}
	}
	return out
}
