package looptls

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A tls.Conn keeps the buffer of the largest record that it ever read, for as long as it lives: 17 KB and more for a device that sent
// one large message, and the client's hello for all others. There is no way to tell it to let go, so this does, in the one moment at
// which nothing lies in its buffers: when a Read found nothing more, on the loop, where nobody else reads.
//
// Where a later Go has other fields, nothing is shed, and a test says so.

// keep is what a quiet connection may hold: room for one small record, so that small frames allocate nothing.
const keep = 1 << 10

// Offsets in tls.Conn; 0 where the field is not what this knows. None of them comes first.
var (
	rawInputAt = offsetOf("rawInput", reflect.TypeFor[bytes.Buffer]())
	inputAt    = offsetOf("input", reflect.TypeFor[bytes.Reader]())
	handAt     = offsetOf("hand", reflect.TypeFor[bytes.Buffer]())
)

func offsetOf(name string, want reflect.Type) uintptr {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
	if !ok || f.Type != want {
		return 0
	}
	return f.Offset
}

// sheds reports whether this Go's tls.Conn is known.
func sheds() bool { return rawInputAt != 0 && inputAt != 0 && handAt != 0 }

// shed lets go of the buffers of a connection at rest.
func shed(conn *tls.Conn) {
	if !sheds() {
		return
	}
	raw := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(conn), rawInputAt))
	input := (*bytes.Reader)(unsafe.Add(unsafe.Pointer(conn), inputAt))
	hand := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(conn), handAt))
	if raw.Len() > 0 || input.Len() > 0 || hand.Len() > 0 {
		return
	}
	if raw.Cap() > keep {
		*raw = bytes.Buffer{}
		*input = bytes.Reader{} // it still points to the record that it gave out
	}
	if hand.Cap() > 0 {
		*hand = bytes.Buffer{}
	}
}
