package natslink

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/link/linktest"
	"github.com/halley-im/halley/protocol"
)

// took is what a node's sessions got.
type took struct{ batches chan link.Batch }

func (n *took) Deliver(b *link.Batch) {
	n.batches <- link.Batch{Partition: b.Partition, Epoch: b.Epoch, Deliveries: append([]link.Delivery(nil), b.Deliveries...)}
}

func (n *took) Lost() { n.batches <- link.Batch{} }

// A comet tells another to close a session, and can tell it nothing else, whatever it sends and however it goes.
func TestACometClosesReplacedSessionsOfAnotherAndDoesNothingElse(t *testing.T) {
	server := bustest.StartEmbedded(t)
	conn := bustest.Connect(t, server)
	got := &took{batches: make(chan link.Batch, 64)}
	node := newNode(t, bustest.Connect(t, server), "c1", quick(), got)
	start(t, node.Run, node.Ready())
	peer, err := NewOwner(conn, "c2", quick(), OwnerDeps{
		Log: bustest.Log(t), Metrics: prometheus.NewRegistry(), EncodeError: linktest.EncodeError, Peer: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, peer.Run, peer.Ready())
	closing := link.Delivery{Conn: 7, Close: protocol.CloseReplaced, Generation: 3}
	for name, forged := range map[string]link.Batch{
		"a message":                  {Deliveries: []link.Delivery{{Conn: 7, Frame: []byte("hello"), Generation: 3}}},
		"a message with the close":   {Deliveries: []link.Delivery{{Conn: 7, Frame: []byte("hello"), Close: protocol.CloseReplaced, Generation: 3}}},
		"a message behind the close": {Deliveries: []link.Delivery{closing, {Conn: 8, Frame: []byte("hello")}}},
		"a room":                     {Deliveries: []link.Delivery{{Room: &link.Room{App: "main", Conversation: "g:1", Op: link.RoomJoin, Seq: 1, Users: []string{"eve"}}}}},
		"an answer":                  {Deliveries: []link.Delivery{{Conn: 7, Answers: 9, Close: protocol.CloseReplaced, Generation: 3}}},
		"a kick":                     {Deliveries: []link.Delivery{{Conn: 7, Close: protocol.CloseKicked, Generation: 3}}},
		"a close of any generation":  {Deliveries: []link.Delivery{{Conn: 7, Close: protocol.CloseReplaced}}},
		"a later epoch":              {Epoch: 1 << 60, Deliveries: []link.Delivery{closing}},
	} {
		t.Run(name, func(t *testing.T) {
			var e encoder
			data, rest, err := e.next(nil, forged.Deliveries)
			for err == nil && len(rest) > 0 {
				data, rest, err = e.next(data, rest)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := counter(t, node.n.forged)
			if err := conn.Publish(protocol.SubjectPeer("c1"), "", appendHeader(data, newFrom("c3"), 1, forged.Partition, forged.Epoch)); err != nil {
				t.Fatal(err)
			}
			bustest.Until(t, "it is counted", func() bool { return counter(t, node.n.forged) == before+1 })
		})
	}
	// The word that a partition has a new owner, and a number that never comes.
	if err := conn.Publish(protocol.SubjectPeer("c1"), "", appendTaken(nil, 1)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish(protocol.SubjectPeer("c1"), "", appendControl(nil, newFrom("c4"), 100, 99, true, true)); err != nil {
		t.Fatal(err)
	}
	peer.Send("c1", &link.Batch{Deliveries: []link.Delivery{closing}})
	if b := <-got.batches; len(b.Deliveries) != 1 || b.Deliveries[0].Conn != 7 || b.Deliveries[0].Close != protocol.CloseReplaced || b.Deliveries[0].Generation != 3 {
		t.Fatalf("the session is not closed; the first that arrives is %v", b)
	}
	stop() // With a goodbye: the node is no richer of a resync.
	if err := conn.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-got.batches:
		t.Fatalf("%v comes behind it", b)
	default:
	}
}

func counter(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(err, families)
	}
	return families[0].Metric[0].GetCounter().GetValue()
}
