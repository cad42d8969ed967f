package message

import (
	"bytes"
	"strings"
	"testing"

	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

func bodyOf(t testing.TB, m *messagev1.Message) []byte {
	t.Helper()
	data, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func textOf(s string) *messagev1.Message {
	return &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: s}}}
}

func TestWhichBodiesArePlain(t *testing.T) {
	mentioning := textOf("hello bob")
	mentioning.Mentions = []*messagev1.Mention{{Target: &messagev1.Mention_User{User: "bob"}}}
	for name, c := range map[string]struct {
		body []byte
		want bool
	}{
		"a text":            {bodyOf(t, textOf("hello")), true},
		"a long text":       {bodyOf(t, textOf(strings.Repeat("ä", maxText/2))), true},
		"too long a text":   {bodyOf(t, textOf(strings.Repeat("a", maxText+1))), false},
		"an empty text":     {bodyOf(t, textOf("")), false},
		"no UTF-8":          {bodyOf(t, textOf("a\xff")), false},
		"with a mention":    {bodyOf(t, mentioning), false},
		"nothing":           {nil, false},
		"another content":   {bodyOf(t, &messagev1.Message{Content: &messagev1.Message_Custom{Custom: &messagev1.Custom{Kind: "x"}}}), false},
		"cut off":           {bodyOf(t, textOf("hello"))[:5], false},
		"with a field more": {append(bodyOf(t, textOf("hello")), 0x98, 0x06, 1), false},
		"two texts":         {bytes.Repeat(bodyOf(t, textOf("hello")), 2), false},
	} {
		if got := plain(c.body); got != c.want {
			t.Errorf("%s: plain is %v", name, got)
		}
	}
	body := bodyOf(t, textOf(strings.Repeat("a", 100)))
	if n := testing.AllocsPerRun(100, func() { plain(body) }); n != 0 {
		t.Errorf("%v allocations to judge a text, want none", n)
	}
}

// What is plain, decoding finds as good, with nothing in it that would be looked at further.
func FuzzPlain(f *testing.F) {
	f.Add(bodyOf(f, textOf("hello")))
	f.Add([]byte{0x0a, 0x83, 0x00, 0x0a, 0x81, 0x00}) // lengths that are longer than they need be
	f.Add([]byte{0x0a, 0x04, 0x0a, 0x82, 0x00, 'a'})
	f.Fuzz(func(t *testing.T, body []byte) {
		if !plain(body) {
			return
		}
		m := &messagev1.Message{}
		if err := m.UnmarshalVT(body); err != nil {
			t.Fatalf("%x is plain, and cannot be decoded: %v", body, err)
		}
		if err := Validate(m); err != nil || len(m.Mentions) > 0 {
			t.Fatalf("%x is plain, and not good: %v, %d mentions", body, err, len(m.Mentions))
		}
	})
}
