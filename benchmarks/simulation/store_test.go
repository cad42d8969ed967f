package simulation

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// storeServer is history: what jobs have written.
type storeServer struct {
	w    *world
	down faultyUntil

	mu      sync.Mutex
	records map[string]map[uint64]*logv1.Record
	cursors map[string]map[string]store.Cursor
}

func (s *storeServer) write(r *logv1.Record) {
	if s.records[r.Conversation] == nil {
		s.records[r.Conversation] = map[uint64]*logv1.Record{}
	}
	s.records[r.Conversation][r.Seq] = r
}

// has reports whether a block is all there.
func (s *storeServer) has(b *logv1.Block) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(b.Records, func(r *logv1.Record) bool {
		have := s.records[r.Conversation][r.Seq]
		return have == nil || have.ClientId != r.ClientId || have.Sender != r.Sender
	})
}

func (s *storeServer) ranged(c string, from, to uint64, limit int, newest bool) []*logv1.Record {
	var out []*logv1.Record
	for seq, r := range s.records[c] {
		if from <= seq && seq <= to {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *logv1.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	if n := len(out) - limit; n > 0 && newest {
		out = out[n:]
	} else if n > 0 {
		out = out[:limit]
	}
	return out
}

func (s *storeServer) members(c string) []store.Member {
	joins, leaves := map[string][]uint64{}, map[string][]uint64{}
	for seq, r := range s.records[c] {
		for _, u := range r.Joined {
			joins[u] = append(joins[u], seq)
		}
		for _, u := range r.Left {
			leaves[u] = append(leaves[u], seq)
		}
	}
	var out []store.Member
	for _, u := range slices.Sorted(maps.Keys(joins)) {
		out = append(out, store.Member{User: u, Intervals: store.Intervals(joins[u], leaves[u]), Cursor: s.cursors[c][u]})
	}
	return out
}

// storeClient is a process's way to it. What it does not have a method for is not part of the simulated traffic, and answers
// through the embedded nil interface with a panic.
type storeClient struct {
	store.Store
	p    *proc
	dice *dice
}

func ask[T any](ctx context.Context, c *storeClient, fn func(s *storeServer) T) (T, error) {
	s := c.p.w.store
	return call(ctx, c.p, c.p.w.trip(c.dice), func() (T, error) {
		if s.down.is() {
			var zero T
			return zero, errRefused
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return fn(s), nil
	})
}

func (c *storeClient) Range(ctx context.Context, conv store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error) {
	return ask(ctx, c, func(s *storeServer) []*logv1.Record { return s.ranged(conv.ID, from, to, limit, newest) })
}

// pagePatience is how long a driver waits for one page of an answer.
const pagePatience = 5 * time.Second

func (c *storeClient) Members(ctx context.Context, conv store.Conversation) ([]store.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, pagePatience)
	defer cancel()
	return ask(ctx, c, func(s *storeServer) []store.Member { return s.members(conv.ID) })
}

func (c *storeClient) SetCursors(ctx context.Context, conv store.Conversation, cursors []store.Cursor) error {
	_, err := ask(ctx, c, func(s *storeServer) struct{} {
		if s.cursors[conv.ID] == nil {
			s.cursors[conv.ID] = map[string]store.Cursor{}
		}
		for _, cur := range cursors {
			if cur.Seq > s.cursors[conv.ID][cur.User].Seq {
				s.cursors[conv.ID][cur.User] = cur
			}
		}
		return struct{}{}
	})
	return err
}

// Append writes records one by one: of a call that fails, some may be there.
func (c *storeClient) Append(ctx context.Context, records []*logv1.Record) error {
	s := c.p.w.store
	most := len(records)
	if c.p.w.is(storm) && c.dice.one(6) {
		most = c.dice.n(most + 1)
	}
	_, err := call(ctx, c.p, c.p.w.trip(c.dice), func() (struct{}, error) {
		if s.down.is() {
			return struct{}{}, errRefused
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range records[:most] {
			s.write(r)
		}
		if most < len(records) {
			return struct{}{}, errRefused
		}
		return struct{}{}, nil
	})
	return err
}
