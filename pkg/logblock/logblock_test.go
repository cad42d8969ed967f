package logblock

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

func TestABlockComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := &logv1.Block{
			Kind: logv1.Kind_KIND_DATA, Epoch: rapid.Uint64().Draw(t, "epoch"), Owner: rapid.String().Draw(t, "owner"),
			Nonce: rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "nonce"), PrevCrc: rapid.Uint32().Draw(t, "prev"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "records") {
			in.Records = append(in.Records, &logv1.Record{
				App: "main", Conversation: rapid.String().Draw(t, "conversation"), Seq: rapid.Uint64().Draw(t, "seq"),
				Body: rapid.SliceOf(rapid.Byte()).Draw(t, "body"), Joined: rapid.SliceOf(rapid.String()).Draw(t, "joined"),
			})
		}
		data, crc, err := AppendTo([]byte("before"), in)
		if err != nil {
			t.Fatal(err)
		}
		data = data[len("before"):]
		if stored, err := CRC(data); err != nil || stored != crc {
			t.Fatalf("CRC = %08x, %v; AppendTo said %08x", stored, err, crc)
		}
		var out logv1.Block
		if err := Decode(data, &out); err != nil {
			t.Fatal(err)
		}
		if !in.ProtoReflect().IsValid() || in.String() != out.String() {
			t.Fatalf("got %v, want %v", &out, in)
		}
	})
}

func TestEveryFlippedBitIsCorrupt(t *testing.T) {
	data, err := Encode(&logv1.Block{Kind: logv1.Kind_KIND_FENCE, Epoch: 7, Owner: "n1", Nonce: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(data) * 8 {
		bad := append([]byte(nil), data...)
		bad[bit/8] ^= 1 << (bit % 8)
		if err := Decode(bad, &logv1.Block{}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d flipped: %v, want ErrCorrupt", bit, err)
		}
	}
	if err := Decode(data[:3], &logv1.Block{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("3 bytes: %v, want ErrCorrupt", err)
	}
}
