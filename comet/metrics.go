package comet

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet/transport/loop"
	"github.com/halley-im/halley/pkg/looptls"
	"github.com/halley-im/halley/protocol"
)

// counter is written by one loop and read on scrape, so that counting costs no contention.
type counter struct{ n atomic.Int64 }

func (c *counter) add(n int) { c.n.Add(int64(n)) }

// accept is how an accept or a Connect ended.
type accept uint8

const (
	acceptOK accept = iota // the connection was let in
	acceptConnected
	acceptOverloaded
	acceptDraining
	acceptBadHandshake
	acceptUnauthorized
	acceptUnavailable
	acceptTooMany
	acceptRate
	acceptAddress
	acceptHeap
	acceptCPU
	acceptBehind
	acceptUnlocated // a balancer has yet to say whose it is; counted again when it has
	acceptCount
)

var acceptNames = [acceptCount]string{
	"accepted", "connected", "overloaded", "draining", "bad_handshake", "unauthorized", "unavailable", "too_many_sessions",
	"accept_rate", "address", "heap", "cpu", "behind", "passed_on",
}

// disconnect is why a connection ended.
type disconnect uint8

// The first are the codes of closeCodes, in their order.
const disconnectCodes = 18

const (
	disconnectGone      disconnect = disconnectCodes + iota // the device closed or reset the connection
	disconnectHandshake                                     // the transport's opening was refused
	disconnectTLS                                           // the TLS handshake failed
	disconnectHeader                                        // a balancer did not say whose it is
	disconnectOther                                         // a code without a name here
	disconnectCount
)

var closeCodes = [disconnectCodes]protocol.CloseCode{
	protocol.CloseNormal, protocol.CloseProtocol, protocol.CloseUnsupported, protocol.CloseBadUTF8, protocol.CloseTooLarge,
	protocol.CloseDraining, protocol.CloseReplaced, protocol.CloseUnauthorized, protocol.CloseTokenExpired,
	protocol.CloseKicked, protocol.CloseHelloTimeout, protocol.CloseHeartbeat, protocol.CloseSlow, protocol.CloseRateLimited,
	protocol.CloseOverloaded, protocol.CloseTooManySession, protocol.CloseUnavailable,
	protocol.CloseRebalanced,
}

func disconnectOf(code protocol.CloseCode) disconnect {
	for i, c := range closeCodes {
		if c == code {
			return disconnect(i)
		}
	}
	return disconnectOther
}

func (d disconnect) name() string {
	switch d {
	case disconnectGone:
		return "gone"
	case disconnectHandshake:
		return "bad_handshake"
	case disconnectTLS:
		return "tls_handshake"
	case disconnectHeader:
		return "proxy_header"
	case disconnectOther:
		return "other"
	}
	return protocol.Closings[closeCodes[d]].Reason
}

// stats are one loop's counters. The padding keeps those of two loops out of one cache line.
type stats struct {
	_              [64]byte
	connections    [maxTransports]atomic.Int64
	accepts        [acceptCount]counter
	disconnects    [disconnectCount]counter
	framesReceived counter
	framesSent     counter
	bytesReceived  counter
	bytesSent      counter
	refused        counter
	creations      counter
	missed         counter
	expanded       counter
	attachFailed   counter
	attachLate     counter
	resumed        counter
	ticketsRefused counter
	dropped        counter
	resyncs        counter
	strays         counter
	slow           counter
	outbox         atomic.Int64
	_              [64]byte
}

// metrics shows the loops' counters to Prometheus.
type metrics struct {
	comet          *Comet
	connectSeconds prometheus.Histogram
	tlsSeconds     prometheus.Histogram
	sums           []sum
}

// sum is a metric that adds up one number of every loop.
type sum struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*stats) int64
}

var (
	descConnections = prometheus.NewDesc("halley_comet_connections", "Connections held.", []string{"transport"}, nil)
	descLimit       = prometheus.NewDesc("halley_comet_connections_limit", "Connections that this node may hold.", nil, nil)
	descAccepts     = prometheus.NewDesc("halley_comet_accepts_total",
		"Connections accepted or refused, and Connects answered, by result.", []string{"result"}, nil)
	descDisconnects = prometheus.NewDesc("halley_comet_disconnects_total", "Connections ended, by close code.", []string{"code"}, nil)
	descDrain       = prometheus.NewDesc("halley_comet_drain_remaining", "Connections that a drain has yet to close; 0 when not draining.", nil, nil)
	descPresence    = prometheus.NewDesc("halley_comet_presence_up", "Whether presence answers and the lease is held.", nil, nil)
	descRooms       = prometheus.NewDesc("halley_comet_rooms", "Large conversations with a member connected here.", nil, nil)
	descHandshakes  = prometheus.NewDesc("halley_comet_tls_handshakes_total", "TLS handshakes, by how they ended.", []string{"result"}, nil)
	descUnderWay    = prometheus.NewDesc("halley_comet_tls_handshakes_under_way", "TLS handshakes that have their turn.", nil, nil)
	descWaiting     = prometheus.NewDesc("halley_comet_tls_handshakes_waiting", "TLS handshakes that wait for their turn.", nil, nil)
	descHeaders     = prometheus.NewDesc("halley_comet_proxy_headers_total", "Headers of the PROXY protocol, by what became of them.", []string{"result"}, nil)
	descStale       = prometheus.NewDesc("halley_comet_deliveries_stale_total", "Deliveries dropped because a later owner had spoken.", nil, nil)
)

