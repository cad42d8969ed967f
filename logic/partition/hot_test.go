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
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/protocol"
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

// mostAllocs per message: five to decode it and make a draft, one for the record and one for its place in the block.
const mostAllocs = 7.1

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

// BenchmarkDelivery is the stage behind the owner: both users of each 1:1 are connected to one node.
func BenchmarkDelivery(b *testing.B) {
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
			Entry: presence.Entry{Device: "phone", Node: "comet", Epoch: epoch, Conn: uint64(i) + 1, Codec: link.CodecProto},
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
	b.ReportAllocs()
	for b.Loop() {
		for i := range p {
			o.stage.deliver(&p[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(requests)), "ns/message")
}
