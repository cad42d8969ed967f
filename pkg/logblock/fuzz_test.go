package logblock

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Bytes that are no block are refused as corrupt, with the right checksum as with a wrong one; a block that is read is written
// again as one that reads the same.
func FuzzDecode(f *testing.F) {
	data, err := Encode(&logv1.Block{
		Kind: logv1.Kind_KIND_DATA, Epoch: 7, Owner: "logic-1", Nonce: []byte("0123456789abcdef"), PrevCrc: 9,
		Records: []*logv1.Record{{App: "main", Conversation: "d:alice:bob", Seq: 1, Count: 1, Sender: "alice", ClientId: "c", Joined: []string{"alice", "bob"}, Body: []byte("x")}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		check(t, data)
		if len(data) >= headerLen { // What is behind the checksum meets the decoder too.
			data = append([]byte(nil), data...)
			binary.BigEndian.PutUint32(data, crc32.Checksum(data[headerLen:], castagnoli))
			check(t, data)
		}
	})
}

func check(t *testing.T, data []byte) {
	t.Helper()
	var b logv1.Block
	if err := Decode(append([]byte(nil), data...), &b); err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%x: %v is not ErrCorrupt", data, err)
		}
		return
	}
	again, err := Encode(&b)
	if err != nil {
		t.Fatalf("%x was read and cannot be written: %v", data, err)
	}
	var back logv1.Block
	if err := Decode(again, &back); err != nil || !proto.Equal(&b, &back) {
		t.Fatalf("%x reads as %v, and written again as %v (%v)", data, &b, &back, err)
	}
}
