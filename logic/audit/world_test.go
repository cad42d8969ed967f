package audit_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/halley-im/halley/logic/audit"
	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

const partitions = 2

// world is what an audit finds: logs and a store, made from a seed and true to all promises until a test breaks one.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	blocks [partitions][]*logv1.Block // of each log, from block 1 on
	bytes  map[[2]uint64][]byte       // blocks that a test wrote byte by byte, by partition and number
	first  [partitions]uint64         // what was trimmed is below
	floor  [partitions]uint64
	stored map[store.Conversation]map[uint64]*logv1.Record
	// during, if set, is called once, when the store is read for the first time: what happens then, happens in the middle of an audit.
	during func()
	// broken is what the first log answers in place of being read.
	broken error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 0)), bytes: map[[2]uint64][]byte{}, stored: map[store.Conversation]map[uint64]*logv1.Record{}}
	for p := range partitions {
		w.write(p, 1)
		w.floor[p] = uint64(len(w.blocks[p]))
		w.first[p] = 1
	}
	for p := range partitions {
		for _, b := range w.blocks[p] {
			w.store(b.Records...)
		}
	}
	return w
}

// conversations are some of the partition's own.
func conversations(p int) []string {
	var out []string
	for i := 0; len(out) < 5; i++ {
		if c := fmt.Sprintf("g:c%d", i); protocol.Partition("main", c, partitions) == p {
			out = append(out, c)
		}
	}
	return out
}

// write goes on with the log: three reigns of some blocks each.
func (w *world) write(p int, epoch uint64) {
	names := conversations(p)
	heads := map[string]*logv1.Record{}
	timeUs := int64(1_800_000_000_000_000)
	for _, b := range w.blocks[p] {
		timeUs = b.TimeUs
		for _, r := range b.Records {
			heads[r.Conversation] = r
		}
	}
	for reign := range uint64(3) {
		timeUs += 1 + w.rand.Int64N(1000)
		owner := fmt.Sprintf("node-%d", epoch+reign)
		w.blocks[p] = append(w.blocks[p], &logv1.Block{Kind: logv1.Kind_KIND_FENCE, Epoch: epoch + reign, Owner: owner, TimeUs: timeUs})
		for range 4 + w.rand.IntN(4) {
			b := &logv1.Block{Kind: logv1.Kind_KIND_DATA, Epoch: epoch + reign, Owner: owner}
			for range 3 + w.rand.IntN(5) {
				timeUs += 1 + w.rand.Int64N(1000)
				name := names[w.rand.IntN(len(names))]
				r := &logv1.Record{
					App: "main", Conversation: name, Seq: 1, Sender: "alice", Device: "phone", ClientId: fmt.Sprint("c", timeUs),
					TimeUs: timeUs, Id: ids.MessageID(timeUs, p), Type: protocol.TypeMembers, Body: []byte{byte(w.rand.Uint32())},
				}
				if head := heads[name]; head != nil {
					r.Seq, r.Count = head.Seq+1, head.Count
				}
				if w.rand.IntN(3) > 0 {
					r.Type = protocol.TypeMessage
					r.Count++
				}
				heads[name] = r
				b.Records = append(b.Records, r)
			}
			b.TimeUs = timeUs
			w.blocks[p] = append(w.blocks[p], b)
		}
	}
}

func (w *world) store(records ...*logv1.Record) {
	for _, r := range records {
		key := store.Conversation{App: r.App, ID: r.Conversation}
		if w.stored[key] == nil {
			w.stored[key] = map[uint64]*logv1.Record{}
		}
		w.stored[key][r.Seq] = r
	}
}

// clone is r, to be changed without changing what the store has.
func clone(r *logv1.Record) *logv1.Record { return proto.Clone(r).(*logv1.Record) }

// pick is a record of the log that has one before and one behind it in its conversation, and its block's number.
func (w *world) pick(p int) (uint64, int, *logv1.Record) {
	last := map[string]uint64{}
	for _, b := range w.blocks[p] {
		for _, r := range b.Records {
			last[r.Conversation] = r.Seq
		}
	}
	for {
		n := w.rand.IntN(len(w.blocks[p]))
		if records := w.blocks[p][n].Records; len(records) > 0 {
			i := w.rand.IntN(len(records))
			if r := records[i]; r.Seq > 1 && r.Seq < last[r.Conversation] {
				return uint64(n + 1), i, r
			}
		}
	}
}

// change puts a changed copy in the record's place in the log.
func (w *world) change(p int, block uint64, i int, fn func(*logv1.Record)) {
	r := clone(w.blocks[p][block-1].Records[i])
	fn(r)
	w.blocks[p][block-1].Records[i] = r
}

// log is a partition's log as an audit reads it.
type log struct {
	*world
	p int
}

func (l log) Floor(context.Context) (uint64, error) { return l.floor[l.p], nil }

func (l log) Scan(_ context.Context, from uint64, fn func(uint64, []byte) error) error {
	if l.broken != nil && l.p == 0 {
		return l.broken
	}
	var crc uint32
	for i, b := range l.blocks[l.p] {
		n := uint64(i + 1)
		if b.PrevCrc == 0 {
			b.PrevCrc = crc
		}
		data, own, err := logblock.AppendTo(nil, b)
		if err != nil {
			return err
		}
		crc = own
		if raw, ok := l.bytes[[2]uint64{uint64(l.p), n}]; ok {
			data = raw
		}
		if n < max(from, l.first[l.p]) {
			continue
		}
		if err := fn(n, slices.Clone(data)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) meanwhile() {
	if fn := w.during; fn != nil {
		w.during = nil
		fn()
	}
}

func (w *world) Range(_ context.Context, c store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error) {
	var out []*logv1.Record
	for _, seq := range slices.Sorted(maps.Keys(w.stored[c])) {
		if seq >= from && seq <= to && len(out) < limit {
			out = append(out, w.stored[c][seq])
		}
	}
	return out, nil
}

func (w *world) Head(_ context.Context, c store.Conversation) (*logv1.Record, error) {
	w.meanwhile()
	if len(w.stored[c]) == 0 {
		return nil, nil
	}
	return w.stored[c][slices.Max(slices.Collect(maps.Keys(w.stored[c])))], nil
}

// walker is the store where it can name all that it holds.
type walker struct{ *world }

func (w walker) WalkRecords(_ context.Context, wanted func(store.Conversation) bool, fn func(store.Conversation, uint64, *logv1.Record) error) error {
	w.meanwhile()
	keys := slices.SortedFunc(maps.Keys(w.stored), func(a, b store.Conversation) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range keys {
		if !wanted(c) {
			continue
		}
		for _, seq := range slices.Sorted(maps.Keys(w.stored[c])) {
			if err := fn(c, seq, w.stored[c][seq]); err != nil {
				return err
			}
		}
	}
	return nil
}

// audit runs one with or without a store that can name what it holds.
func (w *world) audit(walks bool) *audit.Report {
	w.t.Helper()
	var events []audit.Event
	deps := audit.Deps{
		Open: func(_ context.Context, p int) (audit.Log, error) { return log{w, p}, nil }, Store: w,
		Emit: func(e audit.Event) error { events = append(events, e); return nil },
	}
	cfg := audit.Default(partitions)
	if walks {
		deps.Walker = walker{w}
	}
	report, err := audit.New(cfg, deps).Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if last := events[len(events)-1]; last.Report != report {
		w.t.Errorf("the last event is %+v, not the report", last)
	}
	return report
}

func protocolPartition(r *logv1.Record) int {
	return protocol.Partition(r.App, r.Conversation, partitions)
}

// firstOf is a conversation of the first log.
func firstOf(w *world) string {
	for _, b := range w.blocks[0] {
		if len(b.Records) > 0 {
			return b.Records[0].Conversation
		}
	}
	panic("an empty log")
}
