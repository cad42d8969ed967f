package comet

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/halley-im/halley/comet/transport/loop"
	"github.com/halley-im/halley/comet/transport/proxy"
	"github.com/halley-im/halley/pkg/certs"
)

// Config of a comet.
type Config struct {
	TCPAddress       string   `koanf:"tcp_address" doc:"Address of the TCP transport, host:port; empty: none."`
	WebSocketAddress string   `koanf:"websocket_address" doc:"Address of the WebSocket transport, host:port; empty: none."`
	TLSAddress       string   `koanf:"tls_address" doc:"Address of the TCP transport over TLS, host:port; empty: none."`
	WSSAddress       string   `koanf:"wss_address" doc:"Address of the WebSocket transport over TLS, host:port; empty: none."`
	Origins          []string `koanf:"origins" doc:"Origins of browsers allowed besides the server's own host and loopback, for example https://chat.example.com; * allows all."`

	ProxyProtocolFrom []string `koanf:"proxy_protocol_from" doc:"Balancers, as addresses or prefixes such as 10.0.0.0/8, whose connections begin with a header of the PROXY protocol, version 1 or 2, on every transport: the address in it counts as the device's. A connection of theirs without one is closed; from others none is read."`

	Loops                 int `koanf:"loops" doc:"Event loops; 0: one per CPU, in serve one for two."`
	MaxConnections        int `koanf:"max_connections" doc:"Connections of this node; 0: as many as the process may have descriptors, less 500. Beyond them: overloaded."`
	AcceptRate            int `koanf:"accept_rate" doc:"Connections accepted per second; 0: no limit. Beyond it: overloaded."`
	AcceptBurst           int `koanf:"accept_burst" doc:"Connections that may be accepted at once after a rest."`
	ConnectionsPerAddress int `koanf:"connections_per_address" doc:"Connections from one IPv4 address or IPv6 /64; 0: no limit, which a balancer that hides addresses needs. Beyond it: rate_limited."`
	HeapGuardPercent      int `koanf:"heap_guard_percent" doc:"While live memory is above this share of the memory limit, no new connections: overloaded. 0, or no limit: not watched."`
	CPUGuardPercent       int `koanf:"cpu_guard_percent" doc:"While the process has used more than this share of its processors for five seconds, no new connections: overloaded. 0: not watched."`
	ConnectWaitMs         int `koanf:"connect_wait_ms" doc:"While a connect has waited longer than this for its token to be verified and for presence, or an event loop is this late, no new connections: overloaded, and devices are told to come back one after the other, as fast as connects get through. 0: not watched."`
	MaxConnectionAgeMs    int `koanf:"max_connection_age_ms" doc:"Age at which a session is asked to connect again, so that new nodes get their share, milliseconds; each ends in the last fifth of it. 0: never."`
	ReadBytes             int `koanf:"read_bytes" doc:"Read buffer of each event loop."`

	FrameBytes      int `koanf:"frame_bytes" doc:"Largest frame; beyond it the connection is closed with too_large."`
	BodyBytes       int `koanf:"body_bytes" doc:"Largest body of a request; beyond it: too_large."`
	FramesPerSecond int `koanf:"frames_per_second" doc:"Frames per second of one session; 0: no limit. Beyond it: rate_limited; beyond ten times as much the connection is closed."`
	FramesBurst     int `koanf:"frames_burst" doc:"Frames that a session may send at once after a rest."`
	SessionsPerUser int `koanf:"sessions_per_user" doc:"Sessions of one user on this node; 0: no limit. Beyond it: too_many_sessions."`
	GroupsPerMinute int `koanf:"groups_per_minute" doc:"Groups that one user may make through this node in a minute, all at once or spread; 0: no limit. Beyond it: rate_limited. The HTTP API has no such limit."`

	OutboxBytes     int `koanf:"outbox_bytes" doc:"Bytes that may wait for one slow reader; beyond it the connection is closed with slow_reader."`
	PendingFrames   int `koanf:"pending_frames" doc:"Deliveries that may wait for one event loop; beyond it they are dropped and its sessions resync."`
	PendingBytes    int `koanf:"pending_bytes" doc:"Bytes of deliveries that may wait for one event loop; beyond it they are dropped and its sessions resync."`
	PendingConnects int `koanf:"pending_connects" doc:"Connects that may wait for their token to be verified; beyond it: overloaded."`
	PendingPresence int `koanf:"pending_presence" doc:"Presence changes that may wait for the registry; beyond it a session goes on unregistered and is registered later."`
	VerifyWorkers   int `koanf:"verify_workers" doc:"Goroutines that verify tokens; 0: one per CPU, at least two."`

	TLS                certs.Config `koanf:"tls" doc:"The certificate of tls_address and wss_address."`
	Handshakes         int          `koanf:"handshakes" doc:"TLS handshakes under way at once; others wait for their turn, within hello_timeout_ms."`
	HandshakeTimeoutMs int          `koanf:"handshake_timeout_ms" doc:"Time of a TLS handshake from its turn on, milliseconds."`

	HelloTimeoutMs int `koanf:"hello_timeout_ms" doc:"Time from accept to a valid Connect, milliseconds."`
	HeartbeatMs    int `koanf:"heartbeat_ms" doc:"Interval within which a device must send something, milliseconds; after one and a half the connection is closed."`
	LingerMs       int `koanf:"linger_ms" doc:"How long a closed connection waits for the device to read the last frames, milliseconds."`
	TicketMs       int `koanf:"ticket_ms" doc:"How long the ticket holds with which a device that comes back is let in sooner, milliseconds; 0: none are given."`
	ResyncSpreadMs int `koanf:"resync_spread_ms" doc:"Least time over which sessions are asked to resync after a loss, milliseconds; longer where the owners of users' logs cannot answer as many."`

	PresenceCheckMs int `koanf:"presence_check_ms" doc:"Time over which every session looks once whether presence still has its entry, milliseconds; 0: never."`

	DrainNoticeMs  int `koanf:"drain_notice_ms" doc:"Time from not ready to the first close, for the balancer to notice, milliseconds."`
	DrainSpreadMs  int `koanf:"drain_spread_ms" doc:"Each session is told to come back after a delay up to this long, milliseconds."`
	DrainRate      int `koanf:"drain_rate" doc:"Sessions closed per second while draining or rebalancing; more where a process that ends would not be done by its timeout."`
	DrainTimeoutMs int `koanf:"drain_timeout_ms" doc:"Time after which a process that ends closes whatever is left, milliseconds; a drain by an operator takes its time."`
}

