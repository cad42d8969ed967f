package linktest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

func deliveryFields(t *testing.T, h Harness) {
	o := h.Owner(t, "logic-1")
	n := new(Node)
	h.Node(t, "comet-1", n)
	frame := []byte("hello")
	join := &link.Room{App: "main", Conversation: "g:y", Op: link.RoomJoin, Seq: 3}
	sent := []link.Delivery{
		{Conn: 1, Frame: frame},
		{Conn: 1<<63 + 1, Frame: frame},
		{Conn: 1, Frame: []byte("bye"), Close: protocol.CloseReplaced, Generation: 1<<63 + 9},
		{Conn: 2, Frame: []byte("bye"), Generation: 3, Answers: 1<<63 + 1},
		{Conn: 3, Close: protocol.CloseKicked},
		{Conn: 4, Frame: frame, Room: &link.Room{App: "main", Conversation: "g:x", Op: link.RoomExpand, Seq: 1 << 60, JSON: []byte("{}")}},
		{Room: &link.Room{App: "main", Conversation: "g:x", Op: link.RoomLeave, Seq: 7, Users: []string{"alice", "bob"}}},
		{Conn: 5, Generation: 2, Room: join},
		{Conn: 6, Generation: 3, Room: join},
		{Conn: 7, Room: &link.Room{App: "main", Conversation: "g:x", Op: link.RoomClose, Seq: 8}},
	}
	o.Send("comet-1", &link.Batch{Partition: 3, Epoch: 1 << 40, Deliveries: sent})
	Until(t, "all deliveries", func() bool { return len(n.Deliveries()) >= len(sent) })
	var want []Got
	for _, d := range sent {
		want = append(want, Got{d, 3, 1 << 40})
	}
	same := cmp.Transformer("frame", func(b []byte) string { return string(b) })
	if diff := cmp.Diff(want, n.Deliveries(), same); diff != "" {
		t.Fatalf("deliveries changed on the way (-sent +arrived):\n%s", diff)
	}
}

// deliveryOrder sends from one goroutine per partition, as owners do, out of one slice that each of them reuses.
func deliveryOrder(t *testing.T, h Harness) {
	const batches = 800
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	o := h.Owner(t, "logic-1")
	n := new(Node)
	h.Node(t, "comet-1", n)
	var wg sync.WaitGroup
	var total atomic.Int64
	for p := range Partitions {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(p)))
			var b link.Batch
			next := 0
			for i := range batches {
				b.Partition, b.Epoch, b.Deliveries = p, uint64(1+i/100), b.Deliveries[:0]
				for range 1 + rnd.IntN(4) {
					frame := fmt.Appendf(nil, "%d/%d", p, next)
					next++
					for range 1 + rnd.IntN(3) {
						b.Deliveries = append(b.Deliveries, link.Delivery{Conn: uint64(p), Frame: frame})
					}
				}
				total.Add(int64(len(b.Deliveries)))
				o.Send("comet-1", &b)
				clear(b.Deliveries)
			}
		})
	}
	wg.Wait()
	Until(t, "all deliveries", func() bool { return len(n.Deliveries()) >= int(total.Load()) })
	var at [Partitions]int
	var epochs [Partitions]uint64
	for _, d := range n.Deliveries() {
		var p, i int
		if _, err := fmt.Sscanf(string(d.Frame), "%d/%d", &p, &i); err != nil || p != d.Partition || d.Conn != uint64(p) {
			t.Fatalf("frame %q on partition %d, connection %d", d.Frame, d.Partition, d.Conn)
		}
		if i != at[p] && i != at[p]+1 {
			t.Fatalf("partition %d: frame %d follows %d", p, i, at[p])
		}
		if d.Epoch < epochs[p] {
			t.Fatalf("partition %d: epoch %d follows %d", p, d.Epoch, epochs[p])
		}
		at[p], epochs[p] = i, d.Epoch
	}
	if got := len(n.Deliveries()); got != int(total.Load()) {
		t.Fatalf("%d deliveries arrived, %d were sent", got, total.Load())
	}
}

func one(text string) *link.Batch {
	return &link.Batch{Partition: 0, Epoch: 1, Deliveries: []link.Delivery{{Conn: 1, Frame: []byte(text)}}}
}

func nodeGone(t *testing.T, h Harness) {
	o := h.Owner(t, "logic-1")
	gone, stays := new(Node), new(Node)
	_, leave := h.Node(t, "comet-gone", gone)
	h.Node(t, "comet-stays", stays)
	leave()
	before := time.Now()
	for range 100 {
		o.Send("comet-gone", one("lost"))
		o.Send("comet-never-seen", one("lost"))
		o.Send("comet-stays", one("kept"))
	}
	if d := time.Since(before); d > 5*time.Second {
		t.Fatalf("sending to a node that is gone took %v", d)
	}
	Until(t, "the other node's deliveries", func() bool { return len(stays.Deliveries()) == 100 })
	if got := len(gone.Deliveries()); got != 0 {
		t.Fatalf("%d deliveries reached a node that had left", got)
	}
}

