// Package store keeps what must outlive the log: history, members, cursors and the lists behind users' conversations. It
// knows the envelope of a record and never its body. Implementations: store/pebble and store/cassandra; storetest is the
// suite both pass.
package store

import (
	"context"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Conversation is a conversation of an app.
type Conversation struct{ App, ID string }

// Records holds history. Every write is idempotent and any order of the same writes ends the same.
type Records interface {
	// Append stores records of any conversations, with the heads and the member intervals that follow from Joined and
	// Left. All are durable when it returns nil; some may be when it returns an error. A record never changes: the same
	// (conversation, seq) is always the same record. Records belong to the caller again when it has returned.
	Append(ctx context.Context, records []*logv1.Record) error
	// Range returns records with from ≤ seq ≤ to, ascending, at most limit: the first ones, or with newest the last ones.
	Range(ctx context.Context, c Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error)
	// Head returns the highest record written, without its body; nil where there is none. Lower ones may still be missing.
	Head(ctx context.Context, c Conversation) (*logv1.Record, error)
}

// Members holds who may read what of a conversation, and how far each has read.
type Members interface {
	// Members returns everyone who is or was a member, ordered by user. A cursor alone makes no member. Of a large group they take many reads,
	// each of which is given up within seconds: ctx need only bound them all.
	Members(ctx context.Context, c Conversation) ([]Member, error)
	// Intervals returns the intervals of one user; none where it never was a member.
	Intervals(ctx context.Context, c Conversation, user string) ([]Interval, error)
	// SetCursors raises read cursors; a lower seq than the stored one changes nothing, and the same seq always has the same
	// count.
	SetCursors(ctx context.Context, c Conversation, cursors []Cursor) error
	// Cursor returns a user's read cursor; zero where there is none.
	Cursor(ctx context.Context, c Conversation, user string) (Cursor, error)
}

// Interval is a stretch of membership: seqs From to To, both included. To is 0 while it lasts.
type Interval struct{ From, To uint64 }

// Member is one user's membership.
type Member struct {
	User string
	// Ascending, disjoint.
	Intervals []Interval
	Cursor    Cursor
}

// Cursor is how far a user has read: up to Seq, at which Count messages had been written.
type Cursor struct {
	User  string
	Seq   uint64
	Count uint64
}

// Users holds each user's list of conversations.
type Users interface {
	// PutStandings stores what users are in conversations; one whose Seq is not above the stored one changes nothing, and the
	// same Seq of a user's conversation is always the same standing.
	PutStandings(ctx context.Context, app string, standings []UserStanding) error
	// Touch raises the minute of last activity of (user, conversation) pairs.
	Touch(ctx context.Context, app string, touches []Touch) error
	// List calls fn for every conversation of the user, in any order, until fn returns an error, which List returns as it is.
	// Where there was a Touch and no standing yet, Seq is 0. fn may call the store. Its reads are given up like those of Members.
	List(ctx context.Context, app, user string, fn func(Listing) error) error
}

// Standing is all that a user is in a conversation, as of Seq there.
type Standing struct {
	Conversation string
	Seq          uint64
	Member       bool
	JoinedSeq    uint64
	LeftSeq      uint64
	// Large says that the conversation's messages go to nodes, not to members.
	Large bool
}

// UserStanding is what one user is in a conversation.
type UserStanding struct {
	User string
	Standing
	// An activity that comes with it, as in Touch, which counts whatever the Seq; 0: none.
	MinuteUs int64
}

// Touch is an activity in a conversation of a user.
type Touch struct {
	User, Conversation string
	// Microseconds since 1970, rounded down to the minute.
	MinuteUs int64
}

// Listing is one row of a user's list.
type Listing struct {
	Standing
	ActiveUs int64
}

// Store is a backend. Methods are safe for concurrent use.
type Store interface {
	Records
	Members
	Users
	// Ping answers nil while the backend can read and write.
	Ping(ctx context.Context) error
	Close() error
}
