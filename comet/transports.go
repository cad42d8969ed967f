package comet

import (
	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/tcp"
	"github.com/halley-im/halley/comet/transport/websocket"
)

// listener is one transport and where it listens.
type listener struct {
	Name     string
	Address  string
	Protocol transport.Protocol
	Secure   bool // over TLS
}

// transports is the list of transports. A new one is a folder and a line here.
func transports(cfg Config) []listener {
	ws := websocket.Default(cfg.FrameBytes)
	ws.Origins = cfg.Origins
	all := []listener{
		{tcp.Name, cfg.TCPAddress, tcp.New(cfg.FrameBytes), false},
		{websocket.Name, cfg.WebSocketAddress, websocket.New(ws), false},
		{tcp.SecureName, cfg.TLSAddress, tcp.New(cfg.FrameBytes), true},
		{websocket.SecureName, cfg.WSSAddress, websocket.New(ws), true},
	}
	var listening []listener
	for _, l := range all {
		if l.Address != "" {
			listening = append(listening, l)
		}
	}
	return listening
}

// maxTransports is how many the counters of a loop have room for.
const maxTransports = 8
