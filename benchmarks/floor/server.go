// Package floor is the least that a message can cost on this machine: a bare gnet WebSocket server that sends every frame
// back, and the ping-pong that drives it. It has no protocol, no token and no storage, and is never part of a deployment.
package floor

import (
	"context"
	"crypto/sha1" // RFC 6455 names it; it protects nothing.
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Endpoints is where a floor server listens; it prints this as one line of JSON when it is ready.
type Endpoints struct {
	Target string `json:"target"`
	Admin  string `json:"admin"`
}

// Mode is what a server does with what it is sent.
type Mode string

// The modes.
const (
	Echo   Mode = "echo"   // Every frame goes back to who sent it.
	Fanout Mode = "fanout" // Every frame goes to all others.
	Bytes  Mode = "bytes"  // There are no frames and no handshake: bytes go back.
)

// Serve runs the server and its /metrics on free loopback ports until ctx ends or parent, if not nil, is closed: a child
// whose parent died must not stay. It writes its Endpoints to out.
func Serve(ctx context.Context, mode Mode, parent io.Reader, out io.Writer) error {
	if mode != Echo && mode != Fanout && mode != Bytes {
		return fmt.Errorf("floor: no mode %q", mode)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if parent != nil {
		go func() {
			_, _ = io.Copy(io.Discard, parent)
			cancel()
		}()
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = web.Serve(admin) }()
	defer web.Close() //nolint:errcheck // nothing to flush.

	target, err := freePort()
	if err != nil {
		return err
	}
	e := &echo{mode: mode, booted: make(chan gnet.Engine, 1)}
	done := make(chan error, 1)
	go func() {
		done <- gnet.Run(e, "tcp://"+target, gnet.WithNumEventLoop(1), gnet.WithTCPNoDelay(gnet.TCPNoDelay),
			gnet.WithLogger(silent{}), gnet.WithLogLevel(logging.FatalLevel))
	}()
	var engine gnet.Engine
	select {
	case err := <-done:
		return fmt.Errorf("floor: %w", err)
	case engine = <-e.booted:
	}
	if err := json.NewEncoder(out).Encode(Endpoints{Target: target, Admin: "http://" + admin.Addr().String()}); err != nil {
		return err
	}
	<-ctx.Done()
	_ = engine.Stop(context.Background())
	return <-done
}

// freePort finds a port that is free now: gnet does not tell which one it was given.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close() //nolint:errcheck // it only held the port.
	return l.Addr().String(), nil
}

// echo is gnet's handler: upgrade, then every masked frame back unmasked.
type echo struct {
	gnet.BuiltinEventEngine
	mode   Mode
	booted chan gnet.Engine

	// owned by the loop: there is one
	out []byte
	all map[gnet.Conn]struct{} // With Fanout: an echo keeps nothing of its connections.
}

// OnBoot implements gnet.EventHandler.
func (e *echo) OnBoot(engine gnet.Engine) gnet.Action {
	if e.mode == Fanout {
		e.all = map[gnet.Conn]struct{}{}
	}
	e.booted <- engine
	return gnet.None
}

var errFrame = errors.New("not a whole masked binary frame of at most 64 KiB")

// upgraded marks a connection whose handshake is done.
type upgraded struct{}

// OnTraffic implements gnet.EventHandler.
func (e *echo) OnTraffic(c gnet.Conn) gnet.Action {
	buf, _ := c.Peek(-1)
	if e.mode == Bytes {
		_, _ = c.Write(buf)
		_, _ = c.Discard(-1)
		return gnet.None
	}
	if c.Context() == nil {
		end := strings.Index(string(buf), "\r\n\r\n")
		if end < 0 {
			return gnet.None
		}
		answer, err := accept(string(buf[:end]))
		if err != nil {
			return gnet.Close
		}
		c.SetContext(upgraded{})
		if e.all != nil {
			e.all[c] = struct{}{}
		}
		_, _ = c.Discard(end + 4)
		_, _ = c.Write(answer)
		return gnet.None
	}
	used := 0
	e.out = e.out[:0]
	for {
		n, out, err := echoFrame(e.out, buf[used:])
		if err != nil {
			return gnet.Close
		}
		if n == 0 {
			break
		}
		e.out, used = out, used+n
	}
	if used > 0 { // Discard(0) would take all.
		_, _ = c.Discard(used)
	}
	switch {
	case len(e.out) == 0:
	case e.all == nil:
		_, _ = c.Write(e.out)
	default:
		for other := range e.all {
			if other != c {
				_, _ = other.Write(e.out)
			}
		}
	}
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (e *echo) OnClose(c gnet.Conn, _ error) gnet.Action {
	delete(e.all, c)
	return gnet.None
}

func accept(request string) ([]byte, error) {
	for line := range strings.SplitSeq(request, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Sec-WebSocket-Key") {
			sum := sha1.Sum([]byte(strings.TrimSpace(value) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			return []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
				base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"), nil
		}
	}
	return nil, errors.New("no Sec-WebSocket-Key")
}

// echoFrame appends the answer to the first frame of in and returns that frame's length; 0 where it is not whole.
func echoFrame(out, in []byte) (int, []byte, error) {
	if len(in) < 6 {
		return 0, out, nil
	}
	length, at := int(in[1]&0x7F), 2
	if in[0] != 0x82 || in[1]&0x80 == 0 || length == 127 {
		return 0, out, errFrame
	}
	if length == 126 {
		if len(in) < 8 {
			return 0, out, nil
		}
		length, at = int(binary.BigEndian.Uint16(in[2:])), 4
	}
	end := at + 4 + length
	if len(in) < end {
		return 0, out, nil
	}
	key := binary.LittleEndian.Uint32(in[at:])
	out = append(out, in[0], in[1]&0x7F)
	out = append(out, in[2:at]...)
	start := len(out)
	out = append(out, in[at+4:end]...)
	wide := uint64(key)<<32 | uint64(key)
	p := out[start:]
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
	}
	for i := range p {
		p[i] ^= byte(key >> (8 * i))
	}
	return end, out, nil
}

type silent struct{}

func (silent) Debugf(string, ...any) {}
func (silent) Infof(string, ...any)  {}
func (silent) Warnf(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}
