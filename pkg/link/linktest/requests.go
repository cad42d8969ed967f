package linktest

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

func request(node string, conn, id uint64) link.Request {
	return link.Request{
		Node: node, Conn: conn, App: "main", User: "alice", Device: "phone", Codec: link.CodecProto,
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestID: id, Conversation: "d:alice:bob",
		ClientID: fmt.Sprint("c", id), Body: fmt.Appendf(nil, "body %d", id),
	}
}

// route repeats a request until the link takes it; a link between owners answers retry, a full one busy.
func route(t *testing.T, r link.Router, partition int, q link.Request) {
	t.Helper()
	for end := time.Now().Add(Patience); ; runtime.Gosched() {
		err := r.Route(partition, q)
		if err == nil {
			return
		}
		if !err.Code.Retryable() || time.Now().After(end) {
			t.Errorf("Route(%d) = %v", partition, err)
			return
		}
	}
}

func requestFields(t *testing.T, h Harness) {
	in := new(Inbox)
	h.Owner(t, "logic-1").Attach(1, in)
	r, _ := h.Node(t, "comet-1", new(Node))
	if got := r.Partitions(); got != Partitions {
		t.Fatalf("Partitions() = %d, want %d", got, Partitions)
	}
	want := []link.Request{
		{
			Node: "comet-1", Conn: 1<<63 + 7, App: "acme", User: "bob@example.org", Device: "tablet", Codec: link.CodecJSON,
			Server: true, Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, RequestID: 1<<64 - 1,
			Conversation: "g:team", ClientID: "0199", After: "0198", Since: 41, Epoch: 1<<64 - 1, Body: []byte{0, 255, 10},
		},
		request("comet-1", 2, 9),
		{Node: "comet-1", Conn: 3, Codec: link.CodecProto, Body: []byte{}},
	}
	for _, q := range want {
		route(t, r, 1, q)
	}
	Until(t, "all requests at the owner", func() bool { return len(in.Requests()) == len(want) })
	same := cmp.Transformer("body", func(b []byte) string { return string(b) })
	if diff := cmp.Diff(want, in.Requests(), same); diff != "" {
		t.Fatalf("requests changed on the way (-sent +arrived):\n%s", diff)
	}
}

func requestOrder(t *testing.T, h Harness) {
	const callers, each = 6, 2000
	var inboxes [Partitions]*Inbox
	o := h.Owner(t, "logic-1")
	for p := range inboxes {
		inboxes[p] = new(Inbox)
		o.Attach(p, inboxes[p])
	}
	r, _ := h.Node(t, "comet-1", new(Node))
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				route(t, r, (c+i)%Partitions, request("comet-1", uint64(c), uint64(i)))
			}
		})
	}
	wg.Wait()
	Until(t, "all requests", func() bool {
		n := 0
		for _, in := range inboxes {
			n += len(in.Requests())
		}
		return n >= callers*each
	})
	for p, in := range inboxes {
		var next [callers]uint64
		for c := range next {
			next[c] = uint64((p - c + callers*Partitions) % Partitions)
		}
		for _, q := range in.Requests() {
			if q.RequestID != next[q.Conn] {
				t.Fatalf("partition %d, caller %d: request %d came, want %d", p, q.Conn, q.RequestID, next[q.Conn])
			}
			if want := fmt.Sprintf("body %d", q.RequestID); string(q.Body) != want {
				t.Fatalf("request %d carries %q", q.RequestID, q.Body)
			}
			next[q.Conn] += Partitions
		}
	}
}

func fullInbox(t *testing.T, h Harness) {
	in := &Inbox{refuse: protocol.Errorf(protocol.CodeBusy, "full")}
	h.Owner(t, "logic-1").Attach(0, in)
	n := new(Node)
	r, _ := h.Node(t, "comet-1", n)
	if got := Answer(t, r, n, 0, request("comet-1", 5, 77)); got != protocol.CodeBusy {
		t.Fatalf("a full inbox answers %q, want busy", got)
	}
}

func noOwner(t *testing.T, h Harness) {
	h.Owner(t, "logic-1").Attach(0, new(Inbox))
	n := new(Node)
	r, _ := h.Node(t, "comet-1", n)
	if got := Answer(t, r, n, 3, request("comet-1", 5, 78)); got != protocol.CodeRetry {
		t.Fatalf("a partition without owner answers %q, want retry", got)
	}
}

// ownerMoves hands partition 2 from a to b, and then lets a detach late: b must not notice.
func ownerMoves(t *testing.T, h Harness) {
	a, b := h.Owner(t, "logic-a"), h.Owner(t, "logic-b")
	inA, inB := new(Inbox), new(Inbox)
	n := new(Node)
	r, _ := h.Node(t, "comet-1", n)
	detachA := a.Attach(2, inA)
	route(t, r, 2, request("comet-1", 1, 1))
	Until(t, "request 1 at a", func() bool { return len(inA.Requests()) == 1 })
	detachA()
	if got := Answer(t, r, n, 2, request("comet-1", 1, 2)); got != protocol.CodeRetry {
		t.Fatalf("between two owners: %q, want retry", got)
	}
	detachB := b.Attach(2, inB)
	detachA()
	id := uint64(3)
	Until(t, "a request at b", func() bool {
		_ = r.Route(2, request("comet-1", 1, id))
		id++
		return len(inB.Requests()) > 0
	})
	if got := len(inA.Requests()); got != 1 {
		t.Fatalf("a got %d requests, want 1: it had detached", got)
	}
	b.Send("comet-1", &link.Batch{Partition: 2, Epoch: 2, Deliveries: []link.Delivery{{Conn: 1, Frame: []byte("new epoch")}}})
	Until(t, "the new owner's delivery", func() bool {
		for _, d := range n.Deliveries() {
			if string(d.Frame) == "new epoch" {
				return d.Epoch == 2 && d.Partition == 2
			}
		}
		return false
	})
	detachB()
}
