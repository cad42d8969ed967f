package traffic

import (
	"math"
	"testing"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/protocol"
)

func TestClientIDsNameTheirMessage(t *testing.T) {
	const run = "0badcafe"
	for _, sender := range []uint32{0, 1, 35, 36, 1 << 20, math.MaxUint32} {
		for _, counter := range []uint32{1, 35, 36, math.MaxUint32} {
			id := string(appendClientID(nil, run, sender, counter))
			if !protocol.ValidClientID(id) {
				t.Fatalf("%q is no client id", id)
			}
			if s, c, ok := parseClientID(id, run); !ok || s != sender || c != counter {
				t.Errorf("%q reads as %d, %d, %v", id, s, c, ok)
			}
		}
	}
	for _, id := range []string{"", "0badcafe", "0badcafe.", "0badcafe.1", "0badcafe.1.", "0badcafe..1", "0badcafe.1.0",
		"deadbeef.1.1", "0badcafe.1.1.1", "0badcafe.-1.1", "0badcafe.zzzzzzz.1", "0badcafe.zzzzzzzz.1", "older"} {
		if _, _, ok := parseClientID(id, run); ok {
			t.Errorf("%q was taken for an id of the run", id)
		}
	}
	if id := identify("0badcafe.5.1", run, 4, 2); id != oracle.MakeID(1, 1) {
		t.Errorf("identified as %d", id)
	}
	for _, stranger := range []string{"0badcafe.3.1", "0badcafe.6.1"} {
		if identify(stranger, run, 4, 2) != oracle.Foreign {
			t.Errorf("%s is of another conversation", stranger)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	id := sendRequest(math.MaxUint32, math.MaxUint16)
	if ask, counter, epoch := splitRequest(id); ask != askSend || counter != math.MaxUint32 || epoch != math.MaxUint16 {
		t.Errorf("%x reads as %d, %d, %d", id, ask, counter, epoch)
	}
}
