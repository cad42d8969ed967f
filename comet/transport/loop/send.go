package loop

import (
	"github.com/panjf2000/gnet/v2"

	"github.com/halley-im/halley/comet/transport"
)

// Send is c.Write, at less cost where nothing waits for the socket: gnet's write goes by way of files, which takes 6 % of a delivery's
// time. c is a connection that this engine opened.
func (*Engine) Send(c transport.Conn, p []byte) (int, error) {
	sent := 0
	if socket, ok := c.(gnet.Conn); ok && len(p) > 0 && socket.OutboundBuffered() == 0 {
		if sent = send(socket.Fd(), p); sent == len(p) {
			return sent, nil
		}
	}
	n, err := c.Write(p[sent:]) // What is left waits, and what is wrong with the socket ends the connection.
	return sent + n, err
}
