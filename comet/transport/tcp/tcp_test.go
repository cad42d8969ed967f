package tcp_test

import (
	"net/netip"
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/comet/transport/transporttest"
)

func TestTransport(t *testing.T) { transporttest.Run(t, comettest.TCP()) }

func TestTransportOverTLS(t *testing.T) { transporttest.Run(t, comettest.Secure(comettest.TCP())) }

func TestTransportBehindABalancer(t *testing.T) {
	transporttest.Run(t, comettest.PassedOn(comettest.TCP(), netip.MustParseAddrPort("192.0.2.7:4242")))
}