func newMetrics(c *Comet) *metrics {
	m := &metrics{comet: c}
	m.connectSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "halley_comet_connect_seconds", Help: "Time from Connect to Hello.",
		Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10},
	})
	m.tlsSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "halley_comet_tls_handshake_seconds", Help: "Time of TLS handshakes that came to a good end, from their turn on.",
		Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
	})
	add := func(kind prometheus.ValueType, name, help string, of func(*stats) int64) {
		m.sums = append(m.sums, sum{prometheus.NewDesc("halley_comet_"+name, help, nil, nil), kind, of})
	}
	total := func(name, help string, of func(*stats) *counter) {
		add(prometheus.CounterValue, name, help, func(s *stats) int64 { return of(s).n.Load() })
	}
	add(prometheus.GaugeValue, "outbox_bytes", "Bytes that wait for slow readers.", func(s *stats) int64 { return s.outbox.Load() })
	total("frames_received_total", "Frames of devices.", func(s *stats) *counter { return &s.framesReceived })
	total("frames_sent_total", "Frames to devices.", func(s *stats) *counter { return &s.framesSent })
	total("received_bytes_total", "Bytes from devices.", func(s *stats) *counter { return &s.bytesReceived })
	total("sent_bytes_total", "Bytes to devices.", func(s *stats) *counter { return &s.bytesSent })
	total("frames_refused_total", "Frames answered with an error by comet itself.", func(s *stats) *counter { return &s.refused })
	total("groups_refused_total", "Groups refused because their maker makes them too fast.", func(s *stats) *counter { return &s.creations })
	total("deliveries_missed_total", "Deliveries for sessions that were gone.", func(s *stats) *counter { return &s.missed })
	total("deliveries_dropped_total", "Deliveries beyond the bound of a loop; its sessions resync.", func(s *stats) *counter { return &s.dropped })
	total("expanded_total", "Frames of large conversations that this node made of one.", func(s *stats) *counter { return &s.expanded })
	total("attach_failures_total", "Refused questions for a session's large conversations; they are asked again.",
		func(s *stats) *counter { return &s.attachFailed })
	total("attach_late_total", "Sessions that went live before they were in the rooms of their large conversations.",
		func(s *stats) *counter { return &s.attachLate })
	total("resumed_total", "Sessions let in by a ticket.", func(s *stats) *counter { return &s.resumed })
	total("tickets_refused_total", "Tickets that did not hold; their sessions were let in without.",
		func(s *stats) *counter { return &s.ticketsRefused })
	total("resyncs_total", "Sessions asked to resync.", func(s *stats) *counter { return &s.resyncs })
	total("presence_repairs_total", "Sessions that presence had no entry of, though it should; they register again.",
		func(s *stats) *counter { return &s.strays })
	total("slow_sessions_total", "Sessions closed because they read too slowly.", func(s *stats) *counter { return &s.slow })
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(m.connectSeconds), r.Register(m.tlsSeconds), r.Register(m))
}

var _ prometheus.Collector = (*metrics)(nil)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descConnections, descLimit, descAccepts, descDisconnects, descDrain, descPresence, descRooms, descStale,
		descHandshakes, descUnderWay, descWaiting, descHeaders,
	} {
		ch <- d
	}
	for _, s := range m.sums {
		ch <- s.desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	c := m.comet
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(v), labels...)
	}
	over := func(of func(*stats) int64) (n int64) {
		for _, l := range c.loops {
			n += of(&l.stats)
		}
		return n
	}
	for i := range c.transports {
		send(descConnections, prometheus.GaugeValue,
			over(func(s *stats) int64 { return s.connections[i].Load() }), c.transports[i].Name)
	}
	for i := range acceptCount {
		send(descAccepts, prometheus.CounterValue, over(func(s *stats) int64 { return s.accepts[i].n.Load() }), acceptNames[i])
	}
	for i := range disconnectCount {
		send(descDisconnects, prometheus.CounterValue, over(func(s *stats) int64 { return s.disconnects[i].n.Load() }), i.name())
	}
	for _, s := range m.sums {
		send(s.desc, s.kind, over(s.of))
	}
	send(descLimit, prometheus.GaugeValue, int64(c.limit))
	send(descRooms, prometheus.GaugeValue, c.keeper.rooms.Load())
	send(descStale, prometheus.CounterValue, c.stale.n.Load())
	for kind := range loop.HeaderKinds {
		send(descHeaders, prometheus.CounterValue, c.engine.Headers(kind), kind.String())
	}
	handshakes := c.engine.Handshakes()
	for _, r := range looptls.Results() {
		send(descHandshakes, prometheus.CounterValue, handshakes.Results[r], r.String())
	}
	send(descUnderWay, prometheus.GaugeValue, int64(handshakes.UnderWay))
	send(descWaiting, prometheus.GaugeValue, int64(handshakes.Waiting))
	var remaining, up int64
	if c.draining.Load() {
		remaining = c.connections.Load()
	}
	if c.registrar.up.Load() {
		up = 1
	}
	send(descDrain, prometheus.GaugeValue, remaining)
	send(descPresence, prometheus.GaugeValue, up)
}
