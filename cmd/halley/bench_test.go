package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/benchmarks"
)

func TestTargetsSayTransportAndPath(t *testing.T) {
	for _, c := range []struct {
		targets              []string
		transport, path, err string
		hosts                []string
	}{
		{targets: []string{"10.0.0.1:80"}, transport: "ws", path: "/v1/connect", hosts: []string{"10.0.0.1:80"}},
		{targets: []string{"ws://a:1/chat", "ws://b:2/chat"}, transport: "ws", path: "/chat", hosts: []string{"a:1", "b:2"}},
		{targets: []string{"tcp://[::1]:7071"}, transport: "tcp", path: "/v1/connect", hosts: []string{"[::1]:7071"}},
		{targets: []string{"wss://a:1", "wss://b:2"}, transport: "wss", path: "/v1/connect", hosts: []string{"a:1", "b:2"}},
		{targets: []string{"tls://a:1"}, transport: "tls", path: "/v1/connect", hosts: []string{"a:1"}},
		{targets: []string{"wss://a:1", "ws://b:2"}, err: "one transport and path"},
		{targets: []string{"ws://a:1/chat", "ws://b:2/other"}, err: "one transport and path"},
		{targets: []string{"ws://a:1", "tcp://b:2"}, err: "one transport and path"},
		{targets: []string{"http://a:1"}, err: "--target http://a:1: want ws://"},
	} {
		cfg := benchmarks.Default()
		err := benchFlags{Transport: "ws", Target: c.targets}.aimAtTargets(&cfg)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: %v, want %q", c.targets, err, c.err)
			}
			continue
		}
		if err != nil || cfg.Transport != c.transport || cfg.Path != c.path || !cmp.Equal(cfg.Targets, c.hosts) {
			t.Errorf("%v: %v %s %s %v", c.targets, err, cfg.Transport, cfg.Path, cfg.Targets)
		}
	}
}
