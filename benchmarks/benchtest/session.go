package benchtest

import (
	"encoding/binary"
	"io"
	"net"

	"github.com/gobwas/ws/wsutil"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// frames is a transport's framing, by libraries and the standard library: not the generator's own.
type frames interface {
	read(c net.Conn) ([]byte, error)
	write(c net.Conn, p []byte) error
}

type tcpFrames struct{}

func (tcpFrames) read(c net.Conn) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint32(n[:]))
	_, err := io.ReadFull(c, p)
	return p, err
}

func (tcpFrames) write(c net.Conn, p []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...))
	return err
}

type wsFrames struct{}

func (wsFrames) read(c net.Conn) ([]byte, error)  { return wsutil.ReadClientBinary(c) }
func (wsFrames) write(c net.Conn, p []byte) error { return wsutil.WriteServerBinary(c, p) }

type session struct {
	server *Server
	conn   net.Conn
	frames frames
	user   string
	out    chan []byte
	gone   chan struct{}
	swap   []byte // A push that waits for the next one.
}

func (p *session) readLoop() {
	for {
		b, err := p.frames.read(p.conn)
		if err != nil {
			return
		}
		f := new(envelopev1.Frame)
		if f.UnmarshalVT(b) != nil || !p.server.handle(p, f) {
			return
		}
	}
}

func (p *session) writeLoop() {
	for {
		select {
		case b := <-p.out:
			if p.frames.write(p.conn, b) != nil {
				_ = p.conn.Close()
				return
			}
		case <-p.gone:
			return
		}
	}
}

func (p *session) send(f *envelopev1.Frame) { p.sendRaw(encode(f)) }

func (p *session) sendRaw(b []byte) {
	select {
	case p.out <- b:
	default: // It does not read: as a slow reader it loses its connection.
		_ = p.conn.Close()
	}
}

type marshaler interface{ MarshalVT() ([]byte, error) }

func encode(m marshaler) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(err)
	}
	return b
}
