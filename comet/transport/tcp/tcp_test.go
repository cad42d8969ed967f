package tcp_test

import (
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/comet/transport/transporttest"
)

func TestTransport(t *testing.T) { transporttest.Run(t, comettest.TCP()) }

func TestTransportOverTLS(t *testing.T) { transporttest.Run(t, comettest.Secure(comettest.TCP())) }
