package bus

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// What the queue of a subscription may hold in bytes; its messages are bounded by the subscriber.
const queueBytes = 64 << 20

// How long Close waits for the messages that have arrived already.
const drainTimeout = 5 * time.Second

// Subscription is one open subscription.
type Subscription struct {
	sub *nats.Subscription
}

// Subscribe calls fn for every message to the subject (wildcards allowed), in order, from one goroutine of its own. At most queue
// messages and 64 MiB wait for fn; what comes beyond that is dropped, counted (Dropped) and reported (Config.OnDrop).
func (c *Conn) Subscribe(subject string, queue int, fn func(Msg)) (*Subscription, error) {
	sub, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		fn(Msg{Subject: m.Subject, Reply: m.Reply, Data: m.Data, NoResponders: status(m) == statusNoResponders})
	})
	if err != nil {
		return nil, fmt.Errorf("bus: subscribe to %s: %w", subject, err)
	}
	if err := sub.SetPendingLimits(queue, queueBytes); err != nil {
		return nil, fmt.Errorf("bus: subscribe to %s: %w", subject, err)
	}
	return &Subscription{sub: sub}, nil
}

// Dropped is the number of messages dropped so far because the queue was full.
func (s *Subscription) Dropped() int {
	n, err := s.sub.Dropped()
	if err != nil { // closed
		return 0
	}
	return n
}

// Close ends the subscription and returns once fn has seen everything that had arrived, or after five seconds.
func (s *Subscription) Close() error {
	if !s.sub.IsValid() {
		return nil
	}
	done := make(chan struct{})
	s.sub.SetClosedHandler(func(string) { close(done) })
	if err := s.sub.Drain(); err != nil {
		// Not connected: nothing more can arrive, and the server forgets the subscription.
		return s.sub.Unsubscribe()
	}
	select {
	case <-done:
		return nil
	case <-time.After(drainTimeout):
		return fmt.Errorf("bus: drain %s: not done after %v", s.sub.Subject, drainTimeout)
	}
}

// The statuses of messages that a server sends instead of a client.
const (
	statusNoMessage    = "404"
	statusEndOfBatch   = "204"
	statusHeartbeat    = "100"
	statusNoResponders = "503"
	statusPullExpired  = "408"
	statusConflict     = "409"
)

// status is the status of a message that the server sent by itself, else empty.
func status(m *nats.Msg) string {
	if len(m.Data) != 0 || m.Header == nil {
		return ""
	}
	if v := m.Header["Status"]; len(v) != 0 {
		return v[0]
	}
	return ""
}
