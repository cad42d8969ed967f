package comettest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Wire is a transport from the device's side.
type Wire struct {
	Transport string
	Codec     link.Codec
	// From is the address of this machine to dial from; empty: any.
	From string
	// Begin is written before everything else.
	Begin []byte
	// TLS, if it is set, is what the device begins with.
	TLS func(t testing.TB) *tls.Config
	// Open does the transport's opening on a fresh connection.
	Open func(conn net.Conn, r *bufio.Reader) error
	// Encode makes what travels of a frame.
	Encode func(frame []byte) []byte
	// Header makes the beginning of a frame of n bytes.
	Header func(n int) []byte
	// Read reads one frame; io.EOF after the transport's own goodbye.
	Read func(r *bufio.Reader) ([]byte, error)
}

// TCP is the plain transport.
func TCP() Wire {
	header := func(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	return Wire{
		Transport: "tcp", Codec: link.CodecProto, Header: header,
		Open:   func(net.Conn, *bufio.Reader) error { return nil },
		Encode: func(frame []byte) []byte { return append(header(len(frame)), frame...) },
		Read: func(r *bufio.Reader) ([]byte, error) {
			var head [4]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return nil, err
			}
			frame := make([]byte, binary.BigEndian.Uint32(head[:]))
			_, err := io.ReadFull(r, frame)
			return frame, err
		},
	}
}

// WebSocket is the WebSocket transport with a codec.
func WebSocket(codec link.Codec) Wire {
	op, name := ws.OpBinary, protocol.SubprotocolProto
	if codec == link.CodecJSON {
		op, name = ws.OpText, protocol.SubprotocolJSON
	}
	return Wire{
		Transport: "websocket", Codec: codec,
		Open: func(conn net.Conn, r *bufio.Reader) error {
			_, err := fmt.Fprintf(conn, "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\n\r\n", name)
			if err != nil {
				return err
			}
			for first := true; ; first = false {
				line, err := r.ReadString('\n')
				if err != nil {
					return err
				}
				if first && line != "HTTP/1.1 101 Switching Protocols\r\n" {
					return fmt.Errorf("opening refused: %s", line)
				}
				if line == "\r\n" {
					return nil
				}
			}
		},
		Header: func(n int) []byte {
			data, err := ws.CompileFrame(ws.Frame{Header: ws.Header{Fin: true, OpCode: op, Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: int64(n)}})
			if err != nil {
				panic(err)
			}
			return data
		},
		Encode: func(frame []byte) []byte {
			return ws.MustCompileFrame(ws.MaskFrameWith(ws.NewFrame(op, true, frame), [4]byte{9, 8, 7, 6}))
		},
		Read: func(r *bufio.Reader) ([]byte, error) {
			for {
				header, err := ws.ReadHeader(r)
				if err != nil {
					return nil, err
				}
				payload := make([]byte, header.Length)
				if _, err := io.ReadFull(r, payload); err != nil {
					return nil, err
				}
				switch header.OpCode {
				case ws.OpClose:
					return nil, io.EOF
				case op:
					return payload, nil
				}
			}
		},
	}
}

// Secure is a transport over TLS.
func Secure(w Wire) Wire {
	w.Transport = map[string]string{"tcp": "tls", "websocket": "wss"}[w.Transport]
	w.TLS = func(t testing.TB) *tls.Config {
		return &tls.Config{RootCAs: authority(t).Pool(), ServerName: "localhost"}
	}
	return w
}

// PassedOn is a transport behind the balancer, which says that the device is at an address.
func PassedOn(w Wire, device netip.AddrPort) Wire {
	family := "TCP4"
	if device.Addr().Is6() {
		family = "TCP6"
	}
	w.From, w.Begin = Balancer, fmt.Appendf(nil, "PROXY %s %s %s %d 443\r\n", family, device.Addr(), device.Addr(), device.Port())
	return w
}

// Wires are all of them without TLS.
func Wires() map[string]Wire {
	return map[string]Wire{
		"tcp": TCP(), "websocket proto": WebSocket(link.CodecProto), "websocket json": WebSocket(link.CodecJSON),
	}
}

// AllWires are those of Wires, and over TLS.
func AllWires() map[string]Wire {
	all := Wires()
	for name, w := range Wires() {
		all[name+" over TLS"] = Secure(w)
	}
	return all
}

// Client is a device.
type Client struct {
	net.Conn
	Wire
	t testing.TB
	r *bufio.Reader
}

