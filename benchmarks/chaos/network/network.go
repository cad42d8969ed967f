// Package network gives every member of a run a network namespace of its own and carries the packets between them itself, so that
// any direction between two of them can be cut, made lossy or slow. It never touches the network of the machine.
package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// Link is one direction between two members.
type Link struct{ From, To string }

// Both are the directions between each of some members and each of others.
func Both(some, others []string) []Link {
	links := Links(some, others)
	for _, l := range Links(others, some) {
		if !slices.Contains(links, l) { // A member may be on both sides.
			links = append(links, l)
		}
	}
	return links
}

// Links are the directions from each of some members to each of others.
func Links(from, to []string) (links []Link) {
	for _, a := range from {
		for _, b := range to {
			if a != b {
				links = append(links, Link{a, b})
			}
		}
	}
	return links
}

// Condition is what happens to the packets of a link.
type Condition struct {
	// Lost is the share that does not arrive; 1 is a cut.
	Lost float64
	// Delay is how much later the others arrive.
	Delay time.Duration
}

// Network joins its members. Its methods are safe for concurrent use.
type Network struct {
	members map[string]*member
	byIP    map[netip.Addr]*member
	tasks   sync.WaitGroup
	closing chan struct{}

	mu    sync.Mutex
	links map[Link]*link // guarded by mu; a link that nobody impairs has no entry
}

// member is what has an address.
type member struct {
	name      string
	ip        netip.Addr
	namespace *os.File           // Nil of the one whose namespace is the process's.
	device    io.ReadWriteCloser // The network's end of the member's wire.
}

// link is what a direction suffers.
type link struct {
	suffers []*Condition
	late    chan packet // Nil until it was slow once.
}

type packet struct {
	due  time.Time
	data []byte
}

const (
	// Of the addresses' last byte: more members than a run has.
	most = 200
	// A packet of the wires. Large ones are fewer.
	mtu = 9000
	// How many packets of a slow link are on their way; more are lost, as on any wire.
	lateMost = 4096
)

// ErrDenied is what Isolate answers where it may not.
var ErrDenied = errors.New("network: namespaces of its own need root")

// Self is the member that is this process, which must have called Isolate.
const Self = "self"

// New makes a network of its members.
func New(names ...string) (*Network, error) {
	n := &Network{
		members: map[string]*member{}, byIP: map[netip.Addr]*member{}, links: map[Link]*link{}, closing: make(chan struct{}),
	}
	if len(names) > most {
		return nil, fmt.Errorf("network: %d members, more than %d", len(names), most)
	}
	for i, name := range names {
		m, err := open(name, addressOf(i))
		if err != nil {
			n.Close()
			return nil, fmt.Errorf("network: %s: %w", name, err)
		}
		n.join(m)
	}
	return n, nil
}

func addressOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}) }

// join puts a member on the network.
func (n *Network) join(m *member) {
	n.members[m.name], n.byIP[m.ip] = m, m
	n.tasks.Go(func() { n.carry(m) })
}

// Address is a member's, without a port.
func (n *Network) Address(member string) string { return n.members[member].ip.String() }

// Command is a program in the namespace of a member; what it starts is there as well.
func (n *Network) Command(ctx context.Context, member, program string, args ...string) *exec.Cmd {
	ns := n.members[member].namespace
	if ns == nil {
		return exec.CommandContext(ctx, program, args...)
	}
	path := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), ns.Fd())
	return exec.CommandContext(ctx, "nsenter", append([]string{path, "--", program}, args...)...)
}

// Impair has links suffer a condition until restore is called, on top of what else they suffer.
func (n *Network) Impair(links []Link, c Condition) (restore func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range links {
		l := n.links[name]
		if l == nil {
			l = &link{}
			n.links[name] = l
		}
		l.suffers = append(l.suffers, &c)
		if c.Delay > 0 && l.late == nil {
			l.late = make(chan packet, lateMost)
			n.tasks.Go(func() { n.deliver(n.members[name.To], l.late) })
		}
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, name := range links {
			l := n.links[name]
			l.suffers = slices.DeleteFunc(l.suffers, func(other *Condition) bool { return other == &c })
		}
	}
}

// Close ends what was carried; the namespaces end with the last process in them.
func (n *Network) Close() {
	close(n.closing)
	for _, m := range n.members {
		_ = m.device.Close()
		if m.namespace != nil {
			_ = m.namespace.Close()
		}
	}
	n.tasks.Wait()
}

// carry takes what a member sends until its wire is closed.
func (n *Network) carry(from *member) {
	buf := make([]byte, mtu)
	for {
		k, err := from.device.Read(buf)
		if err != nil {
			return
		}
		if to := n.byIP[destination(buf[:k])]; to != nil {
			n.pass(from, to, buf[:k])
		}
	}
}

// destination of an IPv4 packet (RFC 791, section 3.1); anything else has none here.
func destination(p []byte) netip.Addr {
	if len(p) < 20 || p[0]>>4 != 4 {
		return netip.Addr{}
	}
	var ip [4]byte
	binary.BigEndian.PutUint32(ip[:], binary.BigEndian.Uint32(p[16:20]))
	return netip.AddrFrom4(ip)
}

// pass hands a packet on as the link's conditions have it.
func (n *Network) pass(from, to *member, data []byte) {
	n.mu.Lock()
	l := n.links[Link{from.name, to.name}]
	var delay time.Duration
	if l != nil {
		for _, c := range l.suffers {
			if c.Lost > 0 && rand.Float64() < c.Lost {
				n.mu.Unlock()
				return
			}
			delay += c.Delay
		}
	}
	n.mu.Unlock()
	if delay == 0 {
		_, _ = to.device.Write(data) // A wire that is closing loses it.
		return
	}
	select {
	case l.late <- packet{time.Now().Add(delay), slices.Clone(data)}:
	default: // The wire is full.
	}
}

// deliver writes the packets of a slow link when they are due.
func (n *Network) deliver(to *member, late <-chan packet) {
	for {
		select {
		case <-n.closing:
			return
		case p := <-late:
			select {
			case <-n.closing:
				return
			case <-time.After(time.Until(p.due)):
				_, _ = to.device.Write(p.data)
			}
		}
	}
}
