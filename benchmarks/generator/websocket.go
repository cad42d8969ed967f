package generator

import (
	"bufio"
	"bytes"
	"crypto/sha1" // RFC 6455 names it; it protects nothing.
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/halley-im/halley/protocol"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// upgrade is one client handshake of RFC 6455, section 4.1.
type upgrade struct{ key string }

func newUpgrade(r *rand.Rand) *upgrade {
	var nonce [16]byte
	binary.LittleEndian.PutUint64(nonce[:], r.Uint64())
	binary.LittleEndian.PutUint64(nonce[8:], r.Uint64())
	return &upgrade{key: base64.StdEncoding.EncodeToString(nonce[:])}
}

func (u *upgrade) request(b []byte, host string, cfg Config) []byte {
	b = append(b, "GET "...)
	b = append(b, cfg.Path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "...)
	b = append(b, u.key...)
	if cfg.Subprotocol != "" {
		b = append(b, "\r\nSec-WebSocket-Protocol: "...)
		b = append(b, cfg.Subprotocol...)
	}
	return append(b, "\r\n\r\n"...)
}

// response checks the answer and returns its length; 0 where it is not whole yet.
func (u *upgrade) response(buf []byte) (int, error) {
	end := bytes.Index(buf, []byte("\r\n\r\n"))
	if end < 0 {
		if len(buf) > 8<<10 {
			return 0, errors.New("handshake: answer without end")
		}
		return 0, nil
	}
	status, head, _ := bytes.Cut(buf[:end], []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 101")) {
		return 0, refused(buf[:end+4])
	}
	sum := sha1.Sum([]byte(u.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	want := base64.StdEncoding.EncodeToString(sum[:])
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if strings.EqualFold(string(name), "Sec-WebSocket-Accept") {
			if got := string(bytes.TrimSpace(value)); got != want {
				return 0, errors.New("handshake: wrong Sec-WebSocket-Accept")
			}
			return end + 4, nil
		}
	}
	return 0, errors.New("handshake: no Sec-WebSocket-Accept")
}

// refused is what an answer says that is no upgrade: 503 and 429 are the server's own, with the time to stay away.
func refused(answer []byte) error {
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		return fmt.Errorf("handshake refused: %w", err)
	}
	_ = res.Body.Close() // There may be more of it than was read.
	code, after, ok := protocol.RefusedHandshake(res.StatusCode, res.Header.Get("Retry-After"))
	if !ok {
		return fmt.Errorf("handshake refused: %s", res.Status)
	}
	return &CloseError{Code: uint16(code), RetryAfter: after}
}

// appendClientHeader writes the header of a whole frame of n bytes, masked with key.
func appendClientHeader(b []byte, op byte, n int, key uint32) []byte {
	b = append(b, 0x80|op)
	switch {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xFFFF:
		b = append(b, 0x80|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, 0x80|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return binary.BigEndian.AppendUint32(b, key)
}

// mask applies the key, eight bytes at a time.
func mask(p []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	i := 0
	for ; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], binary.LittleEndian.Uint64(p[i:])^k)
	}
	for ; i < len(p); i++ {
		p[i] ^= key[i&3]
	}
}

type serverHeader struct {
	opcode byte
	length int
}

// parseServerHeader reads the header of an unmasked frame; n is its length, 0 where it is not whole yet. The server sends
// one frame for each message, so a fragment is an error.
func parseServerHeader(b []byte) (h serverHeader, n int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	if b[0]&0xF0 != 0x80 || b[0]&0x0F == opContinuation {
		return h, 0, fmt.Errorf("unexpected WebSocket frame: first byte %#x", b[0])
	}
	if b[1]&0x80 != 0 {
		return h, 0, errors.New("masked WebSocket frame from a server")
	}
	h.opcode, n = b[0]&0x0F, 2
	length := uint64(b[1])
	switch length {
	case 126:
		if n = 4; len(b) < n {
			return h, 0, nil
		}
		length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if n = 10; len(b) < n {
			return h, 0, nil
		}
		length = binary.BigEndian.Uint64(b[2:])
	}
	if length > maxPayload {
		return h, 0, fmt.Errorf("frame of %d bytes", length)
	}
	h.length = int(length)
	return h, n, nil
}
