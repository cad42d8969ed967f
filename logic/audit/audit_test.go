package audit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/halley-im/halley/logic/audit"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// bothWays runs fn where the store can name all it holds, and where it cannot.
func bothWays(t *testing.T, fn func(t *testing.T, walks bool)) {
	for _, walks := range []bool{true, false} {
		t.Run(map[bool]string{true: "whole store", false: "conversations of the log"}[walks], func(t *testing.T) { fn(t, walks) })
	}
}

func clean(t *testing.T, r *audit.Report) {
	t.Helper()
	if r.Violations != 0 || len(r.Found) != 0 {
		t.Errorf("%d violations: %v", r.Violations, r.Found)
	}
}

func TestAWorldTrueToItsPromisesHasNoViolation(t *testing.T) {
	bothWays(t, func(t *testing.T, walks bool) {
		w := newWorld(t)
		r := w.audit(walks)
		clean(t, r)
		var blocks, records uint64
		for p := range partitions {
			for _, b := range w.blocks[p] {
				blocks++
				records += uint64(len(b.Records))
			}
		}
		if r.Blocks != blocks || r.Records != records || r.Conversations != uint64(len(w.stored)) || r.Partitions != partitions || r.Unstored != 0 {
			t.Errorf("%+v; want %d blocks, %d records, %d conversations", r, blocks, records, len(w.stored))
		}
		if want := fmt.Sprintf("violations=0 records=%d conversations=%d partitions=2", records, len(w.stored)); r.String() != want {
			t.Errorf("%s, want %s", r, want)
		}
	})
}

func TestATrimmedLogAndAStoreThatIsBehindAreNoViolation(t *testing.T) {
	bothWays(t, func(t *testing.T, walks bool) {
		w := newWorld(t)
		for p := range partitions {
			last := uint64(len(w.blocks[p]))
			w.floor[p] = 2 + w.rand.Uint64N(last-2)
			w.first[p] = 1 + w.rand.Uint64N(w.floor[p])
			for n, b := range w.blocks[p] {
				for _, r := range b.Records {
					if uint64(n+1) > w.floor[p] && w.rand.IntN(2) == 0 {
						delete(w.stored[store.Conversation{App: r.App, ID: r.Conversation}], r.Seq)
					}
				}
			}
		}
		clean(t, w.audit(walks))
	})
}

// A server that runs writes while it is audited: the store may have what the log did not have a moment ago.
func TestWhatIsWrittenMeanwhileIsNoViolation(t *testing.T) {
	bothWays(t, func(t *testing.T, walks bool) {
		w := newWorld(t)
		w.during = func() {
			for p := range partitions {
				before := len(w.blocks[p])
				w.write(p, 4)
				for _, b := range w.blocks[p][before:] {
					for _, r := range b.Records {
						if w.rand.IntN(2) == 0 { // Above the floor the store has records in any order.
							w.store(r)
						}
					}
				}
			}
		}
		clean(t, w.audit(walks))
	})
}

// plant breaks one promise in the first log or in the store and says what must be found; seq 0 is any.
type plant struct {
	name string
	do   func(w *world) audit.Violation
	// beside are kinds that follow from the same break.
	beside []audit.Kind
	// needsWalk: only a store that can name what it holds shows it.
	needsWalk bool
}

func at(kind audit.Kind, block uint64, r *logv1.Record) audit.Violation {
	return audit.Violation{Kind: kind, Block: block, Conversation: r.Conversation, Seq: r.Seq}
}

// ownedBy is where the block of another reign begins: the number of the last fence of the first log.
func lastFence(w *world) uint64 {
	for n := len(w.blocks[0]); ; n-- {
		if w.blocks[0][n-1].Kind == logv1.Kind_KIND_FENCE {
			return uint64(n)
		}
	}
}

