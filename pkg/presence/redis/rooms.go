package redis

import (
	"context"
	"slices"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/halley-im/halley/pkg/presence"
)

// roomPrefix begins the keys of rooms.
const roomPrefix = "g:{"

func roomKey(id presence.RoomID) string { return roomPrefix + id.App + "/" + id.Conversation + "}" }

// packRoom ends with a bar, so that no epoch is the beginning of another.
func packRoom(epoch uint64) string { return strconv.FormatUint(epoch, 10) + "|" }

// unpackRoom makes the entry of a node in a room look like a device's, whose life the leases judge.
func unpackRoom(node, value string) (e presence.Entry, ok bool) {
	text, ok := strings.CutSuffix(value, "|")
	epoch, err := strconv.ParseUint(text, 10, 64)
	return presence.Entry{Node: node, Epoch: epoch}, ok && err == nil
}

// EnterRoom implements presence.Rooms.
func (r *Registry) EnterRoom(ctx context.Context, rooms []presence.Room) error {
	if len(rooms) == 0 {
		return nil
	}
	calls := make([]scriptCall, len(rooms))
	for i := range rooms {
		calls[i] = scriptCall{roomKey(rooms[i].RoomID), []any{rooms[i].Node, packRoom(rooms[i].Epoch)}}
	}
	return r.call(ctx, "enter_room", callTimeout, r.writes, func(ctx context.Context) error {
		cmds, err := r.runAll(ctx, enterScript, calls)
		if err != nil {
			return err
		}
		for _, cmd := range cmds {
			if err := cmd.Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// LeaveRoom implements presence.Rooms.
func (r *Registry) LeaveRoom(ctx context.Context, rooms []presence.Room) error {
	if len(rooms) == 0 {
		return nil
	}
	calls := make([]scriptCall, len(rooms))
	for i := range rooms {
		calls[i] = scriptCall{roomKey(rooms[i].RoomID), []any{rooms[i].Node, packRoom(rooms[i].Epoch)}}
	}
	return r.call(ctx, "leave_room", callTimeout, r.writes, func(ctx context.Context) error {
		_, err := r.removeAll(ctx, calls)
		return err
	})
}

// RoomNodes implements presence.Rooms: one HGETALL for each room, in one pipeline, like Lookup.
func (r *Registry) RoomNodes(ctx context.Context, ids []presence.RoomID, dst [][]presence.RoomNode) ([][]presence.RoomNode, error) {
	dst = slices.Grow(dst[:0], len(ids))[:0]
	if len(ids) == 0 {
		return dst, nil
	}
	err := r.call(ctx, "room_nodes", lookupTimeout, r.lookups, func(ctx context.Context) error {
		p := r.client.Pipeline()
		cmds := make([]*goredis.MapStringStringCmd, len(ids))
		for i, id := range ids {
			cmds[i] = p.HGetAll(ctx, roomKey(id))
		}
		refresh := r.refresh(ctx, p)
		if err := exec(ctx, p); err != nil {
			return err
		}
		if err := refresh.apply(); err != nil {
			return err
		}
		var all []presence.Entry
		ends := make([]int, len(ids))
		for i, cmd := range cmds {
			fields, err := cmd.Result()
			if err != nil {
				return err
			}
			for node, value := range fields {
				if e, ok := unpackRoom(node, value); ok {
					all = append(all, e)
				}
			}
			ends[i] = len(all)
		}
		live, err := r.resolve(ctx, all)
		if err != nil {
			return err
		}
		start := 0
		for _, end := range ends {
			var nodes []presence.RoomNode
			for _, e := range live.only(all[start:end]) {
				nodes = append(nodes, presence.RoomNode{Node: e.Node, Epoch: e.Epoch})
			}
			dst = append(dst, nodes)
			start = end
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}
