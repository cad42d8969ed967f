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

// storeServer is history: it has the records of every block up to the floor, and some of those above it.
type storeServer struct {
	w    *world
	down faultyUntil
	dice *dice

	mu      sync.Mutex
	records map[string]map[uint64]*logv1.Record
	cursors map[string]map[string]store.Cursor
	stored  map[uint64]bool // blocks above the floor
	floor   uint64
}

// follow is job: it writes blocks in no order, and the floor follows.
func (s *storeServer) follow() {
	for s.w.wait(s.dice.between(30*time.Millisecond, 600*time.Millisecond)) {
		if s.down.is() {
			continue
		}
		s.mu.Lock()
		last := s.w.log.state().Last
		for seq := s.floor + 1; seq <= last; seq++ {
			if !s.stored[seq] && (s.w.is(calm) || !s.dice.one(3)) {
				s.write(seq)
			}
		}
		for s.stored[s.floor+1] {
			s.floor++
			delete(s.stored, s.floor)
		}
		floor := s.floor
		s.mu.Unlock()
		if s.w.is(calm) || s.dice.one(3) {
			s.w.log.trim(floor + 1 - min(floor, uint64(s.dice.n(3))))
		}
	}
}

func (s *storeServer) write(seq uint64) {
	s.w.log.mu.Lock()
	b := s.w.log.block[seq-1]
	s.w.log.mu.Unlock()
	for _, r := range b.Records {
		if s.records[r.Conversation] == nil {
			s.records[r.Conversation] = map[uint64]*logv1.Record{}
		}
		s.records[r.Conversation][r.Seq] = r
	}
	s.stored[seq] = true
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

func (c *storeClient) Members(ctx context.Context, conv store.Conversation) ([]store.Member, error) {
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

// readFloor is history's floor as a process hears of it: never too high, and sometimes old.
func (s *storeServer) readFloor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor
}