var plants = []plant{
	{name: "a flipped bit", do: func(w *world) audit.Violation {
		n, _, _ := w.pick(0)
		data, err := logblock.Encode(w.blocks[0][n-1])
		if err != nil {
			w.t.Fatal(err)
		}
		data[w.rand.IntN(len(data))] ^= 1 << w.rand.IntN(8)
		w.bytes[[2]uint64{0, n}] = data
		return audit.Violation{Kind: audit.KindBlock, Block: n}
	}},
	{name: "a block that follows another", do: func(w *world) audit.Violation {
		n := uint64(2 + w.rand.IntN(len(w.blocks[0])-1))
		w.blocks[0][n-1].PrevCrc = 1 + w.rand.Uint32()>>1
		return audit.Violation{Kind: audit.KindBlock, Block: n}
	}},
	{name: "an owner that writes behind another's fence", do: func(w *world) audit.Violation {
		n := lastFence(w) + 1
		w.blocks[0][n-1].Epoch, w.blocks[0][n-1].Owner = 2, "node-2"
		return audit.Violation{Kind: audit.KindEpoch, Block: n}
	}},
	{name: "an owner that writes without a fence", do: func(w *world) audit.Violation {
		n := uint64(len(w.blocks[0]))
		w.blocks[0][n-1].Epoch = 9
		return audit.Violation{Kind: audit.KindEpoch, Block: n}
	}},
	{name: "two owners of one epoch", do: func(w *world) audit.Violation {
		n := uint64(len(w.blocks[0]))
		w.blocks[0][n-1].Owner = "node-1"
		return audit.Violation{Kind: audit.KindEpoch, Block: n}
	}},
	{name: "a fence of an epoch that was", do: func(w *world) audit.Violation {
		n := lastFence(w)
		w.blocks[0][n-1].Epoch = 2
		for _, b := range w.blocks[0][n:] {
			b.Epoch, b.Owner = 2, "node-2"
		}
		return audit.Violation{Kind: audit.KindEpoch, Block: n}
	}},
	{name: "a log that lacks a block", do: func(w *world) audit.Violation {
		w.broken = fmt.Errorf("block 5 is missing: %w", audit.ErrBroken)
		return audit.Violation{Kind: audit.KindLog}
	}},
	{name: "a seq given twice", do: func(w *world) audit.Violation {
		n, i, r := w.pick(0)
		w.change(0, n, i, func(r *logv1.Record) { r.Seq-- })
		out := at(audit.KindSeq, n, r)
		out.Seq--
		return out
	}, beside: []audit.Kind{audit.KindSeq, audit.KindDiffers, audit.KindCount, audit.KindMissing}},
	{name: "a seq left out", do: func(w *world) audit.Violation {
		n, i, r := w.pick(0)
		w.blocks[0][n-1].Records = slices.Delete(w.blocks[0][n-1].Records, i, i+1)
		delete(w.stored[store.Conversation{App: r.App, ID: r.Conversation}], r.Seq)
		return audit.Violation{Kind: audit.KindSeq, Conversation: r.Conversation, Seq: r.Seq + 1}
	}},
	{name: "a conversation that begins at 2", do: func(w *world) audit.Violation {
		for n, b := range w.blocks[0] {
			for i, r := range b.Records {
				if r.Seq == 1 {
					w.blocks[0][n].Records = slices.Delete(b.Records, i, i+1)
					return audit.Violation{Kind: audit.KindSeq, Conversation: r.Conversation, Seq: 2}
				}
			}
		}
		panic("no conversation begins")
	}},
	{name: "a count that jumps", do: func(w *world) audit.Violation {
		n, i, r := w.pick(0)
		w.change(0, n, i, func(r *logv1.Record) { r.Count += 2 })
		return at(audit.KindCount, n, r)
	}, beside: []audit.Kind{audit.KindDiffers, audit.KindCount}},
	{name: "an id that falls", do: func(w *world) audit.Violation {
		n, i, r := w.pick(0)
		w.change(0, n, i, func(r *logv1.Record) { r.Id = 1 })
		return at(audit.KindOrder, n, r)
	}, beside: []audit.Kind{audit.KindDiffers}},
	{name: "one id for two conversations", do: func(w *world) audit.Violation {
		for {
			n, i, r := w.pick(0)
			if i == 0 || w.blocks[0][n-1].Records[i-1].Conversation == r.Conversation {
				continue
			}
			w.change(0, n, i, func(r *logv1.Record) { r.Id = w.blocks[0][n-1].Records[i-1].Id })
			return at(audit.KindOrder, n, r)
		}
	}, beside: []audit.Kind{audit.KindDiffers}},
	{name: "a time that falls", do: func(w *world) audit.Violation {
		n, i, r := w.pick(0)
		w.change(0, n, i, func(r *logv1.Record) { r.TimeUs = 1 })
		return at(audit.KindOrder, n, r)
	}, beside: []audit.Kind{audit.KindDiffers}},
	{name: "a conversation in another's partition", do: func(w *world) audit.Violation {
		n, i, _ := w.pick(0)
		name := conversations(1)[0] + "x"
		for ; ; name += "x" {
			w.change(0, n, i, func(r *logv1.Record) { r.Conversation, r.Seq = name, 1 })
			if r := w.blocks[0][n-1].Records[i]; protocolPartition(r) != 0 {
				return at(audit.KindPlace, n, r)
			}
		}
	}, beside: []audit.Kind{audit.KindSeq, audit.KindCount, audit.KindMissing, audit.KindDiffers}},
	{name: "a client id with two seqs", do: func(w *world) audit.Violation {
		n, i, r := w.pick(0)
		for m, b := range w.blocks[0] {
			for j, other := range b.Records {
				if other.Conversation == r.Conversation && other.Seq == r.Seq+1 {
					w.change(0, uint64(m+1), j, func(o *logv1.Record) { o.ClientId = w.blocks[0][n-1].Records[i].ClientId })
					w.store(w.blocks[0][m].Records[j])
					return at(audit.KindClientID, uint64(m+1), other)
				}
			}
		}
		panic("no record follows")
	}},
	{name: "a record that the store lost", do: func(w *world) audit.Violation {
		n, _, r := w.pick(0)
		delete(w.stored[store.Conversation{App: r.App, ID: r.Conversation}], r.Seq)
		return at(audit.KindMissing, n, r)
	}},
	{name: "a record of the block at the floor that the store lost", do: func(w *world) audit.Violation {
		n := lastFence(w) + 1
		w.floor[0] = n
		r := w.blocks[0][n-1].Records[0]
		delete(w.stored[store.Conversation{App: r.App, ID: r.Conversation}], r.Seq)
		return at(audit.KindMissing, n, r)
	}},
	{name: "a record that the store has with another text", do: func(w *world) audit.Violation {
		n, _, r := w.pick(0)
		other := clone(r)
		other.Body = []byte("another")
		w.store(other)
		return at(audit.KindDiffers, n, r)
	}},
	{name: "a record that the log never had", do: func(w *world) audit.Violation {
		head, err := w.Head(context.Background(), store.Conversation{App: "main", ID: firstOf(w)})
		if err != nil {
			w.t.Fatal(err)
		}
		r := clone(head)
		r.Seq, r.Count, r.Id, r.TimeUs = r.Seq+1, r.Count+1, r.Id+1, r.TimeUs+1
		w.store(r)
		return at(audit.KindDiffers, 0, r)
	}, beside: []audit.Kind{audit.KindCount}},
	{name: "a conversation that the log never had", needsWalk: true, do: func(w *world) audit.Violation {
		for name := "g:unknown"; ; name += "x" {
			r := &logv1.Record{App: "main", Conversation: name, Seq: 1, Id: 1, TimeUs: 1, ClientId: "c"}
			if protocolPartition(r) == 0 {
				w.store(r)
				return at(audit.KindDiffers, 0, r)
			}
		}
	}},
	{name: "old history that the store lost", do: func(w *world) audit.Violation {
		w.first[0] = uint64(len(w.blocks[0]))
		for w.blocks[0][w.first[0]-1].Records[0].Seq < 2 { // A conversation with a past.
			w.first[0]--
			for len(w.blocks[0][w.first[0]-1].Records) == 0 {
				w.first[0]--
			}
		}
		r := w.blocks[0][w.first[0]-1].Records[0]
		delete(w.stored[store.Conversation{App: r.App, ID: r.Conversation}], r.Seq-1)
		return audit.Violation{Kind: audit.KindMissing, Conversation: r.Conversation, Seq: r.Seq - 1}
	}},
	{name: "a hole in a conversation that the log has no more", needsWalk: true, do: func(w *world) audit.Violation {
		for name := "g:old"; ; name += "x" {
			r := &logv1.Record{App: "main", Conversation: name, Seq: 1, Id: 1, TimeUs: 1, ClientId: "c"}
			if protocolPartition(r) != 0 {
				continue
			}
			later := clone(r)
			later.Seq = 3
			w.store(r, later)
			w.first[0] = 2
			return audit.Violation{Kind: audit.KindMissing, Conversation: name, Seq: 2}
		}
	}},
}

