// Package lastknown lets deliveries go on while presence does not answer: it remembers what was said last of users and rooms. It never
// answers for anything else: whoever must know the truth gets an error.
package lastknown

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/halley-im/halley/pkg/presence"
)

// Limit is how many users, and how many rooms, are remembered at least; at most twice as many.
const Limit = 50_000

// Registry is a presence.Registry whose Lookup and RoomNodes, where the one behind it fails, return what it said last with an error
// that is presence.ErrStale. Of whom nothing is remembered it says nothing. Methods are safe for concurrent use.
type Registry struct {
	presence.Registry

	mu    sync.Mutex
	users recall[presence.User, presence.Entry]
	rooms recall[presence.RoomID, presence.RoomNode]
}

var _ presence.Registry = (*Registry)(nil)

// New remembers what behind says, of limit users and rooms at least.
func New(behind presence.Registry, limit int) *Registry {
	return &Registry{
		Registry: behind,
		users:    newRecall[presence.User, presence.Entry](limit), rooms: newRecall[presence.RoomID, presence.RoomNode](limit),
	}
}

// Lookup implements presence.Registry.
func (r *Registry) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	entries, err := r.Registry.Lookup(ctx, users, dst)
	r.mu.Lock()
	defer r.mu.Unlock()
	return answer(&r.users, users, entries, dst, err)
}

// RoomNodes implements presence.Rooms.
func (r *Registry) RoomNodes(ctx context.Context, rooms []presence.RoomID, dst [][]presence.RoomNode) ([][]presence.RoomNode, error) {
	nodes, err := r.Registry.RoomNodes(ctx, rooms, dst)
	r.mu.Lock()
	defer r.mu.Unlock()
	return answer(&r.rooms, rooms, nodes, dst, err)
}

// answer remembers what was said, or says what is remembered.
func answer[K, V comparable](m *recall[K, V], keys []K, said, dst [][]V, err error) ([][]V, error) {
	if err == nil {
		for i, k := range keys {
			m.put(k, said[i])
		}
		return said, nil
	}
	dst = slices.Grow(dst[:0], len(keys))[:len(keys)]
	for i, k := range keys {
		dst[i] = m.get(k)
	}
	return dst, fmt.Errorf("%w: %w", presence.ErrStale, err)
}

// recall holds the keys that were put last, in two generations: when the young one is full, it becomes the old one, and what was
// old is forgotten.
type recall[K, V comparable] struct {
	limit      int
	young, old map[K][]V
}

func newRecall[K, V comparable](limit int) recall[K, V] {
	return recall[K, V]{limit: limit, young: make(map[K][]V)}
}

func (m *recall[K, V]) get(k K) []V {
	if vs, ok := m.young[k]; ok {
		return vs
	}
	return m.old[k]
}

// put copies vs, unless it is what is there: most users are where they were. One without any is forgotten.
func (m *recall[K, V]) put(k K, vs []V) {
	if len(vs) == 0 {
		delete(m.young, k)
		delete(m.old, k)
		return
	}
	have, young := m.young[k]
	if !young {
		have = m.old[k]
		if len(m.young) >= m.limit {
			m.young, m.old = make(map[K][]V, m.limit), m.young
		}
	}
	if !slices.Equal(have, vs) {
		have = slices.Clone(vs)
	} else if young {
		return
	}
	m.young[k] = have
}
