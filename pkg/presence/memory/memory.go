// Package memory is presence in one process. It honours leases by the clock like every backend, and never starts a
// goroutine or touches the network.
package memory

import (
	"context"
	"crypto/rand"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/halley-im/halley/pkg/presence"
)

// shards is large enough that look-ups of all cores rarely meet a registration at the same lock.
const shards = 256

// sweepPerRenew shards are cleared of dead nodes' entries with each renewal: all of them in about four minutes, a
// few thousand users under one lock at a time.
const sweepPerRenew = 4

// Registry is presence in memory. All methods are safe for concurrent use.
type Registry struct {
	// static
	now         func() time.Time
	start       time.Time
	seed        maphash.Seed
	incarnation string

	// atomic
	counter atomic.Uint64 // of generations and epochs; starts at the clock, so that it rises over restarts
	sweepAt atomic.Uint32
	leases  atomic.Pointer[map[string]*lease] // replaced as a whole, under leaseMu

	leaseMu sync.Mutex
	shards  [shards]shard
	rooms   rooms
}

type shard struct {
	mu sync.RWMutex
	// Slices are never written to once they are here: look-ups hand them out.
	users map[key][]presence.Entry
}

// key is a presence.User in less space: apps are few.
type key struct {
	app  unique.Handle[string]
	user string
}

// lease of a node under one epoch. A later epoch is another lease.
type lease struct {
	node  string
	epoch uint64
	ends  atomic.Int64 // a time.Duration since the registry's start; 0 when released
}

var _ presence.Registry = (*Registry)(nil)

// New makes an empty registry. now is the clock that leases end by; time.Now in production.
func New(now func() time.Time) *Registry {
	r := &Registry{now: now, start: now(), seed: maphash.MakeSeed(), incarnation: rand.Text()}
	r.counter.Store(uint64(r.start.UnixMicro()))
	r.leases.Store(&map[string]*lease{})
	r.rooms.nodes = make(map[presence.RoomID][]presence.RoomNode)
	for i := range r.shards {
		r.shards[i].users = make(map[key][]presence.Entry)
	}
	return r
}

// elapsed is the time by which leases end. It is a difference, so a step of the wall clock does not touch it.
func (r *Registry) elapsed() int64 { return int64(r.now().Sub(r.start)) }

func (r *Registry) shardOf(user string) *shard {
	return &r.shards[maphash.String(r.seed, user)%shards]
}

// liveness answers for one moment which entries count. It remembers the last lease, for entries of one process are nearly
// always of one node.
type liveness struct {
	leases map[string]*lease
	now    int64
	last   *lease
}

func (r *Registry) liveness() liveness {
	return liveness{leases: *r.leases.Load(), now: r.elapsed()}
}

func (l *liveness) alive(e *presence.Entry) bool { return l.holds(e.Node, e.Epoch) }

func (l *liveness) holds(node string, epoch uint64) bool {
	if l.last == nil || l.last.node != node {
		if l.last = l.leases[node]; l.last == nil {
			return false
		}
	}
	return l.last.epoch == epoch && l.now < l.last.ends.Load()
}

func (l *liveness) allAlive(entries []presence.Entry) bool {
	for i := range entries {
		if !l.alive(&entries[i]) {
			return false
		}
	}
	return true
}

func (l *liveness) only(entries []presence.Entry) []presence.Entry {
	var live []presence.Entry
	for i := range entries {
		if l.alive(&entries[i]) {
			live = append(live, entries[i])
		}
	}
	return live
}

// Lookup returns the live entries of each user. It allocates nothing but dst, unless entries of a dead node must be left out.
func (r *Registry) Lookup(_ context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	dst = slices.Grow(dst[:0], len(users))
	live := r.liveness()
	var app string
	var k key
	for i := range users {
		if u := &users[i]; i == 0 || u.App != app {
			app, k.app = u.App, unique.Make(u.App)
		}
		k.user = users[i].User
		s := r.shardOf(k.user)
		s.mu.RLock()
		entries := s.users[k]
		s.mu.RUnlock()
		if !live.allAlive(entries) {
			entries = live.only(entries)
		}
		dst = append(dst, entries)
	}
	return dst, nil
}

// Register writes the entries and fills in the results.
func (r *Registry) Register(_ context.Context, regs []presence.Registration) error {
	live := r.liveness()
	for i := range regs {
		r.register(&regs[i], &live)
	}
	return nil
}

