package tcp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/protocol"
)

// FuzzFramer: however a stream is cut, the frames are those of the whole, up to the first that is too large.
func FuzzFramer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 2, 'b', 'c'}, uint64(1))
	f.Add([]byte{0xFF, 0, 0, 0}, uint64(2))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		const limit = 1000
		r := rand.New(rand.NewPCG(seed, 0))
		var want [][]byte
		fail := false
		for rest := stream; len(rest) >= 4; {
			n := binary.BigEndian.Uint32(rest)
			if fail = n > limit; fail || len(rest) < 4+int(n) {
				break
			}
			want = append(want, rest[4:4+n])
			rest = rest[4+n:]
		}
		p, s, need := New(limit), new(transport.State), 0
		var got [][]byte
		var buffered []byte
		var result transport.Result
		for rest := bytes.Clone(stream); len(rest) > 0 && result.Fail == 0; {
			n := 1 + r.IntN(len(rest))
			buffered, rest = append(buffered, rest[:n]...), rest[n:]
			for len(buffered) >= need && result.Fail == 0 {
				result = p.Next(s, buffered, nil)
				if result.Event == transport.EventFrame {
					got = append(got, bytes.Clone(result.Frame))
				}
				buffered, need = buffered[result.Taken:], result.Need
			}
		}
		if fail != (result.Fail == protocol.CloseTooLarge) || len(got) != len(want) {
			t.Fatalf("%x: got %d frames, fail %d; want %d, fail %v", stream, len(got), result.Fail, len(want), fail)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("frame %d is %x, want %x", i, got[i], want[i])
			}
		}
	})
}
