package presence

import "context"

// RoomID names a large conversation.
type RoomID struct{ App, Conversation string }

// Room is a large conversation and a node that has a member of it connected.
type Room struct {
	RoomID
	Node string
	// Epoch of the node when it entered; a room entered under an older epoch counts as left.
	Epoch uint64
}

// RoomNode is a node that is in a room.
type RoomNode struct {
	Node  string
	Epoch uint64
}

// Rooms knows the nodes that the messages of large conversations go to. A node enters a room before the first member's session
// there reads its head, and so gets everything from then on.
type Rooms interface {
	// EnterRoom notes that nodes are in rooms, one pipeline for all. To enter again changes nothing but the epoch.
	EnterRoom(ctx context.Context, rooms []Room) error
	// LeaveRoom takes nodes out of rooms that they are in under the epochs given.
	LeaveRoom(ctx context.Context, rooms []Room) error
	// RoomNodes returns the nodes in each room whose leases are alive under the epochs of their entries, in the order of rooms; dst
	// is reused if large enough. The inner slices are the registry's own: nobody may change them. It is bounded like Lookup.
	RoomNodes(ctx context.Context, rooms []RoomID, dst [][]RoomNode) ([][]RoomNode, error)
}
