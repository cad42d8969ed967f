package main

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// gate stands before the nodes that take connections, as a load balancer does, and can cut all of them at once.
type gate struct {
	listener net.Listener
	targets  []string
	tasks    sync.WaitGroup

	mu     sync.Mutex
	closed bool                  // guarded by mu
	conns  map[net.Conn]struct{} // guarded by mu: of both sides
}

// openGate listens on a port of its own.
func openGate(targets []string) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it ends with close.
	if err != nil {
		return nil, err
	}
	g := &gate{listener: l, targets: targets, conns: map[net.Conn]struct{}{}}
	g.tasks.Go(g.accept)
	return g, nil
}

func (g *gate) address() string { return g.listener.Addr().String() }

func (g *gate) accept() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.tasks.Go(func() { g.carry(conn) })
	}
}

const gateDial = time.Second

// carry joins a device to one of the nodes that answer.
func (g *gate) carry(device net.Conn) {
	defer device.Close() //nolint:errcheck // what was not carried is the fault that is made here.
	for _, i := range rand.Perm(len(g.targets)) {
		node, err := net.DialTimeout("tcp", g.targets[i], gateDial) //nolint:noctx // bounded.
		if err != nil {
			continue
		}
		if !g.add(device, node) {
			_ = node.Close()
			return
		}
		var both sync.WaitGroup
		for _, way := range [][2]net.Conn{{device, node}, {node, device}} {
			both.Go(func() {
				_, _ = io.Copy(way[1], way[0])
				_ = way[1].Close()
				_ = way[0].Close()
			})
		}
		both.Wait()
		g.remove(device, node)
		return
	}
}

func (g *gate) add(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	for _, c := range conns {
		g.conns[c] = struct{}{}
	}
	return true
}

func (g *gate) remove(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		delete(g.conns, c)
	}
}

// cut closes every connection; devices may come again at once.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		_ = c.Close()
	}
}

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	_ = g.listener.Close()
	g.cut()
	g.tasks.Wait()
}