func TestEachBrokenPromiseIsFoundWhereItIs(t *testing.T) {
	for _, c := range plants {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, walks bool) {
				w := newWorld(t)
				want := c.do(w)
				r := w.audit(walks)
				if c.needsWalk && !walks {
					clean(t, r)
					return
				}
				found := false
				for _, v := range r.Found {
					if v.Partition != 0 {
						t.Errorf("in a log that nobody touched: %v", v)
					}
					if v.Kind == want.Kind && (want.Block == 0 || v.Block == want.Block) &&
						(want.Conversation == "" || v.Conversation == want.Conversation) && (want.Seq == 0 || v.Seq == want.Seq) {
						found = true
					} else if !slices.Contains(c.beside, v.Kind) && v.Kind != want.Kind {
						t.Errorf("not planted: %v", v)
					}
				}
				if !found {
					t.Errorf("want %v, found %v", want, r.Found)
				}
			})
		})
	}
}

// Who asks is told every record of the logs, where it stands and which write it is, also where a log is trimmed while it is read.
func TestEveryRecordOfTheLogsIsToldToWhoAsks(t *testing.T) {
	w := newWorld(t)
	want := map[audit.Record]bool{}
	for p := range partitions {
		for n, b := range w.blocks[p] {
			for _, r := range b.Records {
				want[audit.Record{
					Partition: p, Block: uint64(n + 1), App: r.App, Conversation: r.Conversation, Seq: r.Seq, Sender: r.Sender, Device: r.Device,
					ClientID: r.ClientId,
				}] = true
			}
		}
	}
	told := map[audit.Record]bool{}
	cfg := audit.Default(partitions)
	deps := audit.Deps{
		Open: func(_ context.Context, p int) (audit.Log, error) { return log{w, p}, nil }, Store: w,
		Emit: func(e audit.Event) error {
			if e.Record != nil {
				told[*e.Record] = true
			}
			return nil
		},
	}
	if _, err := audit.New(cfg, deps).Run(t.Context()); err != nil || len(told) > 0 {
		t.Fatalf("%v; %d records are told to one who did not ask", err, len(told))
	}
	cfg.Records = true
	if _, err := audit.New(cfg, deps).Run(t.Context()); err != nil || !maps.Equal(told, want) {
		t.Errorf("%v; %d records are told, of %d", err, len(told), len(want))
	}
	gone := errors.New("nobody listens")
	deps.Emit = func(audit.Event) error { return gone }
	if _, err := audit.New(cfg, deps).Run(t.Context()); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}
