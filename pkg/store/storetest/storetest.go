// Package storetest is the suite that every store backend passes: the contract of package store as stories, and a random walk
// against a model. It knows no backend.
package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// patience bounds one story; a backend on a crowded machine is slow, one that hangs must fail.
const patience = 3 * time.Minute

type story struct {
	name string
	tell func(t *testing.T, s store.Store)
}

// Run tells all stories. open returns a working store, closed by Run; each story uses apps of its own, so the store may
// hold what others left.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for _, group := range [][]story{recordStories, memberStories, userStories, boundaryStories, {{"a random walk agrees with the model", randomWalk}}} {
		for _, st := range group {
			t.Run(st.name, func(t *testing.T) { st.tell(t, s) })
		}
	}
	t.Run("a closed store says so", func(t *testing.T) { closedStoreSaysSo(t, open(t)) })
}

// begin gives a story its context, an app that nobody else uses and its source of chance.
func begin(t *testing.T) (context.Context, string, *rand.Rand) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	seed := rand.Uint64()
	if v := os.Getenv("TEST_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("again with TEST_SEED=%d", seed)
	// The app is not part of the seed: a second run on the same store must not meet the rows of the first.
	return ctx, fmt.Sprintf("t%x", rand.Uint64()), rand.New(rand.NewPCG(seed, 0))
}

// record makes a message with all that a record can carry; equal arguments make equal records.
func record(c store.Conversation, seq uint64) *logv1.Record {
	return &logv1.Record{
		App: c.App, Conversation: c.ID, Seq: seq, Count: seq - seq/3, Id: seq<<20 | 7,
		Sender: "alice", Device: "phone-1", ClientId: fmt.Sprintf("client-%d", seq),
		TimeUs: 1_700_000_000_000_000 + int64(seq%1_000_000_000_000), Target: seq / 2, Type: 16,
		Body: fmt.Appendf(nil, "body %d of %s", seq, c.ID),
	}
}

func records(c store.Conversation, seqs ...uint64) []*logv1.Record {
	out := make([]*logv1.Record, len(seqs))
	for i, seq := range seqs {
		out[i] = record(c, seq)
	}
	return out
}

// span is from … to, both included.
func span(from, to uint64) []uint64 {
	var out []uint64
	for seq := from; seq <= to; seq++ {
		out = append(out, seq)
	}
	return out
}

func mustAppend(t *testing.T, ctx context.Context, s store.Store, rs []*logv1.Record) {
	t.Helper()
	if err := s.Append(ctx, rs); err != nil {
		t.Fatalf("append %d records: %v", len(rs), err)
	}
}

func mustRange(t *testing.T, ctx context.Context, s store.Store, c store.Conversation, from, to uint64, limit int, newest bool) []*logv1.Record {
	t.Helper()
	got, err := s.Range(ctx, c, from, to, limit, newest)
	if err != nil {
		t.Fatalf("range %d to %d, limit %d, newest %v: %v", from, to, limit, newest, err)
	}
	return got
}

func seqsOf(rs []*logv1.Record) []uint64 {
	var out []uint64
	for _, r := range rs {
		out = append(out, r.Seq)
	}
	return out
}

// same fails the test where want and got differ, messages of Protobuf included.
func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}
