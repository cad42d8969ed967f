package natslink

import (
	"runtime"
	"sync/atomic"
	"testing"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"

	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

type counting struct{ n atomic.Int64 }

func (c *counting) Enqueue(link.Request) *protocol.Error { c.n.Add(1); return nil }
func (c *counting) Deliver(b *link.Batch)                { c.n.Add(int64(len(b.Deliveries))) }
func (c *counting) Lost()                                {}
func (c *counting) LostTo(link.Users)                    {}

// BenchmarkRoute is one request from Route to Enqueue, through the embedded server.
func BenchmarkRoute(b *testing.B) {
	server := bustest.StartEmbedded(b)
	o := newOwner(b, bustest.Connect(b, server), "logic-1", Default())
	start(b, o.Run, o.Ready())
	var in counting
	attach(b, o, 1, &in)
	n := newNode(b, bustest.Connect(b, server), "comet-1", Default(), &counting{})
	start(b, n.Run, n.Ready())
	q := link.Request{
		Conn: 7, App: "main", User: "alice", Device: "phone", Codec: link.CodecProto, RequestID: 12,
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, Conversation: "d:alice:bob",
		ClientID: "0199c5e2-7a00-7000-8000-000000000000", Body: make([]byte, 100),
	}
	b.ReportAllocs()
	for b.Loop() {
		for n.Route(1, q) != nil {
			runtime.Gosched()
		}
	}
	for in.n.Load() < int64(b.N) {
		runtime.Gosched()
	}
}

// BenchmarkSend is one delivery of 300 bytes from Send to Deliver, in batches of 8.
func BenchmarkSend(b *testing.B) {
	server := bustest.StartEmbedded(b)
	o := newOwner(b, bustest.Connect(b, server), "logic-1", Default())
	start(b, o.Run, o.Ready())
	var got counting
	n := newNode(b, bustest.Connect(b, server), "comet-1", Default(), &got)
	start(b, n.Run, n.Ready())
	batch := &link.Batch{Partition: 1, Epoch: 1, Deliveries: frames(8)}
	b.ReportAllocs()
	sent := int64(0)
	for b.Loop() {
		for pendingBytes(o) > 1<<20 || sent-got.n.Load() > 10_000 {
			runtime.Gosched()
		}
		o.Send("comet-1", batch)
		sent += 8
	}
	for got.n.Load() < sent {
		runtime.Gosched()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sent), "ns/delivery")
}

// The processor's share of a request, without the server between.
func BenchmarkEncodeDecodeRequest(b *testing.B) {
	n := newNode(b, bustest.Connect(b, bustest.StartEmbedded(b)), "comet-1", Default(), &counting{})
	var in counting
	q := link.Request{
		Conn: 7, App: "main", User: "alice", Device: "phone", Conversation: "d:alice:bob", Body: make([]byte, 100),
	}
	n.publish = func(_, _ string, data []byte) error {
		return eachRequest(data, func(r link.Request) { _ = in.Enqueue(r) })
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_ = n.Route(1, q)
		if i++; i%64 == 0 {
			n.flush(n.dirty.take(nil), nil)
		}
	}
}

// The same of a delivery, in batches of 8 with a frame each.
func BenchmarkEncodeDecodeDelivery(b *testing.B) {
	o := newOwner(b, bustest.Connect(b, bustest.StartEmbedded(b)), "logic-1", Default())
	n := newNode(b, o.conn, "comet-1", Default(), &counting{})
	o.publish = func(_, _ string, data []byte) error {
		n.links.onMessage(bus.Msg{Data: data})
		return nil
	}
	batch := &link.Batch{Partition: 1, Epoch: 1, Deliveries: frames(8)}
	b.ReportAllocs()
	for b.Loop() {
		o.Send("comet-1", batch)
		for _, l := range o.dirty.take(nil) {
			l.flush(o)
			l.told(&linkv1.LinkStatus{Have: l.number})
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/8, "ns/delivery")
}
