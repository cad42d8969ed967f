// Package feature is the contract between a partition and what people can do: a feature decides, the partition carries it
// out. A feature never waits, never writes and never sends; the list of all is in logic/feature/all.
package feature

import (
	"context"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Feature is a set of commands that belong together.
type Feature interface {
	// Handlers says which commands it answers.
	Handlers() map[envelopev1.Command]Handler
	// Apply keeps up what the feature derives from committed records of its own types; it is called in seq order, on
	// commit and on takeover, and for the first and the last record of a conversation that is loaded, perhaps after later
	// ones. It must be idempotent.
	Apply(c *state.Conversation, r *logv1.Record)
}

// Rooms is what a feature implements whose records in a user's log tell of the user's part in large conversations. The nodes of the
// user's devices follow it.
type Rooms interface {
	// Room says what follows from a record of a user's log; nil: nothing.
	Room(r *logv1.Record) *link.Room
}

// Access is what a user must be in the conversation of a command. The partition checks it before Do; a server key passes, but
// an internal command that names a user has no more rights than that user.
type Access byte

// The kinds of access. For a user who has none the conversation is not there (not_found).
const (
	// Members: a member now. In a 1:1 its two users, before the first record too.
	Members Access = iota
	// Readers: a member now or once.
	Readers
	// Anyone: the handler decides. For creating.
	Anyone
)

// Handler answers one command.
type Handler struct {
	Access Access
	// Internal: only Halley's own processes may ask. They come with Server set, which no node does for a device.
	Internal bool
	// Kinds of conversation that the command is for, as their letters: "dgu".
	Kinds string
	// Write: the command writes a record. The partition then wants a client id, answers retries itself and keeps the
	// device's order, before Do is called.
	Write bool
	// Do decides. The conversation is as of the last committed record; it must not be changed.
	Do func(c *state.Conversation, r *link.Request) Outcome
}

// Outcome is what a feature decided. The partition carries it out in the order of the fields; the first that is set of Err,
// Record and Read ends it.
type Outcome struct {
	// Err refuses the request and changes nothing.
	Err *protocol.Error
	// Record is written; its ack is the answer.
	Record *Draft
	// Cursor raises a member's read cursor.
	Cursor *store.Cursor
	// Push goes to connected devices, never stored, never repeated.
	Push *Push
	// Reply is the answer at once.
	Reply protocol.Message
	// Read is carried out outside the partition's goroutine and gives the answer later.
	Read func(ctx context.Context, s Services) (protocol.Message, error)
}

// Refuse is an Outcome that refuses.
func Refuse(err *protocol.Error) Outcome { return Outcome{Err: err} }

// Draft is a record before it has a place. The partition adds seq, count, id, time, sender, device and client id.
type Draft struct {
	// Type is the field of halley.record.v1.Record.body that Body is.
	Type uint32
	Body []byte
	// Counted records are messages to a reader: they raise count.
	Counted bool
	Target  uint64
	Joined  []string
	Left    []string
	// Alone: what follows in the conversation is decided only after this one is committed, because it depends on it. Joined
	// and Left imply it.
	Alone bool
}

// Push is something ephemeral for connected devices.
type Push struct {
	Users   []string
	Command envelopev1.Command
	Body    protocol.Message
	// ExceptSender leaves out the session that the request came from.
	ExceptSender bool
}

// Services is what a Read may use.
type Services struct {
	Store    store.Store
	Presence presence.Registry
	// Log reads records of the conversation that was asked about, from places that its window gave, in their order.
	Log func(ctx context.Context, c store.Conversation, places []state.Place) ([]*logv1.Record, error)
	// Call asks the owners of other conversations, all at once; fn gets each answer's frame, in any order, in this
	// goroutine. A request that is not answered in time gets a frame with the error retry.
	Call func(ctx context.Context, requests []link.Request, fn func(i int, f *envelopev1.Frame)) error
}

// Record reads the record at a place that the conversation's window gave: nil where there is none.
func (s *Services) Record(ctx context.Context, c store.Conversation, at state.Place) (*logv1.Record, error) {
	var records []*logv1.Record
	var err error
	if at.Block > 0 {
		records, err = s.Log(ctx, c, []state.Place{at})
	} else {
		records, err = s.Store.Range(ctx, c, at.Seq, at.Seq, 1, false)
	}
	if err != nil || len(records) == 0 {
		return nil, err
	}
	return records[0], nil
}

// Decode reads the request's body into m.
func Decode(r *link.Request, m protocol.Message) *protocol.Error {
	return protocol.DecodeBody(r.Codec == link.CodecJSON, r.Body, m)
}
