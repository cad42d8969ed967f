package pebble

import (
	"log/slog"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/storetest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// small has tables so small that the suite flushes and compacts.
func small() Config {
	cfg := Default()
	cfg.MemTableBytes = 2 << 20
	return cfg
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := Open(t.TempDir(), small(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
