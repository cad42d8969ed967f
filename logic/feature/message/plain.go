package message

import (
	"encoding/binary"
	"unicode/utf8"
)

// plain reports whether the body is a message with nothing but a text within its limits. Nearly all are, and those need not be decoded to be
// judged; whatever else a body is, decoding it says.
func plain(body []byte) bool {
	content, ok := only(body) // Message.text
	if !ok {
		return false
	}
	text, ok := only(content) // Text.text
	return ok && len(text) >= 1 && len(text) <= maxText && utf8.Valid(text)
}

// only returns the value of the field with number 1 and a length, if there is nothing beside it.
func only(b []byte) ([]byte, bool) {
	const tag = 1<<3 | 2
	if len(b) == 0 || b[0] != tag {
		return nil, false
	}
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n != uint64(len(b)-1-size) {
		return nil, false
	}
	return b[1+size:], true
}
