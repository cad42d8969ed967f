package comet

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/turns"
	"github.com/halley-im/halley/protocol"
)

// gate decides which connections are let in, by what is known of them before anything was read: no byte is parsed and no token
// verified for one that is turned away.
type gate struct {
	accepts   meter
	addresses addresses
	guards    guards
	rate      turns.Rate   // of connects
	turns     *turns.Turns // of those who are refused for others' sake
}

func newGate(cfg Config) *gate {
	g := &gate{turns: newTurns()}
	g.accepts.set(cfg.AcceptRate, cfg.AcceptBurst)
	g.addresses = addresses{limit: cfg.ConnectionsPerAddress, count: make(map[addressKey]uint32)}
	g.guards.set(cfg.HeapGuardPercent, cfg.CPUGuardPercent)
	return g
}

// verdict is what the gate says of a connection; code 0: it is let in.
type verdict struct {
	code   protocol.CloseCode
	result accept
	after  time.Duration // the device stays away so long
}

func overloaded(result accept, after time.Duration) verdict {
	return verdict{protocol.CloseOverloaded, result, after}
}

// admit judges a new connection of a loop. One that is let in is counted, for release to take back.
func (c *Comet) admit(l *eventLoop, from addressKey) verdict {
	g := c.gate
	switch {
	case c.refusing.Load():
		return verdict{protocol.CloseDraining, acceptDraining, refusedRetry}
	case g.guards.heap.Load():
		return overloaded(acceptHeap, later(0))
	case g.guards.cpu.Load():
		return overloaded(acceptCPU, later(0))
	}
	if v := l.late(); v.code != 0 {
		return v
	}
	if c.connections.Add(1)+c.inPlaces() > int64(c.limit) {
		c.connections.Add(-1)
		return overloaded(acceptOverloaded, later(0))
	}
	if from == noAddress { // The rest is judged when a balancer has told it.
		return verdict{result: acceptUnlocated}
	}
	return c.admitFrom(from)
}

// admitFrom judges where a connection that is counted comes from, and how many come.
func (c *Comet) admitFrom(from addressKey) verdict {
	g := c.gate
	// The address before the rate: a flood from one must not use up what all have together.
	if !g.addresses.add(from) {
		c.connections.Add(-1)
		return verdict{protocol.CloseRateLimited, acceptAddress, later(0)}
	}
	if wait := g.accepts.take(time.Since(c.clock.began)); wait > 0 {
		g.addresses.remove(from)
		c.connections.Add(-1)
		return overloaded(acceptRate, later(wait))
	}
	return verdict{result: acceptOK}
}

// release takes back what admit counted.
func (c *Comet) release(from addressKey) {
	c.gate.addresses.remove(from)
	c.connections.Add(-1)
}

// later is when a refused device may come back: not all at the same moment.
func later(least time.Duration) time.Duration { return max(least, refusedRetry) + rand.N(refusedRetry) }

// meter allows so many events per second, and a number at once after a rest: a token bucket kept as the time at which it would be
// full again, so that one word is all there is to share between loops.
type meter struct {
	interval time.Duration // between two events; 0: no limit
	ahead    time.Duration // how far full may lie in the future
	full     atomic.Int64
}

func (m *meter) set(perSecond, burst int) {
	if perSecond > 0 {
		m.interval = time.Second / time.Duration(perSecond)
		m.ahead = m.interval * time.Duration(max(burst, 1))
	}
}

// take takes one event at now, on a clock that never goes back. It returns how long the caller would have to wait, 0 if not at all.
func (m *meter) take(now time.Duration) time.Duration {
	if m.interval == 0 {
		return 0
	}
	for {
		full := m.full.Load()
		next := max(time.Duration(full), now) + m.interval
		if wait := next - now - m.ahead; wait > 0 {
			return wait
		}
		if m.full.CompareAndSwap(full, int64(next)) {
			return 0
		}
	}
}

// addressKey stands for who is counted as one: an IPv4 address, or the /64 that one customer has of IPv6. IPv4 lies in the low half,
// where as IPv6 prefixes only ::/64 lies.
type addressKey uint64

// noAddress stands for a connection of which is not known yet whose it is. As a prefix it would be one of multicast.
const noAddress = ^addressKey(0)

func addressOf(a net.Addr) addressKey {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return noAddress
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is4() {
		b := ip.As4()
		return addressKey(binary.BigEndian.Uint32(b[:]))
	}
	b := ip.As16()
	return addressKey(binary.BigEndian.Uint64(b[:8]))
}

// addresses counts the connections of each address. It holds those that have some, so there are never more than connections.
type addresses struct {
	limit int // 0: none, and nothing is counted

	mu    sync.Mutex
	count map[addressKey]uint32
}

// add counts a connection; false means that the address has as many as it may.
func (a *addresses) add(from addressKey) bool {
	if a.limit == 0 || from == noAddress {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.count[from]
	if int(n) >= a.limit {
		return false
	}
	a.count[from] = n + 1
	return true
}

func (a *addresses) remove(from addressKey) {
	if a.limit == 0 || from == noAddress {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count[from]--; a.count[from] == 0 {
		delete(a.count, from)
	}
}
