// Package benchmarks loads a server as its users would and accounts for every message: throughput, latency and cost, and
// whether anything was lost, doubled, reordered or held back. It never reports a figure without that verdict.
package benchmarks

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
	"github.com/halley-im/halley/benchmarks/traffic"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
)

// Config is what every verb takes.
type Config struct {
	// Connections is how many devices connect.
	Connections int
	// Duration is how long the measured interval lasts; Warmup goes before it and is not measured.
	Duration time.Duration
	Warmup   time.Duration
	// Ramp is over how long the connects are spread; 0 is as fast as the server takes them.
	Ramp time.Duration
	// ConnectTimeout is how long connecting may go on without one more connection.
	ConnectTimeout time.Duration
	// Settle is how long an idle server is left alone before its memory is read.
	Settle time.Duration
	// Wait bounds, at the end, the wait for what is in flight, and then that for the last comparison.
	Wait time.Duration
	// AnswerTimeout is how long a request may stay without any answer before it is sent again.
	AnswerTimeout time.Duration

	Transport string // ws or tcp, and wss or tls over TLS.
	// Authorities vouch for the server of wss and tls, PEM; empty: the system's. Insecure believes any certificate.
	Authorities []byte
	Insecure    bool
	Codec       string // proto.
	Path        string
	// Targets are host:port; connections go to them in turn.
	Targets []string
	// Admin are URLs of the admin ports of every tier, http://host:port.
	Admin []string
	// Sources are local addresses: 127.0.0.2, or a range 127.0.0.2-20.
	Sources []string

	// Size is the size of a message's text in bytes.
	Size int
	// Seed makes users and texts the same again.
	Seed uint64
	// Workers is how many loops, over all processes; 0 chooses.
	Workers int
	// Processes is how many processes hold the connections; 0 is as many as their descriptors demand.
	Processes int
	// Worker is the command that runs ServeWorker in a process of its own.
	Worker []string

	// App, Key and Audience make the users' tokens; an empty audience is the usual one.
	App      string
	Key      auth.Key
	Audience string

	// Command is the command line, for the report.
	Command string
	// Progress shows a live line on the output.
	Progress bool
}

// Load is how messages are sent: one of the two is set.
type Load struct {
	// Outstanding is a closed loop: messages in flight in each conversation.
	Outstanding int
	// Rate is an open loop: messages per second in all, sent when they are due, whatever the server does.
	Rate float64
	// Phases, if there are any, are how the rate changes from the beginning of the warm-up on; Rate is then the mean of the measured
	// interval. Zipf above 1 makes some conversations busier.
	Phases []traffic.Phase
	Zipf   float64
}

// scaled is k of the load.
func (l Load) scaled(k float64) Load {
	l.Rate *= k
	phases := make([]traffic.Phase, len(l.Phases))
	for i, p := range l.Phases {
		phases[i] = p.Scaled(k)
	}
	l.Phases = phases
	return l
}

// P2PConfig is for pairs in 1:1 conversations.
type P2PConfig struct {
	Config
	Load
	// Floor, if not 0, has the bare echo server measured for so long first, so that the figures can be told as multiples.
	Floor FloorConfig
}

// GroupConfig is for groups. Connections is Groups × Members.
type GroupConfig struct {
	Config
	Load
	Groups  int
	Members int
	// Senders is how many members of each group send.
	Senders int
}

// ConnConfig is for idle connections.
type ConnConfig struct{ Config }

// StormConfig is for pairs that lose their connections.
type StormConfig struct {
	Config
	Load
	// Cuts is how often all connections are cut, each time when everybody is complete again; with 0 that is left to others.
	Cuts int
}

// FloorConfig is for the bare echo server, which is run as a child process.
type FloorConfig struct {
	Config
	Outstanding int
	// Server is the command that runs ServeFloor in a process of its own.
	Server []string
}

