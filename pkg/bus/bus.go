// Package bus is the one place that speaks NATS: connections, the embedded server, the partitions' logs, leases and
// publish/subscribe. It never knows what a message means. There is no Bus interface: tests embed the real server.
package bus

import (
	"errors"
	"time"
)

// ---- publish and subscribe -------------------------------------------------------------------------------------------

var (
	// ErrNoResponders: nobody subscribes to the subject of a request.
	ErrNoResponders = errors.New("bus: no responders")
	// ErrDisconnected: there is no connection, and this one does not buffer.
	ErrDisconnected = errors.New("bus: not connected")
	// ErrTooLarge: the payload is beyond the server's max_payload; it can never be sent.
	ErrTooLarge = errors.New("bus: payload too large")
)

// Msg is what a subscription receives. Data belongs to the receiver.
type Msg struct {
	Subject, Reply string
	Data           []byte
	// NoResponders marks the answer to a Publish with a reply subject that reached nobody.
	NoResponders bool
}

// ---- log -------------------------------------------------------------------------------------------------------------

// What Append answers. Everything but ErrMoved and ErrFull leaves the outcome unknown: the same block must be appended again
// with the same expectation (DESIGN: the write path).
var (
	// ErrMoved: the log's last sequence is not the expected one (JetStream 10071). Nothing was stored by this call; an earlier
	// try of the same block may have been.
	ErrMoved = errors.New("bus: log has moved on")
	// ErrFull: the log is at its size limit (JetStream 10077). Nothing was stored.
	ErrFull = errors.New("bus: log is full")
	// ErrNoMessage: Get found no message at the sequence.
	ErrNoMessage = errors.New("bus: no message at this sequence")
	// ErrIncarnation: the stream is not the one this cluster was created with; it was deleted or came back empty.
	ErrIncarnation = errors.New("bus: log is not the one this cluster was created with")
	// ErrNotCreated: the logs of this cluster were never created, or their creation was not finished.
	ErrNotCreated = errors.New("bus: the cluster's logs were not created")
	// ErrCreatedDifferently: CreateLogs asks for other logs than the cluster has.
	ErrCreatedDifferently = errors.New("bus: the cluster's logs were created differently")
	// ErrHole: a sequence between the log's first and last is missing.
	ErrHole = errors.New("bus: hole in the log")
	// ErrTrimmed: the log was trimmed beyond the place that Scan had reached.
	ErrTrimmed = errors.New("bus: log was trimmed while it was read")
)

// LogConfig says how logs are created.
type LogConfig struct {
	Partitions int
	Replicas   int
	MaxBytes   int64 // of each log
}

// LogState is where a log stands. An empty log has First = Last + 1, or 0 for both if it never held a block.
type LogState struct {
	First, Last uint64
	Bytes       int64
	MaxBytes    int64
}

// Message is one stored block. Data belongs to the receiver.
type Message struct {
	Seq  uint64
	Time time.Time // when the server stored it; zero from Scan, which leaves headers out
	Data []byte
}

// ---- leases ----------------------------------------------------------------------------------------------------------

var (
	// ErrHeld: another holder has the lease.
	ErrHeld = errors.New("bus: lease is held")
	// ErrUnsettled: the key is being written, perhaps by an earlier Acquire of the same holder. Soon it is known.
	ErrUnsettled = errors.New("bus: lease is being written")
	// ErrGone: the lease is no longer ours, or ran out.
	ErrGone = errors.New("bus: lease is gone")
)

// Lease is one held key of a lease bucket.
type Lease struct {
	Key      string
	Value    []byte
	Revision uint64
	// Renewed is the start of the last successful acquire or renewal, with its monotonic clock.
	Renewed time.Time
}
