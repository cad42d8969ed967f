// Package observe is what a node shows of itself: its log, its metrics and the admin HTTP server with health, profiles and
// the log level. It never decides anything; what "ready" means is told to it as named checks.
package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Check is one named condition of readiness. Run answers nil while it holds; it must obey ctx and may be called by several
// requests at once.
type Check struct {
	Name string
	Run  func(ctx context.Context) error
}

// LogConfig says what is logged and how.
type LogConfig struct {
	Level  string `koanf:"level" doc:"Lowest level that is logged: debug, info, warn or error. PUT /loglevel on the admin port changes it while running."`
	Format string `koanf:"format" doc:"auto, json or text; auto is text on a terminal and JSON elsewhere."`
}

// DefaultLog logs from info on, as text on a terminal.
func DefaultLog() LogConfig { return LogConfig{Level: "info", Format: FormatAuto} }

// Validate reports every field at fault.
func (c LogConfig) Validate() error {
	var errs []error
	if _, err := ParseLevel(c.Level); err != nil {
		errs = append(errs, fmt.Errorf("level: %w", err))
	}
	switch c.Format {
	case FormatAuto, FormatJSON, FormatText:
	default:
		errs = append(errs, fmt.Errorf("format: want auto, json or text, got %q", c.Format))
	}
	return errors.Join(errs...)
}

// AdminConfig is the admin server's.
type AdminConfig struct {
	Address             string `koanf:"address" doc:"Where /livez, /readyz, /metrics, /loglevel, /node and /debug/pprof are served. Whoever reaches it may profile the process, change its log level and take it out of work, so keep it on loopback or on a network of your own."`
	ReadHeaderTimeoutMs int    `koanf:"read_header_timeout_ms" doc:"How long a client may take to send the header of a request."`
	IdleTimeoutMs       int    `koanf:"idle_timeout_ms" doc:"How long a kept-alive connection may stay idle."`
	CheckTimeoutMs      int    `koanf:"check_timeout_ms" doc:"How long the checks of one /readyz may take together; a check that takes longer has failed."`
}

// DefaultAdmin listens on loopback.
func DefaultAdmin() AdminConfig {
	return AdminConfig{Address: "127.0.0.1:7090", ReadHeaderTimeoutMs: 5_000, IdleTimeoutMs: 60_000, CheckTimeoutMs: 2_000}
}

// Validate reports every field at fault.
func (c AdminConfig) Validate() error {
	var errs []error
	if c.Address == "" {
		errs = append(errs, errors.New("address: must not be empty"))
	}
	for _, f := range []struct {
		key   string
		value int
	}{
		{"read_header_timeout_ms", c.ReadHeaderTimeoutMs},
		{"idle_timeout_ms", c.IdleTimeoutMs},
		{"check_timeout_ms", c.CheckTimeoutMs},
	} {
		if f.value <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be above 0, got %d", f.key, f.value))
		}
	}
	return errors.Join(errs...)
}

func (c AdminConfig) checkTimeout() time.Duration {
	return time.Duration(c.CheckTimeoutMs) * time.Millisecond
}

// ParseLevel reads debug, info, warn or error, in any case.
func ParseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("want debug, info, warn or error, got %q", s)
	}
	return l, nil
}