// Default is the shipped configuration.
func Default() Config {
	return Config{
		TCPAddress: "127.0.0.1:7071", WebSocketAddress: "127.0.0.1:7070",
		AcceptRate: 10_000, AcceptBurst: 50_000,
		// Whole offices and mobile networks come from one address.
		ConnectionsPerAddress: 40_000, HeapGuardPercent: 80, CPUGuardPercent: 98, ConnectWaitMs: 2000, SessionsPerUser: 100,
		ReadBytes:  64 << 10,
		FrameBytes: 64 << 10, BodyBytes: 32 << 10, FramesPerSecond: 200, FramesBurst: 400, GroupsPerMinute: 60,
		OutboxBytes: 256 << 10, PendingFrames: 1 << 18, PendingBytes: 64 << 20,
		PendingConnects: 1 << 14, PendingPresence: 1 << 16,
		TLS: certs.Default(), Handshakes: 2048, HandshakeTimeoutMs: 5000,
		HelloTimeoutMs: 10_000, HeartbeatMs: 240_000, LingerMs: 2000, TicketMs: 600_000, ResyncSpreadMs: 5000, PresenceCheckMs: 600_000,
		DrainSpreadMs: 10_000, DrainRate: 2000, DrainTimeoutMs: 30_000,
	}
}

// spareDescriptors is what a process needs besides connections: listeners, the bus, the stores, files.
const spareDescriptors = 500

