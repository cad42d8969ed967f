package partition

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/logic/feature/all"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// hot is an owner in full reign whose log is a counter, so that what is measured is the owner alone: from a taken queue to the
// acks and the parcel for delivery.
func hot(t testing.TB, conversations int) (*owner, []link.Request) {
	t.Helper()
	features := all.Features(nil)
	handlers, err := all.Handlers(features)
	if err != nil {
		t.Fatal(err)
	}
	var sink discard
	p := New(0, 1, Default(), Deps{
		Node: "n", Log: &bus.Log{}, Presence: memory.New(time.Now), Sender: sink, Handlers: handlers, Features: features,
		Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	p.appendLog = func(_ context.Context, _ []byte, _ bool, last uint64) (uint64, error) { return last + 1, nil }
	o := p.Candidate().o
	o.reign = &reign{until: time.Now().Add(time.Hour)}
	o.epoch, o.delivered = 1, true
	requests := make([]link.Request, 1000)
	for i := range requests {
		id := protocol.Direct("alice", fmt.Sprint("u", i%conversations))
		requests[i] = send("alice", id, "", "", 0)
		requests[i].Node, requests[i].Conn, requests[i].RequestID = "comet", uint64(i%conversations)+1, 1
		requests[i].App, requests[i].Codec, requests[i].Body, requests[i].Epoch = "main", link.CodecProto, words(100), 1
		c := o.cells[key{"main", id}]
		if c == nil {
			c = o.newCell("main", id)
		}
		c.loaded = true
	}
	return o, requests
}

type discard struct{}

func (discard) Send(string, *link.Batch) {}
func (discard) Skip()                    {}
func (discard) SkipUsers(link.Users)     {}

// tally counts what it is sent.
type tally struct {
	discard
	deliveries int
}

func (c *tally) Send(_ string, b *link.Batch) { c.deliveries += len(b.Deliveries) }

// turn carries the requests out as one turn, as writes that were never seen before.
func turnOf(t testing.TB, o *owner, requests []link.Request, ids [][]string, round int) {
	for i := range requests {
		r := &requests[i]
		r.ClientID = ids[round%len(ids)][i]
		r.Since = o.cells[key{r.App, r.Conversation}].Head.Seq
	}
	if err := o.work(context.Background(), requests); err != nil {
		t.Fatal(err)
	}
	o.noteFloor(o.last) // History keeps up.
	for {
		select {
		case <-o.stage.parcels:
			continue
		default:
		}
		return
	}
}

// clientIDs are made beforehand; a window is shorter than the rounds in which they differ.
func clientIDs(n int) [][]string {
	out := make([][]string, 64)
	for round := range out {
		out[round] = make([]string, n)
		for i := range out[round] {
			out[round][i] = fmt.Sprintf("0190a5e2-7b1c-7def-8a90-%06d%06d", round, i)
		}
	}
	return out
}

func BenchmarkOwner(b *testing.B) {
	for _, conversations := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("conversations=%d", conversations), func(b *testing.B) {
			o, requests := hot(b, conversations)
			ids := clientIDs(len(requests))
			turnOf(b, o, requests, ids, 0)
			b.ReportAllocs()
			b.ResetTimer()
			for round := 1; b.Loop(); round++ {
				turnOf(b, o, requests, ids, round)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(requests)), "ns/message")
		})
	}
}

// mostAllocs per message: the draft and the record.
const mostAllocs = 2.1

func TestAMessageCostsTheOwnerFewAllocations(t *testing.T) {
	o, requests := hot(t, 100)
	ids := clientIDs(len(requests))
	round := 0
	turnOf(t, o, requests, ids, round)
	perTurn := testing.AllocsPerRun(20, func() {
		round++
		turnOf(t, o, requests, ids, round)
	})
	if got := perTurn / float64(len(requests)); got > mostAllocs {
		t.Errorf("%.1f allocations for each message, at most %v", got, mostAllocs)
	} else {
		t.Logf("%.1f allocations for each message", got)
	}
}

// delivering is a stage with what 1,000 messages in 1:1s give it; one user of each is connected, to the one node that there is.
func delivering(b testing.TB) (*stage, []parcel) {
	b.Helper()
	o, requests := hot(b, 500)
	start := time.Now()
	registry := memory.New(func() time.Time { return start })
	epoch, err := registry.Acquire(b.Context(), "comet")
	if err != nil {
		b.Fatal(err)
	}
	var regs []presence.Registration
	for i := range 500 {
		regs = append(regs, presence.Registration{
			User:  presence.User{App: "main", User: fmt.Sprint("u", i)},
			Entry: presence.Entry{Device: "phone", Node: "comet", Epoch: epoch, Conn: uint64(i) + 10_001, Codec: link.CodecProto},
		})
	}
	if err := registry.Register(b.Context(), regs); err != nil {
		b.Fatal(err)
	}
	o.stage.presence = registry
	ids := clientIDs(len(requests))
	for i := range requests {
		requests[i].ClientID = ids[0][i]
	}
	if err := o.work(context.Background(), requests); err != nil {
		b.Fatal(err)
	}
	var p []parcel
	for len(o.stage.parcels) > 0 {
		p = append(p, <-o.stage.parcels)
	}
	return o.stage, p
}

// BenchmarkDelivery is the stage behind the owner.
func BenchmarkDelivery(b *testing.B) {
	s, p := delivering(b)
	b.ReportAllocs()
	for b.Loop() {
		for i := range p {
			s.deliver(&p[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
}

// mostStageAllocs per message: what there is of them is for a whole block.
const mostStageAllocs = 0.05

func TestADeliveryCostsTheStageNoAllocation(t *testing.T) {
	s, p := delivering(t)
	var sent tally
	s.sender = &sent
	got := testing.AllocsPerRun(20, func() {
		for i := range p {
			s.deliver(&p[i])
		}
	}) / 1000
	if sent.deliveries != 21*1000 { // AllocsPerRun warms up with one more.
		t.Fatalf("%v deliveries in 21 rounds of 1,000 messages", sent.deliveries)
	}
	if got > mostStageAllocs {
		t.Errorf("%v allocations for each message, at most %v", got, mostStageAllocs)
	}
}

// What a message of 100 bytes takes on the wire beside its text: a name here is as long as those of real apps.
func TestAMessageIsSmallOnTheWire(t *testing.T) {
	const user, peer = "user-0000001234", "user-0000005678"
	r := send(user, protocol.Direct(user, peer), "0190a5e2-7b1c-7def-8a90-000000000001", "", 0)
	r.RequestID = 100_000
	rec := &logv1.Record{
		App: "main", Conversation: r.Conversation, Seq: 100_000, Count: 100_000, Id: 1 << 62, TimeUs: 1_800_000_000_000_000,
		Sender: user, Device: "phone", ClientId: r.ClientID, Type: 16, Body: words(100),
	}
	if n := len(appendAck(nil, &r, rec, false)); n > mostAck {
		t.Errorf("an ack takes %d bytes, at most %d", n, mostAck)
	}
	push, _ := appendPush(nil, nil, rec)
	if n := len(push) - 100; n > mostPush {
		t.Errorf("a push takes %d bytes beside its text, at most %d", n, mostPush)
	}
	block, _, err := logblock.AppendTo(nil, &logv1.Block{
		Kind: logv1.Kind_KIND_DATA, Epoch: 1000, Owner: "logic-1-0a1b2c3d", Nonce: make([]byte, 16), PrevCrc: 1 << 31, TimeUs: rec.TimeUs,
		Records: []*logv1.Record{rec},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := rec.SizeVT() - 100; n > mostRecord {
		t.Errorf("a record takes %d bytes of the log beside its text, at most %d", n, mostRecord)
	}
	if n := len(block) - rec.SizeVT(); n > mostBlock {
		t.Errorf("a block takes %d bytes beside its records, at most %d", n, mostBlock)
	}
}

const (
	mostAck    = 36
	mostPush   = 132
	mostRecord = 140
	mostBlock  = 64
)
