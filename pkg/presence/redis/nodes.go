package redis

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/presence"
)

// staleness is for how long a lease that was seen alive is believed to be.
const staleness = 2 * time.Second

// forgetAfter refreshes without an entry of the node, it is forgotten.
const forgetAfter = 600

// leases remembers what was seen of nodes' leases.
type leases struct {
	mu    sync.RWMutex
	nodes map[string]*nodeState
}

// nodeState is what is known of one node.
type nodeState struct {
	epoch uint64    // alive when it was read last
	read  time.Time // before that read began
	over  uint64    // this epoch and all before ended; an epoch that has ended never comes back

	used   atomic.Bool // since the last refresh
	unused int         // refreshes in a row
}

// learn takes in a read that began at start: epoch is alive (if not 0), and over and all before are not.
func (l *leases) learn(node string, epoch, over uint64, start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.nodes[node]
	if s == nil {
		s = new(nodeState)
		s.used.Store(true)
		l.nodes[node] = s
	}
	if epoch != 0 {
		over = epoch - 1
	}
	s.over = max(s.over, over)
	// Reads may overtake each other: what ended stays ended, and the later read of the same epoch counts.
	if epoch > s.over && (epoch != s.epoch || start.After(s.read)) {
		s.epoch, s.read = epoch, start
	}
}

// inUse returns the nodes, with the epochs last seen alive, of which entries were judged since the last call.
func (l *leases) inUse() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := make(map[string]uint64)
	maps.DeleteFunc(l.nodes, func(node string, s *nodeState) bool {
		if s.used.Swap(false) {
			s.unused = 0
			if s.epoch > s.over {
				in[node] = s.epoch
			}
			return false
		}
		s.unused++
		return s.unused > forgetAfter
	})
	return in
}

// liveness says which entries counted at one moment: by node, the epoch alive.
type liveness struct{ epochs map[string]uint64 }

func (v *liveness) alive(e *presence.Entry) bool { return e.Epoch != 0 && v.epochs[e.Node] == e.Epoch }

// only filters in place.
func (v *liveness) only(entries []presence.Entry) []presence.Entry {
	live := entries[:0:len(entries)]
	for i := range entries {
		if v.alive(&entries[i]) {
			live = append(live, entries[i])
		}
	}
	return live
}

// judge returns the leases that the entries need, and the nodes, with the highest epoch claimed, of which too little is known.
func (l *leases) judge(entries []presence.Entry, now time.Time) (*liveness, map[string]uint64) {
	live := &liveness{epochs: make(map[string]uint64)}
	var unknown map[string]uint64
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := range entries {
		e := &entries[i]
		s := l.nodes[e.Node]
		if s != nil {
			if !s.used.Load() {
				s.used.Store(true)
			}
			fresh := s.epoch > s.over && now.Sub(s.read) < staleness
			if fresh {
				live.epochs[e.Node] = s.epoch
			}
			if e.Epoch <= s.over || fresh && e.Epoch <= s.epoch {
				continue
			}
		}
		if unknown == nil {
			unknown = make(map[string]uint64)
		}
		unknown[e.Node] = max(unknown[e.Node], e.Epoch)
	}
	return live, unknown
}
