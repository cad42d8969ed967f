//go:build !race

// The race detector allocates on its own account.

package natslink

import (
	"testing"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/link"
)

// What a request and a delivery cost on their way between the tiers: nothing to write them, one piece of memory to read a request,
// which an owner keeps, and few bytes beside what they carry.
func TestARequestCostsOneAllocation(t *testing.T) {
	q := link.Request{
		Node: "comet-1-0a1b2c3d", Conn: 7, App: "main", User: "alice", Device: "phone", Codec: link.CodecProto, RequestID: 12, Epoch: 1000,
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, Conversation: "d:alice:bob",
		ClientID: "0199c5e2-7a00-7000-8000-000000000000", Since: 1000, Body: make([]byte, 100),
	}
	const batch = 64
	var scratch linkv1.Request
	data := make([]byte, 0, batch*512)
	encode := func() {
		data = data[:0]
		for range batch {
			var err error
			if data, err = appendRequest(data, &q, &scratch); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(50, encode); n > 0 {
		t.Errorf("%v allocations to write %d requests, want none", n, batch)
	}
	carried := len(q.Node) + len(q.App) + len(q.User) + len(q.Device) + len(q.Conversation) + len(q.ClientID) + len(q.Body)
	if n := len(data)/batch - carried; n > 48 {
		t.Errorf("a request takes %d bytes beside what it carries, at most 48", n)
	}
	got := 0
	n := testing.AllocsPerRun(50, func() {
		if err := eachRequest(data, func(link.Request) { got++ }); err != nil {
			t.Fatal(err)
		}
	})
	if got != 51*batch || n > batch+4 {
		t.Errorf("%d requests read, with %v allocations for %d of them; want one for each and 4 for the batch", got, n, batch)
	}
}

func TestADeliveryCostsNoAllocation(t *testing.T) {
	ds := frames(64)
	var e encoder
	data := make([]byte, 0, 64*512)
	encode := func() {
		data = data[:0]
		for rest := ds; len(rest) > 0; {
			var err error
			if data, rest, err = e.next(data, rest); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(50, encode); n > 0 {
		t.Errorf("%v allocations to write 64 deliveries, want none", n)
	}
	carried := 0
	for i := range ds {
		carried += len(ds[i].Frame)
	}
	if n := (len(data) - carried) / 64; n > 32 {
		t.Errorf("a delivery takes %d bytes beside its frame, at most 32", n)
	}
	var b batch
	n := testing.AllocsPerRun(50, func() {
		if err := b.decode(data); err != nil || len(b.Deliveries) != 64 {
			t.Fatalf("%d deliveries, %v", len(b.Deliveries), err)
		}
	})
	if n > mostDeliveryAllocs*64 {
		t.Errorf("%v allocations to read 64 deliveries", n)
	}
}

// mostDeliveryAllocs per delivery that is read.
const mostDeliveryAllocs = 0.1
