package main

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// drip writes byte after byte, slowly, until the other end has had enough of it.
func drip(conn net.Conn, data []byte, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range data {
		if _, err := conn.Write(data[i : i+1]); err != nil {
			return
		}
		<-tick.C
	}
}

// Clients that begin and never finish, a byte now and then, are closed when their time to be known is over: the bytes buy them none.
func TestHostileOpenings(t *testing.T) {
	t.Parallel()
	w := startHostile(t, "comet.hello_timeout_ms=1500")
	const each = 60
	opening := "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	attacks := map[string]func() (net.Conn, []byte){
		"a length over TCP":     func() (net.Conn, []byte) { return w.bare(w.tcp), []byte{0, 0, 0x3F, 0} },
		"a frame over TCP":      func() (net.Conn, []byte) { return w.bare(w.tcp), append([]byte{0, 0, 0x3F, 0}, make([]byte, 500)...) },
		"a WebSocket handshake": func() (net.Conn, []byte) { return w.bare(w.ws), []byte(opening + strings.Repeat("X-A: b\r\n", 100)) },
		"a WebSocket frame": func() (net.Conn, []byte) {
			c := w.dial(comettest.WebSocket(link.CodecProto))
			return c.Conn, append(c.Header(10_000), make([]byte, 500)...)
		},
		"silence": func() (net.Conn, []byte) { return w.bare(w.ws), nil },
	}
	w.counted(each*len(attacks), "disconnects_total", "code", "hello_timeout", func() {
		var wg sync.WaitGroup
		for _, attack := range attacks {
			for range each {
				conn, data := attack()
				wg.Go(func() {
					var writing sync.WaitGroup
					writing.Go(func() { drip(conn, data, 50*time.Millisecond) })
					_, _ = io.Copy(io.Discard, conn) // Until the server ends it.
					_ = conn.Close()
					writing.Wait()
				})
			}
		}
		w.friend.Ping()
		wg.Wait()
	})
	w.over()
}

// A session that holds a half frame open, byte by byte, is no more alive than one that says nothing; what it held is given back.
func TestHostileHalfFrames(t *testing.T) {
	t.Parallel()
	w := startHostile(t, "comet.heartbeat_ms=2000")
	const each = 100
	stop := make(chan struct{})
	var alive sync.WaitGroup
	alive.Go(func() { // The friend's heart beats.
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				w.friend.Ping()
			}
		}
	})
	wires := comettest.Wires()
	w.counted(each*len(wires), "disconnects_total", "code", "heartbeat_timeout", func() {
		var wg sync.WaitGroup
		for name, wire := range wires {
			for i := range each {
				c := w.connect(wire, "mallory", strings.ReplaceAll(name, " ", "-")+"-"+string(rune('a'+i/26))+string(rune('a'+i%26)))
				wg.Go(func() {
					defer c.Close()
					half := append(c.Header(60_000), make([]byte, 50_000)...)
					for j := range half[len(c.Header(60_000)):] { // Under its mask this is text.
						half[len(c.Header(60_000))+j] = "A@CB"[j%4]
					}
					if _, err := c.Write(half); err != nil {
						t.Error(err)
						return
					}
					var writing sync.WaitGroup
					writing.Go(func() { drip(c.Conn, make([]byte, 2000), 50*time.Millisecond) })
					if closing := closing(c); closing == nil || closing.Code != uint32(protocol.CloseHeartbeat) {
						t.Errorf("%s: closed with %v", name, closing)
					}
					_ = c.Close()
					writing.Wait()
				})
			}
		}
		wg.Wait()
	})
	close(stop)
	alive.Wait()
	w.over()
}

// closing is the Close frame that ends a connection, nil if there is none.
func closing(c *comettest.Client) *envelopev1.Close {
	for {
		f, err := c.TryRecv()
		if err != nil {
			return nil
		}
		if f.Command == envelopev1.Command_COMMAND_CLOSE {
			body := new(envelopev1.Close)
			c.OpenBody(f, body)
			return body
		}
	}
}

// The HTTP ports close clients that never finish their header.
func TestHostileHTTP(t *testing.T) {
	t.Parallel()
	w := startHostile(t, "admin.read_header_timeout_ms=1000")
	var wg sync.WaitGroup
	for _, at := range []string{w.endpoints().API, w.endpoints().Admin} {
		for range 30 {
			conn := w.bare(strings.TrimPrefix(at, "http://"))
			wg.Go(func() {
				var writing sync.WaitGroup
				writing.Go(func() {
					drip(conn, []byte("GET / HTTP/1.1\r\n"+strings.Repeat("X-A: b\r\n", 1000)), 50*time.Millisecond)
				})
				_, err := io.Copy(io.Discard, conn)
				if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
					t.Errorf("%s keeps a client that never finishes", at)
				}
				_ = conn.Close()
				writing.Wait()
			})
		}
	}
	wg.Wait()
	w.over()
}