// nodeBack restarts a node under its name: the late leave of the first must not disturb the second.
func nodeBack(t *testing.T, h Harness) {
	o := h.Owner(t, "logic-1")
	first, second := new(Node), new(Node)
	_, leave := h.Node(t, "comet-1", first)
	o.Send("comet-1", one("to the first"))
	Until(t, "the first node's delivery", func() bool { return len(first.Deliveries()) == 1 })
	leave()
	h.Node(t, "comet-1", second)
	leave()
	o.Send("comet-1", one("to the second"))
	Until(t, "the second node's delivery", func() bool {
		got := second.Deliveries()
		return len(got) > 0 && string(got[len(got)-1].Frame) == "to the second"
	})
	if got := len(first.Deliveries()); got != 1 {
		t.Fatalf("the first node got %d deliveries, want 1", got)
	}
}

// known is an owner and two nodes, of which it has sent something to the first.
func known(t *testing.T, h Harness) (Owner, []*Node) {
	o := h.Owner(t, "logic-1")
	nodes := []*Node{new(Node), new(Node)}
	h.Node(t, "comet-1", nodes[0])
	h.Node(t, "comet-2", nodes[1])
	o.Send("comet-1", one("before"))
	Until(t, "the delivery", func() bool { return len(nodes[0].Deliveries()) == 1 })
	return o, nodes
}

// skip reaches nodes that the owner has never sent anything to as well.
func skip(t *testing.T, h Harness) {
	o, nodes := known(t, h)
	for round := range 2 {
		o.Skip()
		Until(t, "both nodes' losses", func() bool { return nodes[0].Losses() > round && nodes[1].Losses() > round })
	}
}

// skipUsers reaches all nodes too, and concerns nobody but these.
func skipUsers(t *testing.T, h Harness) {
	o, nodes := known(t, h)
	for round := range 3 {
		users := link.Users{}
		users.Add("app", fmt.Sprint("user", round))
		users.Add("app", "alice")
		o.SkipUsers(users)
		for _, n := range nodes {
			Until(t, "word of the users", func() bool { return len(n.LossesTo()) > round })
			got := n.LossesTo()[round]
			if len(got) != 2 || !got.Has("app", "alice") || !got.Has("app", fmt.Sprint("user", round)) || got.Has("ap", "palice") {
				t.Fatalf("round %d: %v", round, got)
			}
			if n.Losses() != 0 {
				t.Fatalf("round %d: %d losses for all", round, n.Losses())
			}
		}
	}
}

// echo lets three nodes ask two owners at once; every request must be answered, once, at the connection that asked.
func echo(t *testing.T, h Harness) {
	const nodes, each = 3, 1500
	owners := []Owner{h.Owner(t, "logic-a"), h.Owner(t, "logic-b")}
	for p := range Partitions {
		o := owners[p%2]
		o.Attach(p, &Inbox{then: func(q link.Request) {
			o.Send(q.Node, &link.Batch{Partition: p, Epoch: 1, Deliveries: []link.Delivery{{Conn: q.Conn, Frame: q.Body}}})
		}})
	}
	var wg sync.WaitGroup
	var got [nodes]*Node
	for i := range got {
		got[i] = new(Node)
		name := fmt.Sprint("comet-", i)
		r, _ := h.Node(t, name, got[i])
		for half := range 2 {
			wg.Go(func() {
				for id := half; id < each; id += 2 {
					route(t, r, id%Partitions, request(name, uint64(id), uint64(id)))
				}
			})
		}
	}
	wg.Wait()
	for i, n := range got {
		Until(t, "all answers", func() bool { return len(n.Deliveries()) >= each })
		seen := map[uint64]bool{}
		for _, d := range n.Deliveries() {
			if seen[d.Conn] {
				t.Fatalf("node %d: connection %d was answered twice", i, d.Conn)
			}
			seen[d.Conn] = true
			if want := fmt.Sprintf("body %d", d.Conn); string(d.Frame) != want {
				t.Fatalf("node %d: connection %d was answered %q", i, d.Conn, d.Frame)
			}
		}
		if len(seen) != each || n.Losses() != 0 {
			t.Fatalf("node %d: %d answers of %d, %d losses", i, len(seen), each, n.Losses())
		}
	}
}
