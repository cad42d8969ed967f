package main

import (
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/pkg/client"
)

// session is what a device knows of its connections. Its device's lock guards it.
type session struct {
	connected bool
	since     time.Duration // It became what it is.
	// sessions are those that there were, and with which each ends; one that goes on is the last.
	sessions []oracle.Span
	// recovered is the longest that it took from a connection's beginning until nothing of what there was then was missing.
	recovered time.Duration
}

func (s *session) state(e client.State, now time.Duration) {
	switch {
	case !e.Connected:
		s.disconnected(now)
	case !s.connected:
		s.connected, s.since = true, now
		s.sessions = append(s.sessions, oracle.Span{From: now, To: oracle.Open})
	}
	if s.connected && e.Recovered {
		s.recovered = max(s.recovered, now-s.since)
	}
}

func (s *session) disconnected(now time.Duration) {
	if s.connected {
		s.connected, s.since = false, now
		s.sessions[len(s.sessions)-1].To = now
	}
}
