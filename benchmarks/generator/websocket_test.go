package generator

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/protocol"
)

// TestFramesAreThoseOfALibrary has a library read what we write and write what we read.
func TestFramesAreThoseOfALibrary(t *testing.T) {
	for i, n := range []int{0, 1, 125, 126, 65535, 65536, 100_000} {
		payload := bytes.Repeat([]byte("halley "), n/7+1)[:n]
		op := []byte{opBinary, opText}[i%2]
		b := appendClientHeader(nil, op, n, 0xA1B2C3D4)
		key := [4]byte(b[len(b)-4:])
		body := bytes.Clone(payload)
		mask(body, key)
		r := bytes.NewReader(append(b, body...))
		header, err := ws.ReadHeader(r)
		if err != nil {
			t.Fatal(err)
		}
		f := ws.Frame{Header: header, Payload: make([]byte, header.Length)}
		if _, err := io.ReadFull(r, f.Payload); err != nil {
			t.Fatal(err)
		}
		if !f.Header.Masked || !f.Header.Fin || f.Header.OpCode != ws.OpCode(op) || !bytes.Equal(ws.UnmaskFrame(f).Payload, payload) {
			t.Errorf("%d bytes: the library reads something else", n)
		}
		raw := ws.MustCompileFrame(ws.NewBinaryFrame(payload))
		h, at, err := parseServerHeader(raw)
		if err != nil || h.opcode != opBinary || h.length != n || !bytes.Equal(raw[at:], payload) {
			t.Errorf("%d bytes: header %+v at %d, error %v", n, h, at, err)
		}
		for cut := range at {
			if _, at, err := parseServerHeader(raw[:cut]); at != 0 || err != nil {
				t.Errorf("%d bytes: a header cut off at %d was taken", n, cut)
			}
		}
	}
}

func TestFramesThatAServerMustNotSend(t *testing.T) {
	for name, frame := range map[string]ws.Frame{
		"masked":       ws.MaskFrame(ws.NewBinaryFrame([]byte("x"))),
		"fragment":     ws.NewFrame(ws.OpBinary, false, []byte("x")),
		"continuation": ws.NewFrame(ws.OpContinuation, true, []byte("x")),
		"enormous":     {Header: ws.Header{Fin: true, OpCode: ws.OpBinary, Length: maxPayload + 1}},
	} {
		var b bytes.Buffer
		if err := ws.WriteHeader(&b, frame.Header); err != nil {
			t.Fatal(err)
		}
		if _, _, err := parseServerHeader(b.Bytes()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHandshakeWithALibrary(t *testing.T) {
	u := newUpgrade(rand.New(rand.NewPCG(1, 2)))
	request := u.request(nil, "localhost:1", Config{Path: "/v1/connect", Subprotocol: "halley.v1.proto"})
	conn := &script{Reader: bytes.NewReader(request)}
	hs, err := ws.Upgrader{Protocol: func(p []byte) bool { return string(p) == "halley.v1.proto" }}.Upgrade(conn)
	if err != nil || hs.Protocol != "halley.v1.proto" {
		t.Fatalf("the library refuses: %v", err)
	}
	answer := conn.out.Bytes()
	for cut := range answer {
		if n, err := u.response(answer[:cut]); n != 0 || err != nil {
			t.Fatalf("an answer cut off at %d was taken: %v", cut, err)
		}
	}
	if n, err := u.response(append(answer, "frames"...)); n != len(answer) || err != nil {
		t.Errorf("%d of %d bytes, %v", n, len(answer), err)
	}
	if _, err := newUpgrade(rand.New(rand.NewPCG(3, 4))).response(answer); err == nil {
		t.Error("an answer to another key was taken")
	}
	for _, c := range []struct {
		answer string
		want   CloseError
	}{
		{"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n", CloseError{uint16(protocol.CloseOverloaded), 7 * time.Second}},
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\n", CloseError{uint16(protocol.CloseOverloaded), 0}},
		{"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\n\r\n", CloseError{uint16(protocol.CloseRateLimited), 3 * time.Second}},
	} {
		_, err := u.response([]byte(c.answer))
		if closed, ok := errors.AsType[*CloseError](err); !ok || *closed != c.want {
			t.Errorf("%q gives %v", c.answer, err)
		}
	}
	if _, err := u.response([]byte("HTTP/1.1 404 Not Found\r\n\r\n")); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a refusal gives %v", err)
	}
}

type script struct {
	*bytes.Reader
	out bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) { return s.out.Write(p) }
