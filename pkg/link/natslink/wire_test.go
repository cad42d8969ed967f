package natslink

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// What is written by hand must be what the generated code reads, and the reverse.
func TestWireIsTheProtocol(t *testing.T) {
	frame := []byte("shared")
	var e encoder
	var data []byte
	ds := []link.Delivery{
		{Conn: 1, Frame: frame}, {Conn: 2, Frame: frame},
		{Conn: 3, Frame: frame, Generation: 9}, {Conn: 4, Frame: []byte("shared")}, {Conn: 5, Close: protocol.CloseKicked},
	}
	for rest := ds; len(rest) > 0; {
		var err error
		if data, rest, err = e.next(data, rest); err != nil {
			t.Fatal(err)
		}
	}
	data = appendHeader(data, "logic-1/x", 7, 3, 1<<40)
	var m linkv1.DeliveryBatch
	if err := m.UnmarshalVT(data); err != nil {
		t.Fatal(err)
	}
	if m.From != "logic-1/x" || m.Number != 7 || m.Partition != 3 || m.Epoch != 1<<40 || len(m.Deliveries) != 3 {
		t.Fatalf("generated code reads %+v", &m)
	}
	if d := m.Deliveries[0]; !cmp.Equal(d.Conns, []uint64{1, 2, 3}) || !cmp.Equal(d.Generations, []uint64{0, 0, 9}) {
		t.Fatalf("one frame for three connections travels as %+v", d)
	}
	again, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var b batch
	if err := b.decode(again); err != nil {
		t.Fatal(err)
	}
	same := cmp.Transformer("frame", func(b []byte) string { return string(b) })
	if diff := cmp.Diff(ds, b.Deliveries, same); diff != "" || b.from != m.From || b.number != 7 || b.Partition != 3 || b.Epoch != 1<<40 {
		t.Fatalf("read back %+v, deliveries (-want +got):\n%s", &b, diff)
	}
	users := link.Users{}
	users.Add("app", "alice")
	users.Add("app", "bob")
	var told linkv1.DeliveryBatch
	if err := told.UnmarshalVT(appendUsers(appendControl(nil, "l/y", 8, 0, false, false), users)); err != nil || told.Last != 8 || len(told.Users) != 2 {
		t.Fatalf("users: %+v, %v", &told, err)
	}
	if again, err = told.MarshalVT(); err != nil {
		t.Fatal(err)
	}
	if err := b.decode(again); err != nil || b.last != 8 || !cmp.Equal(b.users, users) || b.closes() {
		t.Fatalf("read back %+v, %v", &b, err)
	}
	var c linkv1.DeliveryBatch
	if err := c.UnmarshalVT(appendControl(nil, "l/y", 8, 6, true, true)); err != nil || c.Number != 0 || c.From != "l/y" ||
		c.Last != 8 || c.SkipTo != 6 || !c.Lost || !c.Closing {
		t.Fatalf("control message: %+v, %v", &c, err)
	}
}

