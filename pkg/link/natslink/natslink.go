// Package natslink is the link between tiers: requests to the owners of partitions and deliveries back, over NATS, with lost
// deliveries found and repaired. It never looks into a frame or body.
//
// Requests are batched per partition and answered by whoever owns it; where nobody does, NATS says so and the node refuses
// them itself. Deliveries run on numbered links, one for each pair of a logic process and a node:
//
//  1. The process numbers what it sends on a link and keeps it for a while (its ring). Every second it tells the last
//     number, and the node answers up to where it has everything, which empties the ring.
//  2. A node takes numbers in order only. At a gap it drops what follows and asks for all of it again.
//  3. What has left the ring does not come again: the process says so, and the node's sessions compare their heads (Lost).
//  4. A batch for which there is no room is dropped, but takes a number: so it is missed like any other.
//  5. A process that falls silent without a goodbye may have had more to say: Lost as well.
//
// Comets have links with each other too, on subjects of their own, for the close of sessions that their devices replaced. A node takes
// nothing else from there: a comet that is broken into cannot speak to the devices of another.
package natslink

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// EncodeError encodes the frame that refuses a request.
type EncodeError func(
	codec link.Codec, command envelopev1.Command, requestID uint64, conversation string, err *protocol.Error,
) []byte

// Config bounds what a link keeps and says how it watches itself. Both ends of a cluster should have the same.
type Config struct {
	QueueRequests  int `koanf:"queue_requests" doc:"Requests that may wait at a node to be sent to one partition; beyond them: busy."`
	QueueBytes     int `koanf:"queue_bytes" doc:"Bytes of requests that may wait at a node to be sent to one partition; beyond them: busy."`
	SendBytes      int `koanf:"send_bytes" doc:"Bytes of deliveries that may wait at a logic process to be sent to one node; what is beyond them is lost, and the node told."`
	RingBytes      int `koanf:"ring_bytes" doc:"Bytes of deliveries to one node that a logic process keeps to send them again."`
	RingMs         int `koanf:"ring_ms" doc:"How long it keeps them, milliseconds."`
	HeartbeatMs    int `koanf:"heartbeat_ms" doc:"How often process and node compare their numbers, milliseconds."`
	SilenceMs      int `koanf:"silence_ms" doc:"Silence of a process after which a node takes its deliveries for lost, milliseconds."`
	ForgetMs       int `koanf:"forget_ms" doc:"Silence after which either end forgets the other, milliseconds."`
	RepeatAgainMs  int `koanf:"repeat_again_ms" doc:"How long a node waits for what it has asked for before it asks once more, milliseconds."`
	MaxNodes       int `koanf:"max_nodes" doc:"Nodes that a logic process keeps links with; deliveries to further ones are dropped."`
	UnansweredSize int `koanf:"unanswered_size" doc:"Requests without an answer that a node remembers, to answer them itself if their partition has no owner or loses it."`
}

// Default is for nodes of some 100,000 connections.
func Default() Config {
	return Config{
		QueueRequests: 16384, QueueBytes: 8 << 20,
		SendBytes: 4 << 20, RingBytes: 4 << 20, RingMs: 10_000,
		HeartbeatMs: 1000, SilenceMs: 5000, ForgetMs: 60_000, RepeatAgainMs: 500,
		MaxNodes: 4096, UnansweredSize: 131_072,
	}
}

// Validate reports the first field at fault.
func (c *Config) Validate() error {
	for _, n := range []int{
		c.QueueRequests, c.QueueBytes, c.SendBytes, c.RingBytes, c.RingMs, c.HeartbeatMs, c.RepeatAgainMs, c.MaxNodes, c.UnansweredSize,
	} {
		if n < 1 {
			return errors.New("link: every bound and time must be 1 or above")
		}
	}
	if c.SilenceMs < 2*c.HeartbeatMs {
		return errors.New("link: silence_ms: at least two heartbeats")
	}
	if c.ForgetMs <= c.SilenceMs {
		return errors.New("link: forget_ms: above silence_ms")
	}
	return nil
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// What one bus message holds at most; far below NATS's max_payload of 1 MiB.
const (
	maxBatchBytes    = 256 << 10
	maxBatchRequests = 1000
	// maxShared connections stand with one frame; more follow with the frame again.
	maxShared = 8192
)

// Queues of subscriptions, in messages. Neither end blocks in what it does with one.
const (
	requestQueue  = 8192
	deliveryQueue = 65536
	statusQueue   = 8192
)

// publishFunc is Conn.Publish, or what a test puts in its place.
type publishFunc func(subject, reply string, data []byte) error

// validToken reports whether s can be a part of a subject.
func validToken(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

var (
	errNoOwner = protocol.Errorf(protocol.CodeRetry, "the conversation has no owner just now")
	errMoved   = protocol.Errorf(protocol.CodeRetry, "the conversation has a new owner")
	errOffline = protocol.Errorf(protocol.CodeRetry, "this node has no connection to the others just now")
	errFull    = protocol.Errorf(protocol.CodeBusy, "too many requests wait for this conversation's partition")
	errHuge    = protocol.Errorf(protocol.CodeTooLarge, "the request does not fit into a batch")
)

// counters of one end.
type counters struct {
	log     *slog.Logger
	batches prometheus.Counter
	refused *prometheus.CounterVec
	gaps    prometheus.Counter
	again   prometheus.Counter
	lost    *prometheus.CounterVec
	forged  prometheus.Counter
}

func newCounters(end string, log *slog.Logger, reg prometheus.Registerer) *counters {
	labels := prometheus.Labels{"end": end}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}
	vector := func(name, help, by string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, []string{by})
	}
	c := &counters{
		log:     log,
		batches: counter("halley_link_batches_total", "Batches that this end sent."),
		refused: vector("halley_link_refused_total", "Requests that the link refused, by code.", "code"),
		gaps:    counter("halley_link_gaps_total", "Gaps in the numbers of deliveries: found by a node, or reported to a process."),
		again:   counter("halley_link_again_total", "Batches of deliveries sent again."),
		lost:    vector("halley_link_lost_total", "Losses of deliveries that could not be repaired, by reason.", "reason"),
		forged:  counter("halley_link_forged_total", "Batches of a comet that held more than the close of a replaced session; they are dropped."),
	}
	if reg != nil {
		reg.MustRegister(c.batches, c.refused, c.gaps, c.again, c.lost, c.forged)
	}
	return c
}
