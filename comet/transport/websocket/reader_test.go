package websocket

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"pgregory.net/rapid"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// heard is what a reader makes of a stream.
type heard struct {
	messages [][]byte
	pongs    [][]byte
	closed   bool
	fail     bool
}

func opened(codec link.Codec) *transport.State { return &transport.State{Open: true, Codec: codec} }

const testLimit = 4096

// ours reads a stream in pieces that end at the given offsets.
func ours(stream []byte, cut func(have int) int) heard {
	p, s := New(Default(testLimit)), opened(CodecAny)
	var h heard
	var buffered []byte
	need := 0
	for len(stream) > 0 {
		n := min(cut(len(buffered)), len(stream))
		buffered = append(buffered, stream[:n]...)
		stream = stream[n:]
		for len(buffered) >= need {
			var reply []byte
			r := p.Next(s, buffered, &reply)
			if r.Event == transport.EventFrame {
				h.messages = append(h.messages, bytes.Clone(r.Frame))
			}
			if r.Event == transport.EventControl && len(reply) > 0 {
				h.pongs = append(h.pongs, reply)
			}
			buffered = buffered[r.Taken:]
			need = r.Need
			switch {
			case r.Fail != 0:
				h.fail = true
				return h
			case r.Event == transport.EventClose:
				h.closed = true
				return h
			}
		}
	}
	return h
}

// theirs reads the same with the library's blocking reader and plain code for the rest of RFC 6455.
func theirs(stream []byte) (h heard) {
	r := bytes.NewReader(stream)
	state := ws.StateServerSide
	var message []byte
	var opcode ws.OpCode
	for {
		rest := stream[len(stream)-r.Len():]
		header, err := ws.ReadHeader(r)
		if err != nil {
			unmasked := len(rest) >= 2 && rest[1]&0x80 == 0 // wrong whatever follows
			h.fail = unmasked || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
			return h
		}
		if ws.CheckHeader(header, state) != nil {
			h.fail = true
			return h
		}
		if !header.OpCode.IsControl() && header.Length > int64(testLimit-len(message)) {
			h.fail = true
			return h
		}
		payload := make([]byte, header.Length)
		n, err := io.ReadFull(r, payload)
		ws.Cipher(payload[:n], header.Mask, 0)
		if err != nil { // what is there may be wrong already
			if header.OpCode == ws.OpText || (header.OpCode == ws.OpContinuation && opcode == ws.OpText) {
				h.fail = hopeless(append(message, payload[:n]...))
			}
			return h
		}
		switch header.OpCode {
		case ws.OpPing:
			h.pongs = append(h.pongs, ws.MustCompileFrame(ws.NewPongFrame(payload)))
		case ws.OpPong:
		case ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			h.fail = len(payload) == 1 || len(payload) > 1 && ws.CheckCloseFrameData(code, reason) != nil
			h.closed = !h.fail
			return h
		default:
			if header.OpCode != ws.OpContinuation {
				opcode = header.OpCode
			}
			message = append(message, payload...)
			state = state.Set(ws.StateFragmented)
			if opcode == ws.OpText && (hopeless(message) || header.Fin && !utf8.Valid(message)) {
				h.fail = true
				return h
			}
			if header.Fin {
				h.messages = append(h.messages, message)
				message, state = nil, state.Clear(ws.StateFragmented)
			}
		}
	}
}

// hopeless reports whether no continuation can make p valid UTF-8.
func hopeless(p []byte) bool {
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		if r == utf8.RuneError && n <= 1 {
			return utf8.FullRune(p)
		}
		p = p[n:]
	}
	return false
}

func compare(t interface{ Fatalf(string, ...any) }, stream []byte, cut func(int) int) {
	want := theirs(bytes.Clone(stream))
	got := ours(bytes.Clone(stream), cut)
	same := len(want.messages) == len(got.messages) && len(want.pongs) == len(got.pongs) &&
		want.closed == got.closed && want.fail == got.fail
	for i := range min(len(want.messages), len(got.messages)) {
		same = same && bytes.Equal(want.messages[i], got.messages[i])
	}
	for i := range min(len(want.pongs), len(got.pongs)) {
		same = same && bytes.Equal(want.pongs[i], got.pongs[i])
	}
	if !same {
		t.Fatalf("stream %x\ngot  %+v\nwant %+v", stream, got, want)
	}
}

