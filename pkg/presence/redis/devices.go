package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/halley-im/halley/pkg/presence"
)

// Register writes the entries, one pipeline for all, and fills in the results. After an error some may be registered; register
// again.
func (r *Registry) Register(ctx context.Context, regs []presence.Registration) error {
	if len(regs) == 0 {
		return nil
	}
	start := time.Now()
	return r.call(ctx, "register", callTimeout, r.writes, func(ctx context.Context) error {
		asked, err := r.serverTime(ctx, start)
		if err != nil {
			return err
		}
		todo := make([]registering, len(regs))
		for i := range regs {
			regs[i].Replaced, regs[i].Stale = nil, false
			todo[i].Registration = &regs[i]
		}
		// An entry of a dead node with a higher generation counts as absent: it is displaced by name in a second round. Each
		// further round would need another node to register the device and die meanwhile.
		for range 3 {
			if err := r.registerOnce(ctx, todo, asked); err != nil {
				return err
			}
			todo = slices.DeleteFunc(todo, func(g registering) bool { return g.dead == 0 })
			if len(todo) == 0 {
				return nil
			}
		}
		return fmt.Errorf("%d entries of dead nodes keep coming", len(todo))
	})
}

// registering is one registration under way.
type registering struct {
	*presence.Registration
	dead uint64 // the generation, known to be dead, that stood in the way
	old  presence.Entry
	had  bool
}

func (r *Registry) registerOnce(ctx context.Context, todo []registering, asked int64) error {
	calls := make([]scriptCall, len(todo))
	for i, g := range todo {
		calls[i] = scriptCall{userKey(g.User), []any{
			g.Entry.Device, strconv.FormatUint(g.Entry.Generation, 10), packTail(&g.Entry), strconv.FormatUint(g.dead, 10), asked,
		}}
	}
	cmds, err := r.runAll(ctx, registerScript, calls)
	if err != nil {
		return err
	}
	var before []presence.Entry
	for i, cmd := range cmds {
		g := &todo[i]
		reply, err := cmd.Slice()
		if err != nil {
			return fmt.Errorf("register: %w", err)
		}
		if len(reply) != 3 {
			return fmt.Errorf("register: reply %v", reply)
		}
		g.Stale = fmt.Sprint(reply[0]) == "0"
		if !g.Stale {
			if g.Entry.Generation, err = strconv.ParseUint(fmt.Sprint(reply[1]), 10, 64); err != nil {
				return fmt.Errorf("register: generation: %w", err)
			}
		}
		if g.old, g.had = unpack(g.Entry.Device, fmt.Sprint(reply[2])); g.had {
			before = append(before, g.old)
		}
	}
	live, err := r.resolve(ctx, before)
	if err != nil {
		return err
	}
	for i := range todo {
		g := &todo[i]
		alive := g.had && live.alive(&g.old)
		g.dead = 0
		switch {
		case g.Stale && !alive:
			g.Stale, g.dead = false, g.old.Generation
		case !g.Stale && alive && (g.old.Node != g.Entry.Node || g.old.Conn != g.Entry.Conn):
			old := g.old
			g.Replaced = &old
		}
	}
	return nil
}

// Unregister implements presence.Registry.
func (r *Registry) Unregister(ctx context.Context, regs []presence.Registration) error {
	if len(regs) == 0 {
		return nil
	}
	calls := make([]scriptCall, len(regs))
	for i := range regs {
		e := &regs[i].Entry
		args := []any{e.Device, strconv.FormatUint(e.Generation, 10) + "|"}
		if e.Generation == 0 {
			args = []any{e.Device, "", packTail(e)}
		}
		calls[i] = scriptCall{userKey(regs[i].User), args}
	}
	return r.call(ctx, "unregister", callTimeout, r.writes, func(ctx context.Context) error {
		_, err := r.removeAll(ctx, calls)
		return err
	})
}

func (r *Registry) removeAll(ctx context.Context, calls []scriptCall) (removed int, err error) {
	cmds, err := r.runAll(ctx, unregisterScript, calls)
	if err != nil {
		return 0, err
	}
	for _, cmd := range cmds {
		n, err := cmd.Int()
		if err != nil {
			return removed, fmt.Errorf("unregister: %w", err)
		}
		removed += n
	}
	return removed, nil
}

// Lookup returns the live entries of each user: one HGETALL each, in one pipeline. A second one reads the leases of nodes that
// this process has not heard of lately. What is remembered of a lease is at most staleness old, so a dead node's entries
// count for TTL + staleness = 14 s at most.
func (r *Registry) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	dst = slices.Grow(dst[:0], len(users))[:len(users)]
	if len(users) == 0 {
		return dst, nil
	}
	err := r.call(ctx, "lookup", lookupTimeout, r.lookups, func(ctx context.Context) error {
		p := r.client.Pipeline()
		cmds := make([]*goredis.MapStringStringCmd, len(users))
		for i, u := range users {
			cmds[i] = p.HGetAll(ctx, userKey(u))
		}
		refresh := r.refresh(ctx, p)
		if err := exec(ctx, p); err != nil {
			return err
		}
		if err := refresh.apply(); err != nil {
			return err
		}
		all := make([]presence.Entry, 0, len(users))
		ends := make([]int, len(users))
		for i, cmd := range cmds {
			fields, err := cmd.Result()
			if err != nil {
				return err
			}
			for device, value := range fields {
				if e, ok := unpack(device, value); ok {
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
		for i, end := range ends {
			dst[i] = live.only(all[start:end])
			start = end
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}