func (r *Registry) register(reg *presence.Registration, live *liveness) {
	reg.Replaced, reg.Stale = nil, false
	e := reg.Entry
	k := key{unique.Make(reg.User.App), reg.User.User}
	s := r.shardOf(k.user)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.users[k]
	kept := make([]presence.Entry, 0, len(old)+1)
	for i := range old {
		switch o := &old[i]; {
		case o.Device != e.Device:
			kept = append(kept, *o)
		case !live.alive(o):
			// Absent, whatever its generation.
		case e.Generation != 0 && o.Generation > e.Generation:
			reg.Stale = true
			return
		case o.Node != e.Node || o.Conn != e.Conn:
			displaced := *o
			reg.Replaced = &displaced
		}
	}
	if e.Generation == 0 {
		e.Generation = r.counter.Add(1)
	}
	reg.Entry.Generation = e.Generation
	// The caller's strings may be parts of something large.
	e.Device, e.Node = strings.Clone(e.Device), live.nameOf(e.Node)
	s.users[k.own()] = append(kept, e)
}

// own is the key to store: it must not hold on to the caller's memory. (A map takes over the new key of an assignment even if it
// has an equal one.)
func (k key) own() key { return key{k.app, strings.Clone(k.user)} }

// nameOf is one string for all entries of a node.
func (l *liveness) nameOf(node string) string {
	if l := l.leases[node]; l != nil {
		return l.node
	}
	return strings.Clone(node)
}

// Unregister implements presence.Registry.
func (r *Registry) Unregister(_ context.Context, regs []presence.Registration) error {
	for i := range regs {
		reg := &regs[i]
		k := key{unique.Make(reg.User.App), reg.User.User}
		s := r.shardOf(k.user)
		s.mu.Lock()
		s.remove(k, func(e *presence.Entry) bool {
			if reg.Entry.Generation == 0 {
				return e.Device == reg.Entry.Device && e.Node == reg.Entry.Node && e.Epoch == reg.Entry.Epoch && e.Conn == reg.Entry.Conn
			}
			return e.Device == reg.Entry.Device && e.Generation == reg.Entry.Generation
		})
		s.mu.Unlock()
	}
	return nil
}

// remove leaves out what drop says; s.mu is held.
func (s *shard) remove(k key, drop func(*presence.Entry) bool) {
	old := s.users[k]
	n := 0
	for i := range old {
		if drop(&old[i]) {
			n++
		}
	}
	switch n {
	case 0:
		return
	case len(old):
		delete(s.users, k)
		return
	}
	kept := make([]presence.Entry, 0, len(old)-n)
	for i := range old {
		if !drop(&old[i]) {
			kept = append(kept, old[i])
		}
	}
	s.users[k.own()] = kept
}

// Acquire starts a lease for the node, in place of any it had.
func (r *Registry) Acquire(_ context.Context, node string) (uint64, error) {
	r.leaseMu.Lock()
	defer r.leaseMu.Unlock()
	now := r.elapsed()
	l := &lease{node: strings.Clone(node), epoch: r.counter.Add(1)}
	l.ends.Store(now + int64(presence.TTL))
	next := maps.Clone(*r.leases.Load())
	maps.DeleteFunc(next, func(_ string, l *lease) bool { return now >= l.ends.Load() })
	next[l.node] = l
	r.leases.Store(&next)
	return l.epoch, nil
}

// Renew extends the lease, and sweeps a few shards.
func (r *Registry) Renew(_ context.Context, node string, epoch uint64) error {
	r.leaseMu.Lock()
	l, now := (*r.leases.Load())[node], r.elapsed()
	lost := l == nil || l.epoch != epoch || now >= l.ends.Load()
	if !lost {
		l.ends.Store(now + int64(presence.TTL))
	}
	r.leaseMu.Unlock()
	r.sweep(sweepPerRenew)
	r.sweepRooms()
	if lost {
		return presence.ErrLost
	}
	return nil
}

// Release ends the lease at once.
func (r *Registry) Release(_ context.Context, node string, epoch uint64) error {
	r.leaseMu.Lock()
	defer r.leaseMu.Unlock()
	if l := (*r.leases.Load())[node]; l != nil && l.epoch == epoch {
		l.ends.Store(0)
	}
	return nil
}

// Incarnation never changes: memory is lost with the process only, and its nodes with it.
func (r *Registry) Incarnation(context.Context) (string, error) { return r.incarnation, nil }

// sweep removes what dead nodes left behind in the next n shards.
func (r *Registry) sweep(n uint32) {
	at := r.sweepAt.Add(n) - n
	for i := range n {
		s := &r.shards[(at+i)%shards]
		s.mu.Lock()
		// Inside the lock: an entry that is here was registered before, so its lease is in this view.
		live := r.liveness()
		for k, entries := range s.users {
			if !live.allAlive(entries) {
				s.remove(k, func(e *presence.Entry) bool { return !live.alive(e) })
			}
		}
		s.mu.Unlock()
	}
}
