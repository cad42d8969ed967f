package memory

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/halley-im/halley/pkg/presence"
)

// rooms are few beside users: one lock serves, and nodes enter and leave them rarely.
type rooms struct {
	mu sync.RWMutex
	// Slices are never written to once they are here: look-ups hand them out.
	nodes map[presence.RoomID][]presence.RoomNode
}

// EnterRoom implements presence.Rooms.
func (r *Registry) EnterRoom(_ context.Context, in []presence.Room) error {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	live := r.liveness()
	for i := range in {
		room := &in[i]
		old := r.rooms.nodes[room.RoomID]
		next := make([]presence.RoomNode, 0, len(old)+1)
		for _, n := range old {
			if n.Node != room.Node {
				next = append(next, n)
			}
		}
		next = append(next, presence.RoomNode{Node: live.nameOf(room.Node), Epoch: room.Epoch})
		// The caller's strings may be parts of something large.
		r.rooms.nodes[presence.RoomID{App: strings.Clone(room.App), Conversation: strings.Clone(room.Conversation)}] = next
	}
	return nil
}

// LeaveRoom implements presence.Rooms.
func (r *Registry) LeaveRoom(_ context.Context, out []presence.Room) error {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for i := range out {
		room := &out[i]
		r.rooms.keep(room.RoomID, func(n presence.RoomNode) bool { return n.Node != room.Node || n.Epoch != room.Epoch })
	}
	return nil
}

// keep leaves in the room those that pass; mu is held.
func (r *rooms) keep(id presence.RoomID, pass func(presence.RoomNode) bool) {
	old := r.nodes[id]
	if !slices.ContainsFunc(old, func(n presence.RoomNode) bool { return !pass(n) }) {
		return
	}
	var kept []presence.RoomNode
	for _, n := range old {
		if pass(n) {
			kept = append(kept, n)
		}
	}
	if len(kept) == 0 {
		delete(r.nodes, id)
		return
	}
	r.nodes[id] = kept
}

// RoomNodes implements presence.Rooms.
func (r *Registry) RoomNodes(_ context.Context, ids []presence.RoomID, dst [][]presence.RoomNode) ([][]presence.RoomNode, error) {
	dst = slices.Grow(dst[:0], len(ids))
	live := r.liveness()
	for _, id := range ids {
		r.rooms.mu.RLock()
		nodes := r.rooms.nodes[id]
		r.rooms.mu.RUnlock()
		if slices.ContainsFunc(nodes, func(n presence.RoomNode) bool { return !live.holds(n.Node, n.Epoch) }) {
			nodes = slices.DeleteFunc(slices.Clone(nodes), func(n presence.RoomNode) bool { return !live.holds(n.Node, n.Epoch) })
		}
		dst = append(dst, nodes)
	}
	return dst, nil
}

// sweepRooms removes what dead nodes left behind. Map order spreads the work over calls.
func (r *Registry) sweepRooms() {
	const most = 1000
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	live := r.liveness()
	looked := 0
	for id := range r.rooms.nodes {
		if looked++; looked > most {
			return
		}
		r.rooms.keep(id, func(n presence.RoomNode) bool { return live.holds(n.Node, n.Epoch) })
	}
}
