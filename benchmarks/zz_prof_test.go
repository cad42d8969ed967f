package benchmarks_test

import (
	"os"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/pkg/auth"
)

func TestZZProf(t *testing.T) {
	keys, err := auth.LoadKeys(os.Getenv("KEYS"))
	if err != nil {
		t.Skip(err)
	}
	c := benchmarks.Default()
	c.Targets, c.Admin, c.Key, c.Duration = []string{"127.0.0.1:24248"}, []string{"127.0.0.1:24250"}, keys[0], 8*time.Second
	r, err := benchmarks.RunP2P(t.Context(), benchmarks.P2PConfig{Config: c, Load: benchmarks.Load{Outstanding: 1}}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	r.Summary(os.Stderr)
}
