package looptls

import "testing"

// Where this fails, a new Go has changed crypto/tls: look at it and at shed, or idle connections keep their largest record.
func TestThisGosBuffersAreKnown(t *testing.T) {
	if !sheds() {
		t.Error("tls.Conn has other fields than shed knows: idle connections keep 17 KB and more after one large record")
	}
}
