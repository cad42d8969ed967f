package protocol_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

func logRecord(r *rand.Rand) *logv1.Record {
	some := func() uint64 {
		if r.IntN(3) == 0 {
			return 0
		}
		return r.Uint64() >> r.IntN(64)
	}
	bodies := []struct {
		kind uint32
		body protocol.Message
	}{
		{protocol.TypeMessage, text("hello")},
		{protocol.TypeCreated, &recordv1.Created{Name: "Team"}},
		{protocol.TypeMembers, &recordv1.Members{}},
		{protocol.TypeStanding, &recordv1.Standing{Conversation: "g:x", Seq: some(), Member: true, JoinedSeq: 3}},
		{0, nil},
	}
	pick := bodies[r.IntN(len(bodies))]
	out := &logv1.Record{
		App: "main", Conversation: "g:x", Seq: some(), Count: some(), Id: some(), Sender: "alice", Device: "phone", ClientId: "c",
		TimeUs: int64(some()), Target: some(), Type: pick.kind, Active: []string{"alice"},
	}
	for range r.IntN(3) {
		out.Joined = append(out.Joined, "bob")
		out.Left = append(out.Left, "carol")
	}
	if pick.body != nil {
		out.Body, _ = pick.body.MarshalVT()
	}
	return out
}

func TestSplicedAndDecodedRecordsAreTheSame(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		in := logRecord(r)
		spliced := protocol.AppendClientRecord([]byte("before"), in)
		if !bytes.HasPrefix(spliced, []byte("before")) {
			t.Fatal("did not append")
		}
		spliced = spliced[len("before"):]
		decoded, err := protocol.ClientRecord(in)
		if err != nil {
			t.Fatal(err)
		}
		var fromWire recordv1.Record
		if err := fromWire.UnmarshalVT(spliced); err != nil {
			t.Fatalf("%v: %v", in, err)
		}
		if !proto.Equal(decoded, &fromWire) {
			t.Fatalf("decoded %v, spliced %v", decoded, &fromWire)
		}
		marshalled, err := decoded.MarshalVT()
		if err != nil || !bytes.Equal(marshalled, spliced) {
			t.Fatalf("marshalled %x, spliced %x (%v)", marshalled, spliced, err)
		}
		if bytes.Contains(spliced, []byte("phone")) {
			t.Fatal("the sender's device is shown to others")
		}
	}
}

func TestTypesAreFieldNumbersOfTheRecord(t *testing.T) {
	fields := (&recordv1.Record{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	known := map[int32]bool{protocol.TypeMessage: true, protocol.TypeCreated: true, protocol.TypeMembers: true, protocol.TypeStanding: true}
	for i := range fields.Len() {
		if !known[int32(fields.Get(i).Number())] {
			t.Errorf("%s has no constant and ClientRecord does not decode it", fields.Get(i).FullName())
		}
	}
	if fields.Len() != len(known) {
		t.Errorf("%d types, %d constants", fields.Len(), len(known))
	}
}

func TestATypeFromTheFutureKeepsItsPlace(t *testing.T) {
	in := &logv1.Record{Seq: 4, Type: 99, Body: []byte{1, 2, 3}}
	decoded, err := protocol.ClientRecord(in)
	if err != nil || decoded.Seq != 4 || decoded.Body != nil {
		t.Fatalf("%v, %v", decoded, err)
	}
	var fromWire recordv1.Record
	if err := fromWire.UnmarshalVT(protocol.AppendClientRecord(nil, in)); err != nil || fromWire.Seq != 4 {
		t.Fatalf("%v, %v", &fromWire, err)
	}
}

func TestABodyThatDoesNotParseIsAnErrorNotAnEmptyRecord(t *testing.T) {
	if r, err := protocol.ClientRecord(&logv1.Record{Seq: 4, Type: protocol.TypeMessage, Body: []byte{0xff}}); err == nil {
		t.Errorf("decoded %v", r)
	}
}

func TestAppendClientRecordAllocatesNothing(t *testing.T) {
	body, _ := text("hello").MarshalVT()
	in := &logv1.Record{Seq: 4, Count: 3, Id: 1 << 60, Sender: "alice", ClientId: "c", TimeUs: 1 << 50, Type: protocol.TypeMessage, Body: body}
	dst := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { protocol.AppendClientRecord(dst, in) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
