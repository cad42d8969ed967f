package main

import (
	"bytes"
	"encoding/hex"
	"slices"
)

// stamp is what a text says of itself: in which conversation it was sent, as which message there, and in which of the places of
// those on their way.
type stamp struct{ conversation, seq, slot uint32 }

// stampSize is its size in hexadecimal digits: texts must also fit into XML.
const stampSize = 24

// texts makes texts of one size and reads them back.
type texts struct {
	filler []byte
	text   []byte // The last that was made.
}

func newTexts(size int) *texts {
	t := &texts{filler: make([]byte, max(size, stampSize)-stampSize)}
	for i := range t.filler {
		t.filler[i] = "the quick brown fox jumps over the lazy dog "[i%44]
	}
	t.text = append(make([]byte, stampSize), t.filler...)
	return t
}

// make writes a text; it holds until the next call.
func (t *texts) make(s stamp) []byte {
	var raw [stampSize / 2]byte
	for i, n := range [...]uint32{s.conversation, s.seq, s.slot} {
		raw[4*i], raw[4*i+1], raw[4*i+2], raw[4*i+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	}
	hex.Encode(t.text, raw[:])
	return t.text
}

// read is false for what is not whole or was never made here.
func (t *texts) read(text []byte) (s stamp, ok bool) {
	if len(text) != len(t.text) || !bytes.Equal(text[stampSize:], t.filler) {
		return s, false
	}
	var raw [stampSize / 2]byte
	if _, err := hex.Decode(raw[:], text[:stampSize]); err != nil {
		return s, false
	}
	for i, n := range []*uint32{&s.conversation, &s.seq, &s.slot} {
		for b := range slices.Values(raw[4*i : 4*i+4]) {
			*n = *n<<8 | uint32(b)
		}
	}
	return s, true
}
