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
}

// transports is the list of transports. A new one is a folder and a line here.
func transports(cfg Config) []listener {
	ws := websocket.Default(cfg.FrameBytes)
	ws.Origins = cfg.Origins
	all := []listener{
		{tcp.Name, cfg.TCPAddress, tcp.New(cfg.FrameBytes)},
		{websocket.Name, cfg.WebSocketAddress, websocket.New(ws)},
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
