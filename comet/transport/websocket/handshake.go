package websocket

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/link"
)

var endOfHeader = []byte("\r\n\r\n")

// open answers the opening request once it is there as a whole. The time for it is the session's hello timeout.
func (p *Protocol) open(s *transport.State, in []byte, reply *[]byte) transport.Result {
	end := bytes.Index(in[:min(len(in), MaxHandshake)], endOfHeader)
	if end < 0 {
		if len(in) >= MaxHandshake {
			*reply = appendStatus(*reply, http.StatusRequestHeaderFieldsTooLarge, "the opening request is longer than 8 KiB")
			return transport.Result{Event: transport.EventRefused}
		}
		return transport.Result{Need: len(in) + 1}
	}
	end += len(endOfHeader)
	request := opening{Reader: bytes.NewReader(in[:end]), reply: *reply}
	before := len(*reply)
	codec, err := p.upgrade(&request)
	*reply = request.reply
	if err != nil {
		if len(request.reply) == before { // not even HTTP, so the upgrader said nothing
			*reply = appendStatus(*reply, http.StatusBadRequest, "not an HTTP request")
		}
		return transport.Result{Event: transport.EventRefused, Taken: end}
	}
	s.Open, s.Codec = true, codec
	return transport.Result{Event: transport.EventControl, Taken: end}
}

// opening is the request as the upgrader reads it and the reply as it writes it.
type opening struct {
	*bytes.Reader
	reply []byte
}

var _ io.ReadWriter = (*opening)(nil)

// Write appends to the reply.
func (o *opening) Write(p []byte) (int, error) {
	o.reply = append(o.reply, p...)
	return len(p), nil
}

func (p *Protocol) upgrade(request *opening) (link.Codec, error) {
	var host, origin, chosen string
	var offered bool
	u := ws.Upgrader{
		OnRequest: func(uri []byte) error { return p.checkPath(uri) },
		OnHost: func(value []byte) error {
			host = string(value)
			return nil
		},
		OnHeader: func(key, value []byte) error {
			if strings.EqualFold(string(key), "Origin") {
				origin = string(value)
			}
			return nil
		},
		Protocol: func(name []byte) bool {
			offered = true
			_, ok := p.cfg.Subprotocols[string(name)]
			if ok {
				chosen = string(name)
			}
			return ok
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			if !p.allowed(origin, host) {
				return nil, reject(http.StatusForbidden, "origin "+strconv.QuoteToASCII(origin)+" is not allowed here")
			}
			if _, ok := p.cfg.Subprotocols[chosen]; !ok {
				return nil, reject(http.StatusBadRequest, p.subprotocolHint(offered))
			}
			return nil, nil
		},
	}
	if _, err := u.Upgrade(request); err != nil {
		return 0, err
	}
	return p.cfg.Subprotocols[chosen], nil
}

func (p *Protocol) checkPath(uri []byte) error {
	path, _, _ := strings.Cut(string(uri), "?")
	for _, known := range p.cfg.Paths {
		if path == known {
			return nil
		}
	}
	return reject(http.StatusNotFound, "connect at "+p.cfg.Paths[0])
}

func (p *Protocol) subprotocolHint(offered bool) string {
	what := "offer a subprotocol: "
	if offered {
		what = "none of the subprotocols offered is known: "
	}
	names := make([]string, 0, len(p.cfg.Subprotocols))
	for name := range p.cfg.Subprotocols {
		names = append(names, name)
	}
	return what + strings.Join(names, " or ")
}

// allowed judges a browser's origin. Ports do not matter: the page and the connection often come from two of one host.
func (p *Protocol) allowed(origin, host string) bool {
	if origin == "" {
		return true
	}
	for _, o := range p.cfg.Origins {
		if o == "*" || strings.EqualFold(o, origin) {
			return true
		}
	}
	u, err := url.Parse(origin)
	if err != nil || u.Hostname() == "" {
		return false // "null" among others: a sandboxed page or a file
	}
	name := u.Hostname()
	if strings.EqualFold(name, "localhost") {
		return true
	}
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() {
		return true
	}
	return strings.EqualFold(name, hostname(host))
}

func hostname(hostport string) string {
	u := url.URL{Host: hostport}
	return u.Hostname()
}

func reject(status int, reason string) error {
	return ws.RejectConnectionError(ws.RejectionStatus(status), ws.RejectionReason(reason))
}

func appendStatus(dst []byte, status int, text string) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(append(dst, ' '), http.StatusText(status)...)
	dst = append(dst, "\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(text)+1), 10)
	dst = append(append(dst, "\r\n\r\n"...), text...)
	return append(dst, '\n')
}
