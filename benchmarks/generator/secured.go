package generator

import (
	"crypto/tls"
	"errors"
	"net"

	"github.com/halley-im/halley/pkg/looptls"
)

// Bounds of handshakes: as many as are dialled at once, more or less, and none for longer than a hello.
const clientHandshakes = 512

// plainBytes is each loop's buffer for what it has decrypted.
const plainBytes = 64 << 10

// secure gives each target a configuration of TLS with its name.
func (f *Fleet) secure() {
	if f.cfg.TLS == nil {
		return
	}
	f.desk = looptls.NewDesk(looptls.DeskConfig{Handshakes: clientHandshakes, Timeout: helloTimeout})
	for _, target := range f.cfg.Targets {
		own := f.cfg.TLS.Clone()
		if host, _, err := net.SplitHostPort(target); err == nil && own.ServerName == "" {
			own.ServerName = host
		}
		f.secured = append(f.secured, own)
	}
}

var _ looptls.Waker = (*Line)(nil)

// beginTLS has the handshake done; the transport's own opening waits for it.
func (l *Line) beginTLS(cfg *tls.Config) {
	l.tls = new(looptls.Conn)
	l.tls.Connect(l.worker.fleet.desk, cfg, l.gc, l)
}

// WakeTLS implements looptls.Waker.
func (l *Line) WakeTLS() { l.worker.Post(l.handshaken) }

// handshaken is the loop's part of a handshake.
func (l *Line) handshaken() {
	if l.gc == nil || l.tls == nil {
		return
	}
	opened, err := l.tls.Run()
	if err != nil {
		l.Close(err)
		return
	}
	if opened {
		l.begin()
		if err := l.decrypt(); err != nil {
			l.Close(err)
		}
	}
}

// receive takes what arrived on the socket.
func (l *Line) receive() error {
	if !l.tls.Open() {
		return l.tls.Receive()
	}
	return l.decrypt()
}

// decrypt consumes the plain text that is there. What is no whole frame is kept.
func (l *Line) decrypt() error {
	buf := l.worker.plain()
	for l.gc != nil && !l.closing {
		n, err := l.tls.Read(buf)
		if errors.Is(err, looptls.ErrAgain) {
			return nil
		}
		if err != nil {
			return err
		}
		in := buf[:n]
		if len(l.kept) > 0 {
			l.kept = append(l.kept, in...)
			in = l.kept
		}
		taken, err := l.consume(in)
		if err != nil {
			return err
		}
		if taken == len(in) {
			l.kept = nil
		} else {
			l.kept = append([]byte(nil), in[taken:]...)
		}
	}
	return nil
}

// plain is the loop's buffer.
func (w *Worker) plain() []byte {
	if w.decrypted == nil {
		w.decrypted = make([]byte, plainBytes)
	}
	return w.decrypted
}

// transmit writes to the socket, under TLS where the line has it.
func (l *Line) transmit(out []byte) {
	if l.tls != nil {
		_, _ = l.tls.Write(out)
		return
	}
	_, _ = l.gc.Write(out)
}

// endTLS is to be called when the socket is closed.
func (l *Line) endTLS() {
	if l.tls != nil {
		l.tls.Abandon()
		l.tls, l.kept = nil, nil
	}
}
