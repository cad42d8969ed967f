package natslink

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/link/linktest"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/protocol"
)

// took is what a node's sessions got.
type took struct{ batches chan link.Batch }

func (n *took) Deliver(b *link.Batch) {
	n.batches <- link.Batch{Partition: b.Partition, Epoch: b.Epoch, Deliveries: append([]link.Delivery(nil), b.Deliveries...)}
}

func (n *took) Lost() { n.batches <- link.Batch{} }

func (n *took) LostTo(link.Users) { n.batches <- link.Batch{} }

// next waits for what arrives.
func (n *took) next(t *testing.T) link.Batch {
	t.Helper()
	select {
	case b := <-n.batches:
		return b
	case <-time.After(bustest.Wait):
		t.Fatal("nothing arrives")
		return link.Batch{}
	}
}

// A comet tells another to close a session, and can tell it nothing else, whatever it sends and however it goes.
func TestACometClosesReplacedSessionsOfAnotherAndDoesNothingElse(t *testing.T) {
	server := bustest.StartEmbedded(t)
	conn := bustest.Connect(t, server)
	got := &took{batches: make(chan link.Batch, 64)}
	metrics, lines := prometheus.NewRegistry(), &observetest.Lines{}
	node, err := NewNode(bustest.Connect(t, server), "c1", linktest.Partitions, quick(), NodeDeps{
		Log: lines.Logger(), Metrics: metrics, Receiver: got, EncodeError: linktest.EncodeError,
	})
	if err != nil {
		t.Fatal(err)
	}
	forgeries := func() float64 { return observetest.Metric(t, metrics, "halley_link_forged_total") }
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
			before := forgeries()
			if err := conn.Publish(protocol.SubjectPeer("c1"), "", appendHeader(data, newFrom("c3"), 1, forged.Partition, forged.Epoch)); err != nil {
				t.Fatal(err)
			}
			bustest.Until(t, "it is counted", func() bool { return forgeries() == before+1 })
		})
	}
	// The word that a partition has a new owner, and a number that never comes.
	if err := conn.Publish(protocol.SubjectPeer("c1"), "", appendTaken(nil, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish(protocol.SubjectPeer("c1"), "", appendControl(nil, newFrom("c4"), 100, 99, true, true)); err != nil {
		t.Fatal(err)
	}
	peer.Send("c1", &link.Batch{Deliveries: []link.Delivery{closing}})
	if b := got.next(t); len(b.Deliveries) != 1 || b.Deliveries[0].Conn != 7 || b.Deliveries[0].Close != protocol.CloseReplaced || b.Deliveries[0].Generation != 3 {
		t.Fatalf("the session is not closed; the first that arrives is %v", b)
	}
	again := link.Delivery{Conn: 9, Close: protocol.CloseUnavailable, Generation: 4}
	peer.Send("c1", &link.Batch{Deliveries: []link.Delivery{again}})
	if b := got.next(t); len(b.Deliveries) != 1 || b.Deliveries[0].Conn != 9 || b.Deliveries[0].Close != protocol.CloseUnavailable {
		t.Fatalf("the session is not told to come again: %v", b)
	}
	if !lines.Have("level=ERROR", "a comet sends more than the close") {
		t.Error("the log does not say so")
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
