package store_test

import (
	"errors"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

func TestIntervalsFromEvents(t *testing.T) {
	for _, tc := range []struct {
		story         string
		joins, leaves []uint64
		want          []store.Interval
	}{
		{"never a member", nil, nil, nil},
		{"still a member", []uint64{3}, nil, []store.Interval{{From: 3}}},
		{"came, left and came again", []uint64{3, 20}, []uint64{9}, []store.Interval{{From: 3, To: 9}, {From: 20}}},
		{"joined and left by one record", []uint64{5}, []uint64{5}, []store.Interval{{From: 5, To: 5}}},
		{"left and came back by the next record", []uint64{1, 6}, []uint64{5}, []store.Interval{{From: 1, To: 5}, {From: 6}}},
		{"a join inside an interval says nothing", []uint64{3, 5}, []uint64{9}, []store.Interval{{From: 3, To: 9}}},
		{"a leave outside of one says nothing", []uint64{10}, []uint64{4, 12, 14}, []store.Interval{{From: 10, To: 12}}},
		{"only a leave is known so far", nil, []uint64{4}, nil},
	} {
		t.Run(tc.story, func(t *testing.T) {
			seed := rand.Int63()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewSource(seed))
			for range 20 {
				// The order in which events were found and their repetitions must not matter.
				joins := append(slices.Clone(tc.joins), tc.joins...)
				leaves := append(slices.Clone(tc.leaves), tc.leaves...)
				rng.Shuffle(len(joins), func(i, j int) { joins[i], joins[j] = joins[j], joins[i] })
				rng.Shuffle(len(leaves), func(i, j int) { leaves[i], leaves[j] = leaves[j], leaves[i] })
				if diff := cmp.Diff(tc.want, store.Intervals(joins, leaves)); diff != "" {
					t.Fatalf("intervals (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestWhatNoBackendHoldsIsInvalid(t *testing.T) {
	long := strings.Repeat("x", store.MaxName+1)
	good := func() *logv1.Record { return &logv1.Record{App: "a", Conversation: "g:x", Seq: 1} }
	if err := store.CheckRecord(good()); err != nil {
		t.Fatalf("a good record is refused: %v", err)
	}
	for name, spoil := range map[string]func(*logv1.Record){
		"no app":            func(r *logv1.Record) { r.App = "" },
		"no conversation":   func(r *logv1.Record) { r.Conversation = "" },
		"long app":          func(r *logv1.Record) { r.App = long },
		"seq 0":             func(r *logv1.Record) { r.Seq = 0 },
		"seq beyond bigint": func(r *logv1.Record) { r.Seq = store.MaxSeq + 1 },
		"time before 1970":  func(r *logv1.Record) { r.TimeUs = -1 },
		"nameless joins":    func(r *logv1.Record) { r.Joined = []string{"bob", ""} },
		"long name leaves":  func(r *logv1.Record) { r.Left = []string{long} },
	} {
		r := good()
		spoil(r)
		if err := store.CheckRecord(r); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if err := store.CheckRecord(nil); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("nil record: %v, want ErrInvalid", err)
	}
	for name, err := range map[string]error{
		"cursor without user":     store.Cursor{Seq: 1}.Check(),
		"cursor beyond bigint":    store.Cursor{User: "a", Seq: store.MaxSeq + 1}.Check(),
		"standing in no place":    store.Standing{Seq: 1}.Check(),
		"standing beyond bigint":  store.Standing{Conversation: "g:x", LeftSeq: store.MaxSeq + 1}.Check(),
		"touch at the epoch":      store.Touch{User: "a", Conversation: "g:x"}.Check(),
		"touch of nobody":         store.Touch{Conversation: "g:x", MinuteUs: 60e6}.Check(),
		"touch of nothing":        store.Touch{User: "a", MinuteUs: 60e6}.Check(),
		"conversation without id": store.Conversation{App: "a"}.Check(),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}
