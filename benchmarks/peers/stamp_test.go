package main

import (
	"bytes"
	"testing"
)

func TestTextsAreReadBackOrNotAtAll(t *testing.T) {
	texts := newTexts(100)
	want := stamp{conversation: 999, seq: 1 << 31, slot: 3}
	text := bytes.Clone(texts.make(want))
	if got, ok := texts.read(text); len(text) != 100 || !ok || got != want {
		t.Fatalf("%d bytes, %+v, %t", len(text), got, ok)
	}
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] = '!'
		if s, ok := texts.read(bad); ok {
			t.Errorf("with another byte %d it is read as %+v", i, s)
		}
	}
	if _, ok := texts.read(text[:99]); ok {
		t.Error("a text cut off is read")
	}
	if bytes.ContainsAny(text, `<>&'"`) {
		t.Error("XML would have to escape it")
	}
}
