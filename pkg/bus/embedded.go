package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const embeddedStart = 10 * time.Second

// EmbeddedConfig says how the server inside this process runs.
type EmbeddedConfig struct {
	// Dir holds everything it keeps.
	Dir string
	// MaxStore is how many bytes all logs and buckets may take; 0 leaves it to the server (three quarters of the free disk).
	MaxStore int64
	// SyncAlways makes every append wait for the disk. Without it a power cut loses what was acknowledged in the last two
	// minutes: for tests only.
	SyncAlways bool
	// MaxPayload in bytes; 0 means 1 MiB.
	MaxPayload int32
}

// Embedded is a NATS server with JetStream inside this process. It listens on nothing.
type Embedded struct {
	srv *server.Server
	log *serverLog
}

// StartEmbedded starts it and returns when it takes connections.
func StartEmbedded(cfg EmbeddedConfig, log *slog.Logger) (*Embedded, error) {
	if cfg.Dir == "" {
		return nil, errors.New("bus: embedded: dir is missing")
	}
	srv, err := server.NewServer(&server.Options{
		ServerName:        "embedded",
		DontListen:        true,
		JetStream:         true,
		StoreDir:          cfg.Dir,
		JetStreamMaxStore: cfg.MaxStore,
		SyncAlways:        cfg.SyncAlways,
		MaxPayload:        cfg.MaxPayload,
		NoSigs:            true, // signals belong to the program
	})
	if err != nil {
		return nil, fmt.Errorf("bus: embedded: %w", err)
	}
	said := &serverLog{log: log.With("part", "nats-server"), broken: make(chan struct{})}
	srv.SetLoggerV2(said, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(embeddedStart) {
		srv.Shutdown()
		return nil, fmt.Errorf("bus: embedded: not ready after %v", embeddedStart)
	}
	if !srv.JetStreamEnabled() {
		srv.Shutdown()
		return nil, fmt.Errorf("bus: embedded: JetStream did not start on %s; the log says why", cfg.Dir)
	}
	return &Embedded{srv: srv, log: said}, nil
}

// ErrLogsStopped means that the server could not write to its disk, be it full or broken. A stream to which that happened takes no more
// appends, whatever becomes of the disk, until the process starts anew.
var ErrLogsStopped = errors.New("bus: embedded: the logs have stopped: their disk is full or cannot be written")

// watchEvery is how long at most nobody notices.
const watchEvery = time.Second

// Run returns ErrLogsStopped once the server could not write to its disk, else nil when ctx ends.
func (e *Embedded) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for e.srv.JetStreamEnabled() {
		select {
		case <-ctx.Done():
			return nil
		case <-e.log.broken:
			return ErrLogsStopped
		case <-ticker.C:
		}
	}
	return ErrLogsStopped
}

// Shutdown ends it: everything on disk is complete when it returns.
func (e *Embedded) Shutdown() {
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
}

// serverLog passes the server's warnings and errors on; its notices are for a server of its own, not for a part of another.
type serverLog struct {
	log    *slog.Logger
	once   sync.Once
	broken chan struct{} // Closed when a write has failed.
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *serverLog) Fatalf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l *serverLog) Debugf(string, ...any)           {}
func (l *serverLog) Tracef(string, ...any)           {}

// Errorf also listens for what the server tells nobody else: whoever appended gets no answer, and of a log that is not replicated
// the server does not count it as unhealthy.
func (l *serverLog) Errorf(format string, v ...any) {
	said := fmt.Sprintf(format, v...)
	l.log.Error(said)
	if strings.Contains(said, "Critical write error") || strings.Contains(said, "failed to store a msg") {
		l.once.Do(func() { close(l.broken) })
	}
}

// Server is the server itself, for tests that do to it what the package never does.
func (e *Embedded) Server() *server.Server { return e.srv }
