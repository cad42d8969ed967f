package presencetest

import (
	"cmp"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/pkg/presence"
)

func room(app, conversation, node string, epoch uint64) presence.Room {
	return presence.Room{RoomID: presence.RoomID{App: app, Conversation: conversation}, Node: node, Epoch: epoch}
}

func (h Harness) enter(t *testing.T, rooms ...presence.Room) {
	t.Helper()
	if err := h.EnterRoom(t.Context(), rooms); err != nil {
		t.Fatalf("EnterRoom(%v) = %v", rooms, err)
	}
}

func (h Harness) exit(t *testing.T, rooms ...presence.Room) {
	t.Helper()
	if err := h.LeaveRoom(t.Context(), rooms); err != nil {
		t.Fatalf("LeaveRoom(%v) = %v", rooms, err)
	}
}

// expectNodes compares what both processes see of one room, whatever the order of nodes.
func (h Harness) expectNodes(t *testing.T, app, conversation string, want ...presence.RoomNode) {
	t.Helper()
	byNode := func(a, b presence.RoomNode) int { return cmp.Compare(a.Node, b.Node) }
	slices.SortFunc(want, byNode)
	for i, r := range []presence.Registry{h.Registry, h.Other} {
		got, err := r.RoomNodes(t.Context(), []presence.RoomID{{App: app, Conversation: conversation}}, nil)
		if err != nil || len(got) != 1 {
			t.Fatalf("RoomNodes(%s) = %v, %v", conversation, got, err)
		}
		if diff := gocmp.Diff(want, slices.SortedFunc(slices.Values(got[0]), byNode)); diff != "" {
			t.Fatalf("%s as process %d sees it (-want +got):\n%s", conversation, i+1, diff)
		}
	}
}

func roomsEnteredAndLeft(t *testing.T, h Harness) {
	e1, e2 := h.acquire(t, "comet-1"), h.acquire(t, "comet-2")
	n1, n2 := presence.RoomNode{Node: "comet-1", Epoch: e1}, presence.RoomNode{Node: "comet-2", Epoch: e2}
	h.expectNodes(t, "main", "g:x")
	h.enter(t, room("main", "g:x", "comet-1", e1), room("main", "g:y", "comet-1", e1), room("other", "g:x", "comet-2", e2))
	h.enter(t, room("main", "g:x", "comet-2", e2))
	h.enter(t, room("main", "g:x", "comet-1", e1)) // Again: nothing changes.
	h.expectNodes(t, "main", "g:x", n1, n2)
	h.expectNodes(t, "main", "g:y", n1)
	h.expectNodes(t, "other", "g:x", n2)

	got, err := h.RoomNodes(t.Context(), []presence.RoomID{{App: "main", Conversation: "g:none"}, {App: "main", Conversation: "g:y"}}, make([][]presence.RoomNode, 5))
	if err != nil || len(got) != 2 || len(got[0]) != 0 || len(got[1]) != 1 || got[1][0] != n1 {
		t.Fatalf("RoomNodes of two rooms = %v, %v", got, err)
	}
	h.exit(t, room("main", "g:x", "comet-1", e1), room("main", "g:x", "comet-3", 7), room("main", "g:none", "comet-1", e1))
	h.expectNodes(t, "main", "g:x", n2)
	h.exit(t, room("main", "g:x", "comet-2", e2-1)) // Not the epoch it stands under.
	h.expectNodes(t, "main", "g:x", n2)
	h.exit(t, room("main", "g:x", "comet-2", e2))
	h.expectNodes(t, "main", "g:x")
}

func roomsEndWithTheLease(t *testing.T, h Harness) {
	e1, e2 := h.acquire(t, "comet-1"), h.acquire(t, "comet-2")
	h.enter(t, room("main", "g:x", "comet-1", e1), room("main", "g:x", "comet-2", e2))
	h.expectNodes(t, "main", "g:x", presence.RoomNode{Node: "comet-1", Epoch: e1}, presence.RoomNode{Node: "comet-2", Epoch: e2})
	for range 5 { // For 20 s only comet-2 renews.
		h.Advance(presence.RenewEvery)
		h.renew(t, "comet-2", e2)
	}
	h.expectNodes(t, "main", "g:x", presence.RoomNode{Node: "comet-2", Epoch: e2})
	// A new epoch must enter again.
	e3 := h.acquire(t, "comet-2")
	h.Advance(h.Staleness)
	h.renew(t, "comet-2", e3)
	h.expectNodes(t, "main", "g:x")
	h.enter(t, room("main", "g:x", "comet-2", e3))
	h.exit(t, room("main", "g:x", "comet-2", e2)) // What the node meant to leave before changes nothing now.
	h.expectNodes(t, "main", "g:x", presence.RoomNode{Node: "comet-2", Epoch: e3})
}
