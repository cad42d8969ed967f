package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/halley-im/halley/pkg/observe"
)

// bannerFacts is what serve says of itself once everything accepts.
type bannerFacts struct {
	Build     observe.Build
	Folder    string
	Endpoints endpoints
	APIKey    string
	Open      bool // to other machines
	Demo      bool // where not open
}

// bannerEnd is the last line: a program that reads it has read all.
const bannerEnd = "Stop it with Ctrl-C."

// writeBanner writes plain text, terminal or not: people copy from it, and programs wait for it.
func writeBanner(w io.Writer, f bannerFacts) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Halley %s is ready. Everything is kept in %s\n", f.Build.Version, f.Folder)
	if f.Open {
		b.WriteString("Other machines can reach it.\n\n")
	} else {
		b.WriteString("It listens on loopback only: no other machine can reach it.\n\n")
	}
	demo := ""
	if f.Demo && !f.Open {
		demo = f.Endpoints.API + "/demo/"
	}
	for _, line := range [][2]string{
		{"Chat demo", demo},
		{"WebSocket", f.Endpoints.WS},
		{"", f.Endpoints.WSS},
		{"TCP", prefixed("tcp://", f.Endpoints.TCP)},
		{"", prefixed("tls://", f.Endpoints.TLS)},
		{"HTTP API", f.Endpoints.API + "/v1"},
		{"API docs", f.Endpoints.API + "/docs"},
		{"Metrics", f.Endpoints.Admin + "/metrics"},
		{"Health", f.Endpoints.Admin + "/readyz?verbose"},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", line[0], line[1])
		}
	}
	b.WriteString("\nSend a message from alice to bob:\n\n" + sendLine(f.Endpoints.API, f.APIKey) + "\n")
	b.WriteString("\nA token for a device:  halley token issue --user alice\nLoad:                  halley bench p2p\n\n" + bannerEnd + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// sendLine is one line for any shell that sends a message, every time it is run. Without a key for development, whoever runs
// it brings one of the configured ones.
func sendLine(api, key string) string {
	authorization := "'Authorization: Bearer " + key + "'"
	if key == "" {
		authorization = `"Authorization: Bearer $HALLEY_API_KEY"`
	}
	const message = `{"conversation":"d:alice:bob","sender":"alice","message":{"text":{"text":"Hello, Bob"}}}`
	return "curl -fsS -H " + authorization + " -H 'Content-Type: application/json' -d '" + message + "' " + api + "/v1/messages"
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
