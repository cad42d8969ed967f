package protocol_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func TestEveryCloseCodeSaysWhatToDo(t *testing.T) {
	codes := constants(t, "close.go", "Close")
	if len(codes) != len(protocol.Closings) {
		t.Errorf("%d codes, %d closings", len(codes), len(protocol.Closings))
	}
	reasons := map[string]string{}
	for name, digits := range codes {
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := protocol.Closings[protocol.CloseCode(n)]
		if !ok || c.Reason == "" || c.Reconnect == envelopev1.Reconnect_RECONNECT_UNSPECIFIED {
			t.Errorf("%s (%d): closing %+v", name, n, c)
		}
		if n >= 1016 && (n < 4000 || n > 4999) {
			t.Errorf("%s: %d is not for applications (RFC 6455, section 7.4.2)", name, n)
		}
		if reasons[c.Reason] != "" {
			t.Errorf("%s and %s have one reason: %s", name, reasons[c.Reason], c.Reason)
		}
		reasons[c.Reason] = name
	}
}

func TestCloseFrame(t *testing.T) {
	f := protocol.CloseFrame(protocol.CloseDraining, 2*time.Second)
	if f.Code != 4000 || f.Reason != "draining" || f.Reconnect != envelopev1.Reconnect_RECONNECT_YES || f.RetryAfterMs != 2000 {
		t.Errorf("%v", f)
	}
}
