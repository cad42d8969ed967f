package websocket

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
)

// opening builds a request; changes are "Name: value" to set, "-Name" to drop, "GET /x" to go elsewhere.
func openingRequest(changes ...string) []byte {
	line := "GET /v1/connect HTTP/1.1"
	headers := [][2]string{
		{"Host", "chat.example.com:443"}, {"Upgrade", "websocket"}, {"Connection", "keep-alive, Upgrade"},
		{"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}, {"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Protocol", "halley.v1.json"},
	}
	for _, c := range changes {
		name, value, set := strings.Cut(c, ": ")
		if strings.Contains(c, " HTTP/") || strings.HasPrefix(c, "GET ") {
			line = c
			if !strings.Contains(c, " HTTP/") {
				line += " HTTP/1.1"
			}
			continue
		}
		kept := headers[:0]
		for _, h := range headers {
			if h[0] != strings.TrimPrefix(name, "-") {
				kept = append(kept, h)
			}
		}
		headers = kept
		if set {
			headers = append(headers, [2]string{name, value})
		}
	}
	var b bytes.Buffer
	b.WriteString(line + "\r\n")
	for _, h := range headers {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

func TestOpening(t *testing.T) {
	cfg := Default(1 << 16)
	cfg.Origins = []string{"https://partner.example"}
	for name, c := range map[string]struct {
		request []byte
		status  int
	}{
		"a person with a tool":     {openingRequest(), 101},
		"the root path":            {openingRequest("GET /"), 101},
		"a query":                  {openingRequest("GET /v1/connect?v=1"), 101},
		"proto":                    {openingRequest("Sec-WebSocket-Protocol: halley.v1.proto"), 101},
		"one of several":           {openingRequest("Sec-WebSocket-Protocol: x, halley.v1.json"), 101},
		"another path":             {openingRequest("GET /admin"), 404},
		"no subprotocol":           {openingRequest("-Sec-WebSocket-Protocol"), 400},
		"unknown subprotocol":      {openingRequest("Sec-WebSocket-Protocol: mqtt"), 400},
		"POST":                     {openingRequest("POST /v1/connect HTTP/1.1"), 405},
		"HTTP/1.0":                 {openingRequest("GET /v1/connect HTTP/1.0"), 505},
		"a plain GET":              {openingRequest("-Upgrade"), 400},
		"a short key":              {openingRequest("Sec-WebSocket-Key: abc"), 400},
		"an old version":           {openingRequest("Sec-WebSocket-Version: 8"), 426},
		"no version":               {openingRequest("-Sec-WebSocket-Version"), 400},
		"no host":                  {openingRequest("-Host"), 400},
		"same host":                {openingRequest("Origin: https://chat.example.com"), 101},
		"same host, other port":    {openingRequest("Origin: http://CHAT.example.com:8080"), 101},
		"loopback":                 {openingRequest("Origin: http://localhost:3000"), 101},
		"loopback address":         {openingRequest("Origin: http://127.0.0.1:3000"), 101},
		"loopback, IPv6":           {openingRequest("Origin: http://[::1]:3000"), 101},
		"allowed":                  {openingRequest("Origin: https://partner.example"), 101},
		"elsewhere":                {openingRequest("Origin: https://evil.example"), 403},
		"looks like the host":      {openingRequest("Origin: https://chat.example.com.evil.example"), 403},
		"looks like loopback":      {openingRequest("Origin: http://localhost.evil.example"), 403},
		"looks like the allowed":   {openingRequest("Origin: https://partner.example.evil"), 403},
		"a sandboxed page":         {openingRequest("Origin: null"), 403},
		"not HTTP":                 {[]byte("\x16\x03\x01 hello\r\n\r\n"), 400},
		"longer than 8 KiB":        {openingRequest("Cookie: " + strings.Repeat("x", MaxHandshake)), 431},
		"long, but not too long":   {openingRequest("Cookie: " + strings.Repeat("x", 3000)), 101},
		"one very long line below": {openingRequest("Cookie: " + strings.Repeat("x", 7000)), 101},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(cfg)
			var s transport.State
			var reply []byte
			for n := range c.request[:min(len(c.request), 2000)] { // nothing is answered too early
				if r := p.Next(&s, c.request[:n], &reply); r.Event != transport.EventNone || r.Need <= n {
					t.Fatalf("after %d bytes: %+v", n, r)
				}
			}
			r := p.Next(&s, c.request, &reply)
			line, _, _ := strings.Cut(string(reply), "\r\n")
			if want := http.StatusText(c.status); !strings.HasPrefix(line, "HTTP/1.1 ") || !strings.Contains(line, want) {
				t.Errorf("answered %q, want %d %s", line, c.status, want)
			}
			if opened := c.status == 101; opened != s.Open || opened != (r.Event == transport.EventControl) {
				t.Errorf("open %v, %+v", s.Open, r)
			}
		})
	}
}

func TestOpeningChoosesTheCodec(t *testing.T) {
	for name, want := range map[string]link.Codec{"halley.v1.json": link.CodecJSON, "halley.v1.proto": link.CodecProto} {
		p := New(Default(1 << 16))
		var s transport.State
		var reply []byte
		p.Next(&s, openingRequest("Sec-WebSocket-Protocol: "+name), &reply)
		if s.Codec != want || !strings.Contains(string(reply), "Sec-WebSocket-Protocol: "+name+"\r\n") {
			t.Errorf("%s: codec %d, %q", name, s.Codec, reply)
		}
	}
}