// FuzzReader: whatever arrives, in whatever pieces, ours hears what a plain reader of the whole stream does.
func FuzzReader(f *testing.F) {
	frame := func(op ws.OpCode, fin bool, data string) []byte {
		return ws.MustCompileFrame(ws.MaskFrameWith(ws.NewFrame(op, fin, []byte(data)), [4]byte{1, 2, 3, 4}))
	}
	f.Add(frame(ws.OpText, true, "hällo"), uint64(1))
	f.Add(append(append(frame(ws.OpText, false, "h\xc3"), frame(ws.OpPing, true, "x")...), frame(ws.OpContinuation, true, "\xa4llo")...), uint64(2))
	f.Add(frame(ws.OpBinary, true, string(make([]byte, 300))), uint64(3))
	f.Add(frame(ws.OpClose, true, "\x03\xe8bye"), uint64(4))
	f.Add(frame(ws.OpText, true, "\xed\xa0\x80"), uint64(5))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		compare(t, stream, func(int) int { return 1 + r.IntN(20) })
		compare(t, stream, func(int) int { return 1 })
		compare(t, stream, func(int) int { return len(stream) })
	})
}

// TestReaderOnValidStreams: random messages, fragmented at random with control frames in between, cut at random.
func TestReaderOnValidStreams(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		add := func(op ws.OpCode, fin bool, data []byte) {
			var mask [4]byte
			copy(mask[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "mask"))
			stream = append(stream, ws.MustCompileFrame(ws.MaskFrameWith(ws.NewFrame(op, fin, data), mask))...)
		}
		for range rapid.IntRange(1, 5).Draw(t, "messages") {
			op, data := ws.OpBinary, rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "data")
			if rapid.Bool().Draw(t, "text") {
				op, data = ws.OpText, []byte(rapid.StringN(0, 150, 600).Draw(t, "text"))
			}
			for {
				n := rapid.IntRange(0, len(data)).Draw(t, "fragment")
				fin := n == len(data)
				add(op, fin, data[:n])
				op, data = ws.OpContinuation, data[n:]
				if fin {
					break
				}
				if rapid.Bool().Draw(t, "ping") {
					add(ws.OpPing, true, rapid.SliceOfN(rapid.Byte(), 0, 125).Draw(t, "ping data"))
				}
			}
		}
		compare(t, stream, func(int) int { return rapid.IntRange(1, 400).Draw(t, "piece") })
	})
}

// TestUTF8InPieces: however valid text is cut, it is valid; and nothing else ends as valid.
func TestUTF8InPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.OneOf(
			rapid.SliceOfN(rapid.SampledFrom([]byte{'a', 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF}), 0, 8),
			rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
		).Draw(t, "data")
		state := utf8Start
		for rest := data; len(rest) > 0 && state != utf8Invalid; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			state = validate(state, rest[:n])
			rest = rest[n:]
		}
		if (state == utf8Start) != utf8.Valid(data) || (state == utf8Invalid) != hopeless(data) {
			t.Fatalf("%x: state %d, valid %v, hopeless %v", data, state, utf8.Valid(data), hopeless(data))
		}
	})
}

func TestCodecAndOpcodeMustAgree(t *testing.T) {
	for codec, op := range map[link.Codec]ws.OpCode{link.CodecProto: ws.OpText, link.CodecJSON: ws.OpBinary} {
		p := New(Default(testLimit))
		in := ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewFrame(op, true, []byte("{}"))))
		if r := p.Next(opened(codec), in, new([]byte)); r.Fail != protocol.CloseUnsupported {
			t.Errorf("codec %d: %+v", codec, r)
		}
	}
}

func TestAnIdleConnectionKeepsNoBuffer(t *testing.T) {
	p, s := New(Default(testLimit)), opened(link.CodecProto)
	in := ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewFrame(ws.OpBinary, true, make([]byte, 500))))
	var reply []byte
	if r := p.Next(s, in[:100], &reply); r.Taken != 100 || s.Partial == nil {
		t.Fatalf("%+v", r)
	}
	if r := p.Next(s, in[100:], &reply); r.Event != transport.EventFrame || len(r.Frame) != 500 {
		t.Fatalf("%+v", r)
	}
	if r := p.Next(s, nil, &reply); r.Need == 0 || s.Partial != nil {
		t.Fatalf("%+v, still holds %v", r, s.Partial)
	}
}
