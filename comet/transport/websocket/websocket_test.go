package websocket_test

import (
	"net/netip"
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/comet/transport/transporttest"
	"github.com/halley-im/halley/pkg/link"
)

func TestTransportProto(t *testing.T) { transporttest.Run(t, comettest.WebSocket(link.CodecProto)) }

func TestTransportJSON(t *testing.T) { transporttest.Run(t, comettest.WebSocket(link.CodecJSON)) }

func TestTransportProtoOverTLS(t *testing.T) {
	transporttest.Run(t, comettest.Secure(comettest.WebSocket(link.CodecProto)))
}

func TestTransportJSONOverTLS(t *testing.T) {
	transporttest.Run(t, comettest.Secure(comettest.WebSocket(link.CodecJSON)))
}

func TestTransportOverTLSBehindABalancer(t *testing.T) {
	wire := comettest.Secure(comettest.WebSocket(link.CodecProto))
	transporttest.Run(t, comettest.PassedOn(wire, netip.MustParseAddrPort("[2001:db8::7]:4242")))
}