// Dial opens the transport and no session.
func (n *Node) Dial(t testing.TB, w Wire) *Client {
	t.Helper()
	c, err := n.TryDial(t, w)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TryDial is Dial where it may fail.
func (n *Node) TryDial(t testing.TB, w Wire) (*Client, error) {
	t.Helper()
	return dialTo(t, w, n.Addr(w.Transport).String(), &net.Dialer{})
}

// DialFrom is Dial from another address of this machine.
func (n *Node) DialFrom(t testing.TB, w Wire, address string) *Client {
	t.Helper()
	c, err := dialTo(t, w, n.Addr(w.Transport).String(), &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// DialTo opens the transport to an address, whatever listens there.
func DialTo(t testing.TB, w Wire, address string) (*Client, error) {
	t.Helper()
	return dialTo(t, w, address, &net.Dialer{})
}

func dialTo(t testing.TB, w Wire, address string, d *net.Dialer) (*Client, error) {
	t.Helper()
	if w.From != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(w.From)}
	}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(w.Begin); err != nil {
		return nil, err
	}
	if w.TLS != nil {
		secured := tls.Client(conn, w.TLS(t))
		if err := secured.Handshake(); err != nil {
			return nil, err
		}
		conn = secured
	}
	c := &Client{Conn: conn, Wire: w, t: t, r: bufio.NewReader(conn)}
	return c, w.Open(conn, c.r)
}

// Adopt makes a device of a connection whose transport is open.
func Adopt(t testing.TB, w Wire, conn net.Conn) *Client {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &Client{Conn: conn, Wire: w, t: t, r: bufio.NewReader(conn)}
}

// Connect opens a session.
func (n *Node) Connect(t testing.TB, w Wire, token string) *Client {
	t.Helper()
	c := n.Dial(t, w)
	hello := c.Hello(token)
	if hello == nil {
		t.Fatalf("no hello for %q", token)
	}
	return c
}

// Prefix has the next frame that is sent leave together with p before it.
func (c *Client) Prefix(p []byte) {
	encode := c.Encode
	c.Encode = func(frame []byte) []byte {
		c.Encode = encode
		return append(bytes.Clone(p), encode(frame)...)
	}
}

// Socket is what the device's end stands on.
func (c *Client) Socket() *net.TCPConn {
	conn := c.Conn
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	return conn.(*net.TCPConn)
}

func (c *Client) json() bool { return c.Codec == link.CodecJSON }

// Hello sends Connect and returns the answer, nil if it is no Hello.
func (c *Client) Hello(token string) *envelopev1.Hello { return c.Resume(token, nil) }

// Resume is Hello with a ticket.
func (c *Client) Resume(token string, ticket []byte) *envelopev1.Hello {
	c.t.Helper()
	c.Send(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 1, Body: c.Body(&envelopev1.Connect{Token: token, Ticket: ticket}),
	})
	f := c.Recv()
	if f.Command != envelopev1.Command_COMMAND_CONNECT || f.Error != nil {
		return nil
	}
	var hello envelopev1.Hello
	c.OpenBody(f, &hello)
	return &hello
}

// Body encodes a body for the client's codec.
func (c *Client) Body(m protocol.Message) []byte {
	data, err := protocol.EncodeBody(c.json(), m)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// OpenBody decodes the body of one frame.
func (c *Client) OpenBody(f *envelopev1.Frame, m protocol.Message) {
	c.t.Helper()
	if err := protocol.DecodeBody(c.json(), f.Body, m); err != nil {
		c.t.Fatalf("body of %v: %v", f.Command, err)
	}
}

// Bytes is the frame as it travels.
func (c *Client) Bytes(f *envelopev1.Frame) []byte {
	data, err := protocol.EncodeFrame(c.json(), f)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.Encode(data)
}

// Send sends a frame.
func (c *Client) Send(f *envelopev1.Frame) {
	c.t.Helper()
	if _, err := c.Write(c.Bytes(f)); err != nil {
		c.t.Fatal(err)
	}
}

// TryRecv reads a frame.
func (c *Client) TryRecv() (*envelopev1.Frame, error) {
	data, err := c.ReadFrame()
	if err != nil {
		return nil, err
	}
	f := new(envelopev1.Frame)
	if c.json() {
		// The refusal of a command that could not be read names none.
		if err := protocol.DecodeJSONFrame(data, f); err != nil && f.Error == nil {
			return nil, err
		}
		return f, nil
	}
	return f, f.UnmarshalVT(data)
}

// ReadFrame reads the bytes of one frame.
func (c *Client) ReadFrame() ([]byte, error) { return c.Wire.Read(c.r) }

// Recv reads a frame or fails the test.
func (c *Client) Recv() *envelopev1.Frame {
	c.t.Helper()
	f, err := c.TryRecv()
	if err != nil {
		c.t.Fatalf("read a frame: %v", err)
	}
	return f
}

// Closed reads until the Close frame and the end of the connection, and returns the Close.
func (c *Client) Closed() *envelopev1.Close {
	c.t.Helper()
	var closing *envelopev1.Close
	for {
		f, err := c.TryRecv()
		if err != nil {
			if closing == nil {
				c.t.Fatalf("ended without a Close frame: %v", err)
			}
			return closing
		}
		if f.Command == envelopev1.Command_COMMAND_CLOSE {
			closing = new(envelopev1.Close)
			c.OpenBody(f, closing)
		}
	}
}

// Ping proves that the session lives and that everything before was handled.
func (c *Client) Ping() {
	c.t.Helper()
	c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING, RequestId: 77})
	if f := c.Recv(); f.Command != envelopev1.Command_COMMAND_PONG || f.RequestId != 77 {
		c.t.Fatalf("ping answered with %v", f)
	}
}

// Reopen does the opening again on another way to write to the same connection.
func (c *Client) Reopen(conn net.Conn, open func(net.Conn, *bufio.Reader) error) error {
	return open(conn, c.r)
}
