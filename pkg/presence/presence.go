// Package presence knows which devices of a user are connected, and to which node. A node holds a lease; a device's entry
// counts only while the lease of its node, under the same epoch, is alive. Implementations: presence/memory and
// presence/redis; presencetest is the suite both pass.
package presence

import (
	"context"
	"errors"
	"time"

	"github.com/halley-im/halley/pkg/link"
)

// The lease of a node: renewed every RenewEvery, dead TTL after the last renewal.
const (
	TTL        = 12 * time.Second
	RenewEvery = 4 * time.Second
)

// Settle is how long after it was asked for a change that had no answer may still be made: a second for the call, one for what is not
// known of the backend's clock, and one to spare. Until then what depends on it must wait.
const Settle = 3 * time.Second

// ErrUnavailable means that the backend did not answer in time. Nothing is known, nothing may be concluded.
var ErrUnavailable = errors.New("presence: backend unavailable")

// ErrStale comes with what was known before the backend stopped answering: some of it may be gone, and some is missing.
var ErrStale = errors.New("presence: only what was known last")

// User is a user of an app.
type User struct{ App, User string }

// Entry is one connected device.
type Entry struct {
	Device string
	Node   string
	// Epoch of the node when the entry was written; entries of an older epoch count as absent.
	Epoch uint64
	Conn  uint64
	Codec link.Codec
	// Generation rises with every registration of the device; the higher wins.
	Generation uint64
}

// Registration is a device that connects. Generation and Replaced are results.
type Registration struct {
	User  User
	Entry Entry // Generation is filled in when 0; a registration repeated after a loss of data carries its own.
	// Replaced is the entry of the same device that this one displaced, if its node lives; its session must be closed.
	Replaced *Entry
	// Stale reports that a higher generation is registered already, or, where the entry has none yet, that the device registered elsewhere
	// after this was asked for: this session must be closed. In the second case it may be the later one all the same, and should come again.
	Stale bool
}

// Registry is the contract. Methods are safe for concurrent use. Every call is bounded in time (100 ms for Lookup and RoomNodes, 1 s for
// the others unless ctx ends earlier) and answers ErrUnavailable then. What it asked for was done, or is done within Settle, or never.
type Registry interface {
	// Register writes entries, one pipeline for all, and fills in the results.
	Register(ctx context.Context, regs []Registration) error
	// Unregister removes entries whose generation is still the one given; where that is 0, as of a session whose Register had no answer, those of
	// the session's node, epoch and connection.
	Unregister(ctx context.Context, regs []Registration) error
	// Lookup returns the live entries of each user, in the order of users; dst is reused if large enough. The inner slices are
	// the registry's own: nobody may change them.
	Lookup(ctx context.Context, users []User, dst [][]Entry) ([][]Entry, error)
	Rooms
	Leases
}

// Leases is how a node stays alive.
type Leases interface {
	// Acquire starts a lease for the node and returns its epoch, higher than any before.
	Acquire(ctx context.Context, node string) (epoch uint64, err error)
	// Renew extends it. ErrLost: another epoch holds the name or the lease ran out; acquire again and register all sessions.
	Renew(ctx context.Context, node string, epoch uint64) error
	// Release ends it at once.
	Release(ctx context.Context, node string, epoch uint64) error
	// Incarnation changes when the backend lost its data: every node then registers its sessions again.
	Incarnation(ctx context.Context) (string, error)
}

// ErrLost is Renew's answer to a node that no longer holds its lease.
var ErrLost = errors.New("presence: lease lost")
