package comet_test

import (
	"strings"
	"testing"

	"github.com/halley-im/halley/comet"
)

func TestConfigDefaultHolds(t *testing.T) {
	if err := comet.Default().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	cfg := comet.Default()
	cfg.TCPAddress, cfg.BodyBytes, cfg.DrainRate, cfg.Loops = "nowhere", cfg.FrameBytes+1, 0, 129
	err := cfg.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"comet.tcp_address", "comet.body_bytes", "comet.drain_rate", "comet.loops"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
	if err := (comet.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "one of them must be set") {
		t.Errorf("no transport: %v", err)
	}
}
