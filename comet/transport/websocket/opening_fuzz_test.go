package websocket

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"github.com/halley-im/halley/comet/transport"
)

// FuzzOpening: whatever a stranger sends to open the connection is answered with HTTP, within the bound on its length, and the
// same in pieces as in one.
func FuzzOpening(f *testing.F) {
	const good = "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: halley.v1.json\r\n"
	f.Add([]byte(good + "\r\n"))
	f.Add([]byte(good + "Origin: https://evil.example\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\r\n\r\n"))
	f.Add([]byte("GET http://[::1 HTTP/1.1\r\nOrigin: http://[::1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, s := New(Default(1<<16)), new(transport.State)
		var whole []byte
		r := p.Next(s, bytes.Clone(in), &whole)
		if r.Taken > len(in) || r.Event == transport.EventNone && r.Fail == 0 && (r.Need <= len(in) || len(in) >= MaxHandshake) {
			t.Fatalf("%q: %+v", in, r)
		}
		if s.Open != (r.Event == transport.EventControl) {
			t.Fatalf("%q: open %v, %+v", in, s.Open, r)
		}
		if len(whole) > 0 {
			res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(whole)), nil)
			if err != nil {
				t.Fatalf("%q is answered with %q: %v", in, whole, err)
			}
			if (res.StatusCode == http.StatusSwitchingProtocols) != s.Open {
				t.Fatalf("%q: status %d, open %v", in, res.StatusCode, s.Open)
			}
			_ = res.Body.Close()
		}
		pieces, other := new(transport.State), []byte(nil)
		var last transport.Result
		for n := 1; n <= len(in); n++ {
			if last = p.Next(pieces, bytes.Clone(in[:n]), &other); last.Event != transport.EventNone || last.Fail != 0 {
				break
			}
		}
		if len(in) > 0 && (last.Event != r.Event || last.Taken != r.Taken || !bytes.Equal(other, whole)) {
			t.Fatalf("%q in pieces: %+v %q, in one: %+v %q", in, last, other, r, whole)
		}
	})
}
