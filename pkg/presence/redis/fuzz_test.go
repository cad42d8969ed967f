package redis

import (
	"fmt"
	"testing"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// Whatever stands in Redis is an entry that this program could have written, or none.
func FuzzUnpack(f *testing.F) {
	f.Add("7|2|3|1|comet-1")
	f.Add("1|2|-3|1|node")
	f.Add("||||")
	f.Add(fmt.Sprint(5) + packTail(&presence.Entry{Epoch: 1<<64 - 1, Conn: 9, Codec: link.CodecJSON, Node: "n"}))
	f.Fuzz(func(t *testing.T, text string) {
		e, ok := unpack("phone", text)
		if !ok {
			return
		}
		if again, ok := unpack("phone", fmt.Sprint(e.Generation)+packTail(&e)); !ok || again != e {
			t.Errorf("%q is %+v, and written again %+v", text, e, again)
		}
	})
}
