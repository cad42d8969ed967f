package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// brokenFrame is what no client of the transport sends, and how its connection ends.
type brokenFrame struct {
	what  string
	bytes []byte
	code  protocol.CloseCode
}

// wsFrame is a WebSocket frame as it travels; mask and lengths are as the first two bytes say, right or wrong.
func wsFrame(first, second byte, rest ...byte) []byte { return append([]byte{first, second}, rest...) }

var zeroMask = []byte{0, 0, 0, 0}

func length64(n uint64) []byte { return append(binary.BigEndian.AppendUint64(nil, n), zeroMask...) }

// brokenWebSocket are frames that RFC 6455 forbids, or that no server must believe. op is that of the codec.
func brokenWebSocket(op, other byte) []brokenFrame {
	return []brokenFrame{
		{"a frame without a mask", wsFrame(0x80|op, 2, '{', '}'), protocol.CloseProtocol},
		{"the first reserved bit, as if compressed", wsFrame(0xC0|op, 0x80, zeroMask...), protocol.CloseProtocol},
		{"the second reserved bit", wsFrame(0xA0|op, 0x80, zeroMask...), protocol.CloseProtocol},
		{"the third reserved bit", wsFrame(0x90|op, 0x80, zeroMask...), protocol.CloseProtocol},
		{"a reserved kind of frame", wsFrame(0x83, 0x80, zeroMask...), protocol.CloseProtocol},
		{"a reserved kind of control frame", wsFrame(0x8B, 0x80, zeroMask...), protocol.CloseProtocol},
		{"a ping in two parts", wsFrame(0x09, 0x80, zeroMask...), protocol.CloseProtocol},
		{"a ping of 126 bytes", wsFrame(0x89, 0xFE, 0, 126, 0, 0, 0, 0), protocol.CloseProtocol},
		{"the continuation of nothing", wsFrame(0x80, 0x80, zeroMask...), protocol.CloseProtocol},
		{"a goodbye of one byte", wsFrame(0x88, 0x81, 0, 0, 0, 0, 3), protocol.CloseProtocol},
		{"a goodbye with a code that is never sent", wsFrame(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xED), protocol.CloseProtocol},
		{"a goodbye that is not UTF-8", wsFrame(0x88, 0x83, 0, 0, 0, 0, 0x03, 0xE8, 0xFF), protocol.CloseBadUTF8},
		{"a length of 2^63", wsFrame(0x80|op, 0xFF, length64(1<<63)...), protocol.CloseProtocol},
		{"a length of 2^62", wsFrame(0x80|op, 0xFF, length64(1<<62)...), protocol.CloseTooLarge},
		{"a length of 4 GiB", wsFrame(0x80|op, 0xFF, length64(1<<32)...), protocol.CloseTooLarge},
		{"a byte more than the limit", wsFrame(0x80|op, 0xFF, length64(64<<10+1)...), protocol.CloseTooLarge},
		{"the other kind of message", wsFrame(0x80|other, 0x80, zeroMask...), protocol.CloseUnsupported},
		{"parts that are larger than the limit together", append(bytes.Repeat(wsFrame(op, 0x80, zeroMask...), 1),
			wsFrame(0x80, 0xFF, length64(64<<10+1)...)...), protocol.CloseTooLarge},
	}
}

func brokenFrames(wire comettest.Wire) []brokenFrame {
	const text, binaryOp = 1, 2
	switch {
	case wire.Transport == "tcp":
		return []brokenFrame{
			{"a length of 4 GiB", []byte{0xFF, 0xFF, 0xFF, 0xFF}, protocol.CloseTooLarge},
			{"a byte more than the limit", wire.Header(64<<10 + 1), protocol.CloseTooLarge},
			{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), protocol.CloseTooLarge}, // "GET " is its length.
			{"bytes that are no frame", wire.Encode([]byte{0xFF, 0xFF, 0xFF}), protocol.CloseProtocol},
			{"a field of an endless length", wire.Encode([]byte{0x22, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}), protocol.CloseProtocol},
			{"a conversation that is a number", wire.Encode([]byte{0x18, 0x01}), protocol.CloseProtocol},
		}
	case wire.Codec == link.CodecJSON:
		return append(brokenWebSocket(text, binaryOp),
			brokenFrame{"text that is not UTF-8", wire.Encode([]byte("{\"command\":\"ping\xff\"}")), protocol.CloseBadUTF8},
			brokenFrame{"half a surrogate", wire.Encode([]byte("{\"command\":\"\xed\xa0\x80\"}")), protocol.CloseBadUTF8},
			brokenFrame{"text that is not UTF-8, and not even all there", wsFrame(0x01, 0x85, 0, 0, 0, 0, '{', 0xC0), protocol.CloseBadUTF8},
		)
	}
	return append(brokenWebSocket(binaryOp, text),
		brokenFrame{"bytes that are no frame", wire.Encode([]byte{0xFF, 0xFF, 0xFF}), protocol.CloseProtocol})
}