// framings are how frames travel, by transport.
var framings = map[string]generator.Transport{
	"ws": generator.WebSocket, "wss": generator.WebSocket, "tcp": generator.TCP, "tls": generator.TCP,
}

// secured is what is under the transport; nil: the socket alone.
func (c Config) secured() (*tls.Config, error) {
	if c.Transport != "wss" && c.Transport != "tls" {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure} //nolint:gosec // whoever set it asked for it.
	if len(c.Authorities) > 0 {
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(c.Authorities) {
			return nil, errors.New("--ca-file: no certificate in it")
		}
	}
	return out, nil
}

// Default is the configuration of a run that says nothing.
func Default() Config {
	return Config{
		Connections: 2000, Duration: 30 * time.Second, Warmup: 2 * time.Second, ConnectTimeout: time.Minute,
		Settle: 20 * time.Second, Wait: 30 * time.Second, AnswerTimeout: 10 * time.Second,
		Transport: string(generator.WebSocket), Codec: "proto", Path: "/v1/connect",
		Size: 100, Seed: 1, App: protocol.DefaultApp,
	}
}

// Validate reports the first field that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Connections < 1:
		return fmt.Errorf("-n: %d connections", c.Connections)
	case c.Duration <= 0 || c.Ramp < 0 || c.Warmup < 0 || c.Settle < 0 || c.Wait <= 0 || c.ConnectTimeout <= 0 || c.AnswerTimeout <= 0:
		return errors.New("durations must not be negative; --duration, wait, connect and answer timeout not 0")
	case framings[c.Transport] == "":
		return fmt.Errorf("--transport: %q is none of ws, wss, tcp and tls", c.Transport)
	case c.Codec != "proto":
		return fmt.Errorf("--codec: %q; the generator speaks proto", c.Codec)
	case len(c.Targets) == 0:
		return errors.New("--target: none")
	case c.Processes < 0 || c.Processes > maxProcesses:
		return fmt.Errorf("--processes: %d is not within 0 to %d", c.Processes, maxProcesses)
	case c.Size < 32 || c.Size > 20_000:
		return fmt.Errorf("--size: %d is not within 32 (what a text that proves itself needs) to 20000", c.Size)
	}
	for _, t := range c.Targets {
		if _, _, err := net.SplitHostPort(t); err != nil {
			return fmt.Errorf("--target: %w", err)
		}
	}
	if _, err := c.secured(); err != nil {
		return err
	}
	if _, err := parseSources(c.Sources); err != nil {
		return err
	}
	return nil
}

func (l Load) validate() error {
	if l.Outstanding < 0 || l.Rate < 0 || (l.Outstanding > 0) == (l.Rate > 0) {
		return errors.New("set one of --outstanding (closed loop) and --rate (open loop)")
	}
	if l.Outstanding > 256 {
		return fmt.Errorf("--outstanding: %d is above 256", l.Outstanding)
	}
	return nil
}

// workers is one loop for every two cores: the generator shares them with the server as a rule.
func (c Config) workers() int {
	if c.Workers > 0 {
		return c.Workers
	}
	return min(4, max(1, runtime.GOMAXPROCS(0)/2))
}

// parseSources reads addresses and ranges of a last octet.
func parseSources(list []string) (ips []net.IP, err error) {
	for _, s := range list {
		first, last, ranged := strings.Cut(s, "-")
		a, err := netip.ParseAddr(first)
		if err != nil {
			return nil, fmt.Errorf("--source: %w", err)
		}
		if !ranged {
			ips = append(ips, net.IP(a.AsSlice()))
			continue
		}
		end, err := strconv.ParseUint(last, 10, 8)
		octets := a.As16()
		if err != nil || !a.Is4() || octets[15] > byte(end) {
			return nil, fmt.Errorf("--source: %q is not a range such as 127.0.0.2-20", s)
		}
		for o := uint64(octets[15]); o <= end; o++ {
			b := a.As4()
			b[3] = byte(o)
			ips = append(ips, net.IP(b[:]))
		}
	}
	return ips, nil
}