// Validate reports every setting that cannot be.
func (c Config) Validate() error {
	// A page of history must find room, in JSON too; one that never does would be asked for again for ever.
	const leastBuffer = 128 << 10
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("comet."+format, args...)) }
	for name, address := range map[string]string{
		"tcp_address": c.TCPAddress, "websocket_address": c.WebSocketAddress, "tls_address": c.TLSAddress, "wss_address": c.WSSAddress,
	} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			fail("%s: %w", name, err)
		}
	}
	if c.TCPAddress == "" && c.WebSocketAddress == "" && !c.Secure() {
		fail("tcp_address, websocket_address, tls_address, wss_address: one of them must be set")
	}
	if c.Secure() && !c.TLS.Set() {
		fail("tls.cert_file: tls_address and wss_address need a certificate, from files or, with tls.acme.domains, from an authority")
	}
	if _, err := proxy.ParseTrusted(c.ProxyProtocolFrom); err != nil {
		fail("proxy_protocol_from: %w", err)
	}
	if c.Loops < 0 || c.Loops > maxLoops {
		fail("loops: must be 0 to %d", maxLoops)
	}
	for _, v := range []struct {
		name      string
		value     int
		low, high int
	}{
		{"max_connections", c.MaxConnections, 0, maxSlots},
		{"accept_rate", c.AcceptRate, 0, 1_000_000},
		{"accept_burst", c.AcceptBurst, min(1, c.AcceptRate), 10_000_000},
		{"connections_per_address", c.ConnectionsPerAddress, 0, maxSlots},
		{"heap_guard_percent", c.HeapGuardPercent, 0, 100},
		{"cpu_guard_percent", c.CPUGuardPercent, 0, 100},
		{"connect_wait_ms", c.ConnectWaitMs, 0, 600_000},
		{"max_connection_age_ms", c.MaxConnectionAgeMs, 0, 30 * 24 * 3_600_000},
		{"read_bytes", c.ReadBytes, 4 << 10, 1 << 20},
		{"frame_bytes", c.FrameBytes, 1 << 10, 16 << 20},
		{"body_bytes", c.BodyBytes, 256, c.FrameBytes},
		{"frames_per_second", c.FramesPerSecond, 0, 100_000},
		{"frames_burst", c.FramesBurst, min(1, c.FramesPerSecond), 1_000_000},
		{"sessions_per_user", c.SessionsPerUser, 0, 1 << 20},
		{"groups_per_minute", c.GroupsPerMinute, 0, 1 << 20},
		{"outbox_bytes", c.OutboxBytes, max(c.FrameBytes, leastBuffer), 1 << 30},
		{"pending_frames", c.PendingFrames, 1 << 10, 1 << 26},
		{"pending_bytes", c.PendingBytes, max(c.FrameBytes, leastBuffer), 1 << 34},
		{"pending_connects", c.PendingConnects, 16, 1 << 24},
		{"pending_presence", c.PendingPresence, 1024, 1 << 24},
		{"verify_workers", c.VerifyWorkers, 0, 1024},
		{"handshakes", c.Handshakes, 1, 1 << 20},
		{"handshake_timeout_ms", c.HandshakeTimeoutMs, 100, 600_000},
		{"hello_timeout_ms", c.HelloTimeoutMs, 100, 600_000},
		{"heartbeat_ms", c.HeartbeatMs, 200, 3_600_000},
		{"linger_ms", c.LingerMs, 100, 60_000},
		{"ticket_ms", c.TicketMs, 0, 3_600_000},
		{"resync_spread_ms", c.ResyncSpreadMs, 0, 600_000},
		{"presence_check_ms", c.PresenceCheckMs, 0, 3_600_000},
		{"drain_notice_ms", c.DrainNoticeMs, 0, 600_000},
		{"drain_spread_ms", c.DrainSpreadMs, 0, 3_600_000},
		{"drain_rate", c.DrainRate, 1, 10_000_000},
		{"drain_timeout_ms", c.DrainTimeoutMs, 100, 3_600_000},
	} {
		if v.value < v.low || v.value > v.high {
			fail("%s: must be %d to %d", v.name, v.low, v.high)
		}
	}
	return errors.Join(errs...)
}

// Secure reports whether a transport goes over TLS.
func (c Config) Secure() bool { return c.TLSAddress != "" || c.WSSAddress != "" }

// connectionLimit is how many connections this process may hold, and whether that is fewer than asked for.
func (c Config) connectionLimit() (limit int, fewer bool) {
	limit = maxSlots
	var nofile syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &nofile); err == nil && nofile.Cur < maxSlots {
		limit = max(int(nofile.Cur)-spareDescriptors, 1)
	}
	if c.MaxConnections == 0 {
		return limit, false
	}
	return min(limit, c.MaxConnections), limit < c.MaxConnections
}

func (c Config) loops() int { return loop.Config{Loops: c.Loops}.Count() }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }
