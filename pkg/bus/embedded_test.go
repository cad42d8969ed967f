package bus_test

import (
	"context"
	"errors"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// told waits for the end of Run.
func told(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, bus.ErrLogsStopped) {
			t.Errorf("%v", err)
		}
	case <-time.After(bustest.Wait):
		t.Error("nobody was told")
	}
}

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
	told(t, ended)
}

// A stream whose file could not be written is dead for good, and its server goes on: appends are not even answered. Whoever runs the
// server must be told. Files of this process may not grow for a moment, which is to the server as a disk that is full.
func TestEmbeddedSaysThatALogCouldNotBeWritten(t *testing.T) {
	s := bustest.StartEmbedded(t)
	c := bustest.Connect(t, s)
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: 64 << 20})
	l := bustest.OpenLog(t, c, 0)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	signal.Ignore(syscall.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(syscall.SIGXFSZ) })
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 16, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := l.Append(ctx, []byte("a block that finds no room"), false, 0)
	if restored := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); restored != nil {
		t.Fatal(restored)
	}
	if err == nil {
		t.Error("it was acknowledged")
	}
	told(t, ended)
}
