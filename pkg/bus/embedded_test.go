package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// The server in this process stops its logs for good when the disk is full (server.handleOutOfSpace); whoever runs it must be told, for
// nothing else ends and every append would be refused until somebody looks.
func TestEmbeddedSaysThatItsLogsHaveStopped(t *testing.T) {
	s := bustest.StartEmbedded(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Fatalf("it was stopped, and said %v", err)
	}
	go func() { ended <- s.Run(t.Context()) }()
	if err := s.Server().ShutdownJetStream(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, bus.ErrLogsStopped) {
			t.Errorf("%v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody was told")
	}
}
