// Package link carries requests from the nodes that hold sessions (comet, the HTTP API) to the owners of partitions, and
// deliveries back. It never looks into a frame or body. Implementations: link.Local for one process, link/natslink for
// tiers; linktest is the suite both pass.
package link

import (
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"

	"github.com/halley-im/halley/protocol"
)

// Codec is how a session's frames are encoded.
type Codec uint8

// The codecs.
const (
	CodecProto Codec = 1
	CodecJSON  Codec = 2
)

// Request is one frame of one session on its way to the owner of a conversation. App, user, device and conversation are the
// sending node's word, not the device's. An Inbox gets strings and bodies that may be parts of a larger buffer: it copies what it
// keeps for long.
type Request struct {
	// Where the answer goes.
	Node string
	Conn uint64

	App, User, Device string
	Codec             Codec
	// Server marks a request with a server key's rights; User then names whom it acts for, or nobody.
	Server bool

	Command      envelopev1.Command
	RequestID    uint64
	Conversation string
	ClientID     string
	After        string
	Since        uint64
	// Epoch is the highest of an owner of the partition that the node had heard of when it took the request from its session. A write
	// is taken by no later owner: it may be a late copy of one that the owner before has refused for good.
	Epoch uint64
	// Body belongs to the receiver from the call of Route on; nobody writes to it any more.
	Body []byte
}

// Router takes requests to the owners of partitions.
type Router interface {
	// Partitions is the number of partitions of the cluster.
	Partitions() int
	// Route queues r for the owner of the partition and returns at once. Requests of one caller goroutine to one partition
	// arrive in order. An error (busy: the queue is full; retry: no owner just now) means that r was not taken. An
	// error found later comes back as a Delivery to r.Node with an error frame.
	Route(partition int, r Request) *protocol.Error
}

// Delivery is one encoded frame for one connection. Frame is shared and must not be changed.
type Delivery struct {
	Conn  uint64
	Frame []byte
	// Close, if not 0, ends the connection after the frame.
	Close protocol.CloseCode
	// Generation, if not 0, is the presence generation meant: another session under the same Conn is left alone.
	Generation uint64
	// Answers is the RequestID of the request that this is the answer to; 0 for what was not asked for.
	Answers uint64
	// Room, if not nil, makes this a word about a large conversation. It is shared and must not be changed.
	Room *Room
}

// RoomOp is what a delivery of a large conversation asks of a node.
type RoomOp uint8

// The operations. Expand and Leave with Users concern all sessions of the node that are in the room, the others the session Conn.
const (
	// RoomExpand: Frame, or JSON for sessions with that codec, goes to all members as of Seq, but not to Conn.
	RoomExpand RoomOp = 1
	// RoomAlso: Frame goes to Conn unless it got the record Seq by an expansion.
	RoomAlso RoomOp = 2
	// RoomJoin: Conn is a member from Seq on.
	RoomJoin RoomOp = 3
	// RoomLeave: the sessions of Users, or Conn where there are none, get nothing after Seq.
	RoomLeave RoomOp = 4
	// RoomClose: the conversation is large no more; its records come to Conn itself.
	RoomClose RoomOp = 5
)

// Room is what a delivery of a large conversation means.
type Room struct {
	App, Conversation string
	Op                RoomOp
	Seq               uint64
	JSON              []byte
	Users             []string
}

// Batch is what the owner of a partition has for one node at once.
type Batch struct {
	Partition int
	// Epoch is the owner's; a node drops what comes under a lower one than it has seen. 0: not an owner's word, such as the link's
	// own error frames for requests that reached no owner, or who comes and goes; that is never dropped.
	Epoch uint64
	// Deliveries are in order; consecutive ones with the same Frame travel as one.
	Deliveries []Delivery
}

// Sender takes deliveries to nodes.
type Sender interface {
	// Send queues the batch for the node and returns without waiting for it. The caller may reuse b.Deliveries when Send
	// has returned. A node that is gone swallows the batch: its sessions read their heads when they are back.
	Send(node string, b *Batch)
	// Skip says that deliveries were dropped before it was known for which nodes: every node has its sessions compare heads.
	Skip()
	// SkipUsers says the same of deliveries for these users: every node has theirs compare heads. The caller may not use the set any more.
	SkipUsers(users Users)
}

// Node is the receiving end of a Sender.
type Node interface {
	// Deliver takes a batch; it must not block, and is called from several goroutines. Batches of one partition and epoch arrive in order. The node may not keep
	// b.Deliveries; it may keep the frames.
	Deliver(b *Batch)
	// Lost says that deliveries may have been lost: all sessions must compare their heads, spread over time.
	Lost()
	// LostTo says the same of deliveries for these users alone. The node may keep the set and must not change it.
	LostTo(users Users)
}

// Inbox is the receiving end of a Router: one partition on its owner.
type Inbox interface {
	// Enqueue takes a request or refuses it at once; it must not block.
	Enqueue(r Request) *protocol.Error
}