// A node of a version that says nothing of epochs has heard of none.
func TestARequestWithoutAnEpoch(t *testing.T) {
	data, err := (&linkv1.RequestBatch{Requests: []*linkv1.Request{{Node: "c", Epoch: 1 << 40}, {Node: "c"}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	if err := eachRequest(data, func(r link.Request) { got = append(got, r.Epoch) }); err != nil || !slices.Equal(got, []uint64{1 << 40, 0}) {
		t.Fatalf("%v, %v", got, err)
	}
	var scratch linkv1.Request
	one, err := appendRequest(nil, &link.Request{Epoch: 1 << 40, Body: []byte("b")}, &scratch)
	if err != nil {
		t.Fatal(err)
	}
	if one, err = appendRequest(one, &link.Request{Body: []byte("b")}, &scratch); err != nil {
		t.Fatal(err)
	}
	var m linkv1.RequestBatch
	if err := m.UnmarshalVT(one); err != nil || len(m.Requests) != 2 || m.Requests[0].Epoch != 1<<40 || m.Requests[1].Epoch != 0 {
		t.Fatalf("generated code reads %v, %v", &m, err)
	}
}

// A batch with more connections than fit beside one frame is split, and none is left out.
func TestManyConnectionsOneFrame(t *testing.T) {
	ds := make([]link.Delivery, 2*maxShared+5)
	for i := range ds {
		ds[i] = link.Delivery{Conn: uint64(i), Frame: []byte("x")[:1:1]}
		ds[i].Frame = ds[0].Frame
	}
	var e encoder
	var data []byte
	parts := 0
	for rest := ds; len(rest) > 0; parts++ {
		data, rest, _ = e.next(data, rest)
	}
	var b batch
	if err := b.decode(data); err != nil || len(b.Deliveries) != len(ds) || parts != 3 {
		t.Fatalf("%d deliveries in %d parts, %v", len(b.Deliveries), parts, err)
	}
	for i, d := range b.Deliveries {
		if d.Conn != uint64(i) {
			t.Fatalf("delivery %d is for connection %d", i, d.Conn)
		}
	}
}

// Bytes from elsewhere are refused or read; they never panic and never make more of themselves than there is.
func FuzzDecode(f *testing.F) {
	var e encoder
	data, _, _ := e.next(nil, []link.Delivery{{Conn: 1, Frame: []byte("f"), Generation: 2}})
	f.Add(appendHeader(data, "a/b", 1, 2, 3))
	f.Add([]byte{0x2a, 0x02, 0x0a, 0x07})
	f.Fuzz(func(t *testing.T, data []byte) {
		var b batch
		if err := b.decode(data); err == nil && len(b.Deliveries) > len(data) {
			t.Errorf("%d deliveries from %d bytes", len(b.Deliveries), len(data))
		}
		_ = eachRequest(data, func(link.Request) {})
	})
}

// What is remembered is exactly what was asked and not answered, refused or forgotten, and never more than the limit.
func TestUnansweredIsWhatWasNotAnswered(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const limit = 100
	u := newUnanswered(limit)
	open := map[question]uint64{} // token of the batch
	var order []uint64            // tokens, oldest first
	forget := func(token uint64) {
		for q, of := range open {
			if of == token {
				delete(open, q)
			}
		}
		order = slices.DeleteFunc(order, func(other uint64) bool { return other == token })
	}
	check := func(b *requests) {
		var want, got int
		for _, of := range open {
			if of == b.token {
				want++
			}
		}
		for _, a := range b.asked {
			if q := (question{a.conn, a.requestID}); a.requestID != 0 {
				if got++; open[q] != b.token {
					t.Fatalf("batch %d holds request %v of batch %d", b.token, q, open[q])
				}
			}
		}
		if got != want {
			t.Fatalf("batch %d holds %d open requests, want %d", b.token, got, want)
		}
		forget(b.token)
	}
	for i := range 20_000 {
		switch rnd.IntN(8) {
		case 0, 1, 2:
			b := &requests{partition: rnd.IntN(3), asked: make([]asked, 1+rnd.IntN(5))}
			token := u.last + 1
			for j := range b.asked { // few numbers, so that some are given twice, and 0
				b.asked[j].conn, b.asked[j].requestID = uint64(rnd.IntN(10)), uint64(rnd.IntN(30))
				if b.asked[j].requestID != 0 {
					open[question{b.asked[j].conn, b.asked[j].requestID}] = token
				}
			}
			if got := u.add(b); got != token {
				t.Fatalf("batch has token %d, want %d", got, token)
			}
			order = append(order, token)
			for len(open) > limit {
				forget(order[0])
			}
		case 3, 4, 5:
			var b link.Batch
			for q := range open {
				b.Deliveries = append(b.Deliveries, link.Delivery{Conn: q.conn, Answers: q.requestID}, link.Delivery{Conn: q.conn})
				delete(open, q)
				if rnd.IntN(3) == 0 {
					break
				}
			}
			u.answered(&b)
			u.answered(&b)
		case 6:
			if len(order) > 0 {
				token := order[rnd.IntN(len(order))]
				if b := u.remove(token); b != nil {
					check(b)
				}
				if u.remove(token) != nil {
					t.Fatalf("token %d was refused twice", token)
				}
			}
		case 7:
			if rnd.IntN(20) == 0 {
				for _, b := range u.of(1) {
					check(b)
				}
			}
		}
		if len(u.open) != len(open) {
			t.Fatalf("step %d: %d requests are open, want %d", i, len(u.open), len(open))
		}
		if len(u.batches) > len(u.open)+1 {
			t.Fatalf("step %d: %d batches for %d open requests", i, len(u.batches), len(u.open))
		}
	}
	if u.remove(1<<60) != nil || u.remove(0) != nil {
		t.Fatal("tokens that are not there were found")
	}
}

func TestNamesThatAreNoTokens(t *testing.T) {
	for _, id := range []string{"", "a.b", "*", ">", "a b", "a/b"} {
		if _, err := NewNode(nil, id, 1, Default(), NodeDeps{}); err == nil {
			t.Errorf("node %q was accepted", id)
		}
		if _, err := NewOwner(nil, id, Default(), OwnerDeps{}); err == nil {
			t.Errorf("process %q was accepted", id)
		}
	}
}

func TestConfig(t *testing.T) {
	cfg := Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	for i, spoil := range []func(*Config){
		func(c *Config) { c.RingBytes = 0 },
		func(c *Config) { c.SilenceMs = c.HeartbeatMs },
		func(c *Config) { c.ForgetMs = c.SilenceMs },
	} {
		c := Default()
		if spoil(&c); c.Validate() == nil {
			t.Errorf("case %d: accepted", i)
		}
	}
}

func frames(n int) []link.Delivery {
	ds := make([]link.Delivery, n)
	for i := range ds {
		ds[i] = link.Delivery{Conn: uint64(i), Generation: uint64(i), Frame: fmt.Appendf(nil, "%0300d", i)}
	}
	return ds
}