// Broken framing ends the connection, before and after Hello, with the code that docs/protocol.md has for it.
func TestHostileFraming(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	for name, wire := range comettest.Wires() {
		for _, b := range brokenFrames(wire) {
			t.Logf("%s: %s", name, b.what)
			w.counted(2, "disconnects_total", "code", protocol.Closings[b.code].Reason, func() {
				for _, live := range []bool{false, true} {
					c := w.dial(wire)
					if live && c.Hello(w.token(map[string]any{"dev": "framing"})) == nil {
						t.Fatal("no hello")
					}
					if _, err := c.Write(b.bytes); err != nil {
						t.Fatal(err)
					}
					w.closedWith(c, b.code)
				}
			})
		}
	}
	w.over()
}

// What is framed well and makes no sense is refused by its name, and the session goes on.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	const send = envelopev1.Command_COMMAND_MESSAGE_SEND
	deep := []byte(strings.Repeat(`{"a":`, 5_000) + "1" + strings.Repeat("}", 5_000))
	for name, wire := range comettest.Wires() {
		c := w.connect(wire, "mallory", "requests")
		ok := c.Body(textMessage("hello"))
		type bad struct {
			frame *envelopev1.Frame
			code  protocol.Code
		}
		frames := []bad{
			{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "a b", Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: strings.Repeat("x", 65), Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", Body: ok}, protocol.CodeInvalid}, // No client id.
			{&envelopev1.Frame{Command: send, Conversation: "d:zoe:mallory", ClientId: "c", Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "d:mallory:../x", ClientId: "c", Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "g:*", ClientId: "c", Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "g:" + strings.Repeat("x", 400), ClientId: "c", Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: c.Body(textMessage(strings.Repeat("x", 25_000)))}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: c.Body(textMessage(strings.Repeat("x", 40_000)))}, protocol.CodeTooLarge},
			{&envelopev1.Frame{Command: send, Conversation: "u:mallory", ClientId: "c", Body: ok}, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, Body: ok}, protocol.CodeUnknownCommand},
		}
		if wire.Codec == link.CodecJSON {
			frames = append(frames,
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: deep}, protocol.CodeInvalid},
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: []byte(`{"text":{"text":5}}`)}, protocol.CodeInvalid},
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: []byte(`{"sender":"alice"}`)}, protocol.CodeInvalid},
			)
		} else {
			frames = append(frames,
				bad{&envelopev1.Frame{Command: protocol.CommandStanding, Conversation: "u:mallory", ClientId: "c"}, protocol.CodeUnknownCommand},
				bad{&envelopev1.Frame{Command: 9999}, protocol.CodeUnknownCommand},
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: []byte{0xFF}}, protocol.CodeInvalid},
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c", Body: []byte("\x0a\x03\x0a\x01\xff")}, protocol.CodeInvalid}, // Text that is not UTF-8.
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:zoe", ClientId: "c\xff", Body: ok}, protocol.CodeInvalid},
				bad{&envelopev1.Frame{Command: send, Conversation: "d:mallory:z\xff", ClientId: "c", Body: ok}, protocol.CodeInvalid},
			)
		}
		refusals := func() float64 {
			m := w.metrics()
			return m.sum("halley_comet_frames_refused_total") + m.sum("halley_logic_refused_total")
		}
		before := refusals()
		for i, b := range frames {
			b.frame.RequestId = uint64(i + 10)
			w.refused(c, b.frame, b.code)
		}
		if up := refusals() - before; up < float64(len(frames)) {
			t.Errorf("%s: %.0f refusals are counted, %d were made", name, up, len(frames))
		}
		c.Ping()
		_ = c.Close()
	}
	w.over()
}

// Random bytes, before and after the opening, in frames and as they are, end their connection at most.
func TestHostileGarbage(t *testing.T) {
	t.Parallel()
	w := startHostile(t, "comet.hello_timeout_ms=2000")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	for _, wire := range comettest.Wires() {
		for i := range 60 {
			junk := make([]byte, 1+r.IntN(3000))
			for j := range junk {
				junk[j] = byte(r.Uint32())
			}
			bare := w.bare(w.address(wire))
			_, _ = bare.Write(junk) // The server may close while it is written.
			c := w.connect(wire, "mallory", "garbage")
			if i%2 == 0 {
				junk = c.Encode(junk)
			}
			_, _ = c.Write(junk)
			_, _ = bare.Close(), c.Close()
		}
	}
	w.over()
}
