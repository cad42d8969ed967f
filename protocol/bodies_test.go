package protocol_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
)

func text(s string) *messagev1.Message {
	return &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: s}}}
}

func TestBodiesSurviveBothCodecs(t *testing.T) {
	for name, m := range map[string]protocol.Message{
		"ASCII":           text("hello"),
		"other languages": text("你好, κόσμε 👋"),
		"bytes":           &messagev1.Message{Content: &messagev1.Message_Custom{Custom: &messagev1.Custom{Kind: "x", Data: []byte{0xff, 0xfe}}}},
		"64 bits":         &receiptv1.ReadRequest{Seq: 1<<64 - 1},
		"empty":           &conversationv1.LeaveRequest{},
		"lists":           &conversationv1.CreateRequest{Name: "n", Members: []string{"a", "b"}},
	} {
		for _, json := range []bool{false, true} {
			data, err := protocol.EncodeBody(json, m)
			if err != nil {
				t.Fatal(err)
			}
			back := m.ProtoReflect().New().Interface().(protocol.Message)
			if err := protocol.DecodeBody(json, data, back); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !proto.Equal(m, back) {
				t.Errorf("%s, json %v: %v became %v", name, json, m, back)
			}
		}
	}
}

func TestJSONBodiesUseTheNamesOfTheProtoFiles(t *testing.T) {
	data, err := protocol.EncodeBody(true, &conversationv1.Head{JoinedSeq: 12})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(string(data), " ", ""); got != `{"joined_seq":"12"}` {
		t.Errorf("got %s", got)
	}
}

func TestJSONBodyRefusalsNameTheFault(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		m    protocol.Message
		says []string
	}{
		"unknown, near":     {`{"txt":{"text":"hi"}}`, &messagev1.Message{}, []string{"txt: unknown field", `did you mean "text"`}},
		"unknown, deep":     {`{"image":{"media":{"uri":"x"}}}`, &messagev1.Message{}, []string{"image.media.uri: unknown field", `"url"`}},
		"a wrong type":      {`{"seq":"many"}`, &receiptv1.ReadRequest{}, []string{"seq: ", "uint64"}},
		"a wrong type deep": {`{"image":{"width_px":-1}}`, &messagev1.Message{}, []string{"image.width_px: "}},
		"a list item":       {`{"members":["a",5]}`, &conversationv1.CreateRequest{}, []string{"members: "}},
		"two of one":        {`{"text":{"text":"a"},"file":{}}`, &messagev1.Message{}, []string{"body: "}},
		"given twice":       {`{"seq":1,"seq":2}`, &receiptv1.ReadRequest{}, []string{"body: "}},
		"a list":            {`[]`, &receiptv1.ReadRequest{}, []string{"body: must be a JSON object"}},
		"cut off":           {`{"seq":`, &receiptv1.ReadRequest{}, []string{"body: must be a JSON object"}},
		"a lone surrogate":  {`{"text":{"text":"\ud800"}}`, &messagev1.Message{}, []string{"text.text: "}},
	} {
		t.Run(name, func(t *testing.T) {
			err := protocol.DecodeBody(true, []byte(c.in), c.m)
			if err == nil {
				t.Fatalf("accepted: %v", c.m)
			}
			if err.Code != protocol.CodeInvalid {
				t.Errorf("code %s", err.Code)
			}
			for _, words := range c.says {
				if !strings.Contains(err.Message, words) {
					t.Errorf("%q does not say %q", err.Message, words)
				}
			}
		})
	}
}

func TestProtoBodyThatJSONCouldNotCarryIsRefused(t *testing.T) {
	data, err := text("\xc3\x28").MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if err := protocol.DecodeBody(false, data, &messagev1.Message{}); err == nil || err.Code != protocol.CodeInvalid {
		t.Errorf("broken UTF-8: %v", err)
	}
	if err := protocol.DecodeBody(false, []byte{0x0a, 0x7f}, &messagev1.Message{}); err == nil || !strings.Contains(err.Message, "halley.message.v1.Message") {
		t.Errorf("cut off: %v", err)
	}
}

func TestProtoBodyThatAStricterLibraryRefusesIsRefused(t *testing.T) {
	for name, data := range map[string]string{
		"a group":               "\x7b\x7c",
		"a group ended amiss":   "\x7b\x74",
		"a known field's type":  "\x30\x30",
		"a field number of 0":   "\x02\x00",
		"one beyond the last":   "\xfa\xff\xff\xff\x7f\x00",
		"deep in a message":     "\x12\x05\x0a\x03\x0a\x01\xff",
		"a length past the end": "\x7a\x05x",
	} {
		if err := protocol.DecodeBody(false, []byte(data), &messagev1.Message{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := protocol.DecodeBody(false, []byte("\x7a\x01\xff"), &messagev1.Message{}); err != nil {
		t.Errorf("a field from the future: %v", err)
	}
}

func TestEncodeFrameInBothCodecs(t *testing.T) {
	f := &envelopev1.Frame{Command: envelopev1.Command_COMMAND_PONG, RequestId: 4}
	data, err := protocol.EncodeFrame(true, f)
	if err != nil || string(data) != `{"command":"pong","request_id":4}` {
		t.Errorf("JSON: %s, %v", data, err)
	}
	data, err = protocol.EncodeFrame(false, f)
	if err != nil || string(data) != "\x08\x03\x10\x04" {
		t.Errorf("Protobuf: %x, %v", data, err)
	}
}

func FuzzDecodeBody(f *testing.F) {
	f.Add([]byte(`{"text":{"text":"hi"},"mentions":[{"user":"bob","offset":1}]}`))
	f.Add([]byte(`{"image":{"media":{"uri":"x"}}}`))
	f.Add([]byte(`{"mentions":[{"all":true,"user":"x"}]}`))
	f.Add([]byte("\x0a\x04\x0a\x02hi"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, json := range []bool{false, true} {
			var m messagev1.Message
			if err := protocol.DecodeBody(json, data, &m); err != nil {
				if err.Code != protocol.CodeInvalid || err.Message == "" {
					t.Fatalf("%#v", err)
				}
				continue
			}
			if !json {
				if err := proto.Unmarshal(data, &messagev1.Message{}); err != nil {
					t.Fatalf("%q is refused by Google's library: %v", data, err)
				}
			}
			// What one device could write, devices of both codecs can read.
			for _, to := range []bool{false, true} {
				out, err := protocol.EncodeBody(to, &m)
				if err != nil {
					t.Fatalf("%q cannot be written, json %v: %v", data, to, err)
				}
				if err := protocol.DecodeBody(to, out, &messagev1.Message{}); err != nil {
					t.Fatalf("%q became %q: %v", data, out, err)
				}
			}
		}
	})
}

func BenchmarkDecodeBodyProto(b *testing.B) {
	for name, s := range map[string]string{"ascii": strings.Repeat("x", 100), "chinese": strings.Repeat("你好", 17)} {
		data, err := text(s).MarshalVT()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var m messagev1.Message
				if err := protocol.DecodeBody(false, data, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
