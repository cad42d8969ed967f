package protocol_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func TestJSONFrameOfADevice(t *testing.T) {
	var f envelopev1.Frame
	err := protocol.DecodeJSONFrame([]byte(` {"command":"message.send","request_id":7,"conversation":"d:alice:bob",
		"client_id":"c-2", "after":"c-1","since":"12","body":{"text":{"text":"a } \" ] b"}}} `), &f)
	if err != nil {
		t.Fatal(err)
	}
	want := &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: 7, Conversation: "d:alice:bob",
		ClientId: "c-2", After: "c-1", Since: 12, Body: []byte(`{"text":{"text":"a } \" ] b"}}`),
	}
	if diff := cmp.Diff(want, &f, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestJSONFrameAcceptsWhatPeopleType(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want *envelopev1.Frame
	}{
		"members in any order":    {`{"since":3,"command":"ping"}`, &envelopev1.Frame{Command: 2, Since: 3}},
		"numbers as strings":      {`{"command":"ping","request_id":"18446744073709551615"}`, &envelopev1.Frame{Command: 2, RequestId: 1<<64 - 1}},
		"null is absent":          {`{"command":"ping","conversation":null,"body":null,"since":null}`, &envelopev1.Frame{Command: 2}},
		"escapes in keys":         {`{"\u0063ommand":"ping"}`, &envelopev1.Frame{Command: 2}},
		"escapes in values":       {`{"command":"ping","conversation":"d:\u0061:b"}`, &envelopev1.Frame{Command: 2, Conversation: "d:a:b"}},
		"an empty body":           {`{"command":"conversation.leave","body":{}}`, &envelopev1.Frame{Command: 35, Body: []byte(`{}`)}},
		"spaces everywhere":       {"{ \"command\" :\t\"ping\" ,\n\"since\" : 0 }", &envelopev1.Frame{Command: 2}},
		"a nested body":           {`{"body":{"a":[1,{"b":"]"}]},"command":"ping"}`, &envelopev1.Frame{Command: 2, Body: []byte(`{"a":[1,{"b":"]"}]}`)}},
		"an error, as servers do": {`{"command":"ping","error":{"code":"busy","retryable":true,"retry_after_ms":5}}`, &envelopev1.Frame{Command: 2, Error: &envelopev1.Error{Code: "busy", Retryable: true, RetryAfterMs: 5}}},
	} {
		t.Run(name, func(t *testing.T) {
			var f envelopev1.Frame
			if err := protocol.DecodeJSONFrame([]byte(c.in), &f); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, &f, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJSONFrameRefusalsNameTheFault(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		code protocol.Code
		says []string
	}{
		"a near field":         {`{"command":"ping","clientid":"x"}`, protocol.CodeInvalid, []string{"clientid", "unknown field", `did you mean "client_id"`}},
		"a far field":          {`{"command":"ping","zzzzzz":1}`, protocol.CodeInvalid, []string{"zzzzzz: unknown field of a frame"}},
		"a near command":       {`{"command":"message.sned"}`, protocol.CodeUnknownCommand, []string{`"message.sned"`, `did you mean "message.send"`}},
		"an internal command":  {`{"command":"standing"}`, protocol.CodeUnknownCommand, []string{"standing"}},
		"no command":           {`{"request_id":3}`, protocol.CodeInvalid, []string{"command: missing"}},
		"a command by number":  {`{"command":16}`, protocol.CodeInvalid, []string{"command: must be a string"}},
		"a negative number":    {`{"command":"ping","since":-1}`, protocol.CodeInvalid, []string{"since: must be a whole number"}},
		"a fraction":           {`{"command":"ping","since":1.5}`, protocol.CodeInvalid, []string{"since"}},
		"beyond 64 bits":       {`{"command":"ping","since":18446744073709551616}`, protocol.CodeInvalid, []string{"since"}},
		"a word for a number":  {`{"command":"ping","request_id":"seven"}`, protocol.CodeInvalid, []string{"request_id"}},
		"a number for a name":  {`{"command":"ping","conversation":5}`, protocol.CodeInvalid, []string{"conversation: must be a string"}},
		"a list for a body":    {`{"command":"ping","body":[1]}`, protocol.CodeInvalid, []string{"body: must be a JSON object"}},
		"a field twice":        {`{"command":"ping","since":1,"since":2}`, protocol.CodeInvalid, []string{"since: given twice"}},
		"a list":               {`["ping"]`, protocol.CodeInvalid, []string{"must be a JSON object"}},
		"two objects":          {`{"command":"ping"}{}`, protocol.CodeInvalid, []string{"not valid JSON"}},
		"nothing":              {``, protocol.CodeInvalid, []string{"not valid JSON"}},
		"cut off":              {`{"command":"pi`, protocol.CodeInvalid, []string{"not valid JSON"}},
		"not UTF-8":            {"{\"command\":\"\xff\"}", protocol.CodeInvalid, []string{"UTF-8"}},
		"an odd error":         {`{"command":"ping","error":{"cod":"x"}}`, protocol.CodeInvalid, []string{"error: ", "cod", `"code"`}},
		"an error that's text": {`{"command":"ping","error":"x"}`, protocol.CodeInvalid, []string{"error: must be a JSON object"}},
	} {
		t.Run(name, func(t *testing.T) {
			var f envelopev1.Frame
			err := protocol.DecodeJSONFrame([]byte(c.in), &f)
			if err == nil {
				t.Fatalf("accepted: %v", &f)
			}
			if err.Code != c.code {
				t.Errorf("code %s, want %s", err.Code, c.code)
			}
			for _, words := range c.says {
				if !strings.Contains(err.Message, words) {
					t.Errorf("%q does not say %q", err.Message, words)
				}
			}
		})
	}
}

func TestJSONRefusalKeepsTheRequestID(t *testing.T) {
	var f envelopev1.Frame
	err := protocol.DecodeJSONFrame([]byte(`{"comand":"ping","conversation":"g:x","request_id":9}`), &f)
	if err == nil || f.RequestId != 9 || f.Conversation != "g:x" {
		t.Fatalf("err %v, request id %d, conversation %q", err, f.RequestId, f.Conversation)
	}
	answer, encodeErr := protocol.EncodeJSONFrame(&envelopev1.Frame{RequestId: f.RequestId, Error: err.Wire()})
	if encodeErr != nil {
		t.Fatal(encodeErr)
	}
	want := `{"request_id":9,"error":{"code":"invalid","message":"comand: unknown field of a frame; did you mean \"command\"?","retryable":false}}`
	if string(answer) != want {
		t.Errorf("answer\n%s, want\n%s", answer, want)
	}
}

func TestJSONFrameOfTheServer(t *testing.T) {
	f := &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: 1 << 60, Conversation: "d:alice:bob", ClientId: `odd"\` + "é",
		Error: protocol.FromWire(&envelopev1.Error{Code: "busy", Message: "the log is full", RetryAfterMs: 250}).Wire(),
	}
	got, err := protocol.EncodeJSONFrame(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"command":"message.send","request_id":"1152921504606846976","conversation":"d:alice:bob","client_id":"odd\"\\é",` +
		`"error":{"code":"busy","message":"the log is full","retryable":true,"retry_after_ms":250}}`
	if string(got) != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	var back envelopev1.Frame
	if err := protocol.DecodeJSONFrame(got, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, &back, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestEncodeJSONFrameRefusesACommandWithoutAWord(t *testing.T) {
	if out, err := protocol.EncodeJSONFrame(&envelopev1.Frame{Command: protocol.CommandStanding}); err == nil {
		t.Errorf("encoded: %s", out)
	}
}

func FuzzDecodeJSONFrame(f *testing.F) {
	for _, seed := range []string{
		`{"command":"message.send","request_id":7,"conversation":"d:alice:bob","client_id":"c","after":"b","since":12,"body":{"text":{"text":"hi"}}}`,
		`{"command":"connect","request_id":"1","body":{"token":"x.y.z","client":"curl"}}`,
		`{"command":"ping","error":{"code":"busy","message":"\u00e9","retryable":true,"retry_after_ms":5},"body":{"a":[{},[1,2.5e3,null,true]]}}`,
		`{ "command" : null , "x\"y" : "\\" }`, `[{}]`, `{"a":1,}`, `{}`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var frame envelopev1.Frame
		if err := protocol.DecodeJSONFrame(data, &frame); err != nil {
			if err.Message == "" || err.Code == "" {
				t.Fatalf("a refusal without words: %#v", err)
			}
			return
		}
		if len(frame.Body) > 0 && !json.Valid(frame.Body) {
			t.Fatalf("body is not JSON: %q", frame.Body)
		}
		again, err := protocol.EncodeJSONFrame(&frame)
		if err != nil {
			t.Fatalf("decoded, not encoded: %v", err)
		}
		var back envelopev1.Frame
		if err := protocol.DecodeJSONFrame(again, &back); err != nil {
			t.Fatalf("%q became %q: %v", data, again, err)
		}
		if !proto.Equal(&frame, &back) {
			t.Fatalf("%q became %q", data, again)
		}
	})
}

func FuzzDecodeProtoFrame(f *testing.F) {
	for _, frame := range []*envelopev1.Frame{
		{Command: 16, RequestId: 7, Conversation: "d:alice:bob", ClientId: "c", After: "b", Since: 12, Body: []byte("\x0a\x02hi")},
		{Command: 1, RequestId: 1, Error: &envelopev1.Error{Code: "busy", RetryAfterMs: 5, Retryable: true}},
	} {
		data, err := frame.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var frame envelopev1.Frame
		if frame.UnmarshalVT(data) != nil {
			return
		}
		again, err := frame.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		var back envelopev1.Frame
		if err := back.UnmarshalVT(again); err != nil {
			t.Fatal(err)
		}
		third, err := back.MarshalVT()
		if err != nil || string(third) != string(again) {
			t.Fatalf("%x became %x, then %x (%v)", data, again, third, err)
		}
		if len(again) != frame.SizeVT() {
			t.Fatalf("size %d, said %d", len(again), frame.SizeVT())
		}
	})
}

func BenchmarkDecodeJSONFrame(b *testing.B) {
	data := []byte(`{"command":"message.send","request_id":7,"conversation":"d:alice:bob","client_id":"0198c9f2-58a1-7c3e-9d55-0e8f2b6c1a77","since":12,"body":{"text":{"text":"` + strings.Repeat("x", 100) + `"}}}`)
	b.ReportAllocs()
	for b.Loop() {
		var f envelopev1.Frame
		if err := protocol.DecodeJSONFrame(data, &f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeJSONFrame(b *testing.B) {
	f := &envelopev1.Frame{Command: 128, Conversation: "d:alice:bob", Body: []byte(`{"text":{"text":"` + strings.Repeat("x", 100) + `"}}`)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := protocol.EncodeJSONFrame(f); err != nil {
			b.Fatal(err)
		}
	}
}
