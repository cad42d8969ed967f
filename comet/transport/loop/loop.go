// Package loop runs gnet: one engine, several listeners, one goroutine per event loop. It moves bytes and never looks at them,
// and it is the one place that knows gnet.
package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/pool/goroutine"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/comet/transport/proxy"
	"github.com/halley-im/halley/pkg/looptls"
)

// Config of the engine.
type Config struct {
	// Loops is the number of event loops; 0 means GOMAXPROCS.
	Loops int
	// ReadBytes is the size of each loop's read buffer.
	ReadBytes int
	// Listeners, in the order of Handler.Open's listener.
	Listeners []Listener
	// Proxies are the addresses whose connections begin with a header of the PROXY protocol. Of any other none is read.
	Proxies proxy.Trusted
	// Handshakes bounds those of TLS.
	Handshakes looptls.DeskConfig
}

// Listener is where connections come in.
type Listener struct {
	// Address is host:port. Port 0 chooses one.
	Address string
	// TLS, if it is set, is what connections begin with.
	TLS *tls.Config
}

// Count is the number of event loops.
func (c Config) Count() int {
	if c.Loops > 0 {
		return c.Loops
	}
	return runtime.GOMAXPROCS(0)
}

// Engine moves bytes between sockets and a handler.
type Engine struct {
	cfg     Config
	handler transport.Handler
	log     *slog.Logger
	desk    *looptls.Desk
	plains  [][]byte // of each loop: what it has decrypted last; made by the first connection that needs it

	headers headerCounts

	started chan struct{}
	booted  atomic.Bool
	addrs   []net.Addr // set before started is closed
	engine  gnet.Engine

	// Loops get their number when their first connection opens: gnet shows a loop only through its connections, and a loop
	// without one has nothing to be woken for.
	mu      sync.RWMutex
	stopped bool
	numbers map[gnet.EventLoop]int
	loops   []gnet.EventLoop
}

// New makes an engine that runs nothing yet.
func New(cfg Config, handler transport.Handler, log *slog.Logger) *Engine {
	return &Engine{
		cfg: cfg, handler: handler, log: log,
		desk:    looptls.NewDesk(cfg.Handshakes),
		plains:  make([][]byte, cfg.Count()),
		started: make(chan struct{}),
		numbers: make(map[gnet.EventLoop]int),
		loops:   make([]gnet.EventLoop, cfg.Count()),
	}
}

// Run listens and serves until Stop; it returns when every loop has ended and every connection is closed.
func (e *Engine) Run() error {
	addresses, release, err := e.reserve()
	if err != nil {
		return err
	}
	defer release()
	// SO_REUSEPORT: each loop accepts for itself. That spares a hand-over per connection and, above all, closes a refused
	// connection before the next is accepted, so that a storm beyond the limit cannot use up the descriptors:
	// gnet's acceptor ends the engine when accept fails.
	events := &events{Engine: e, release: release}
	goroutine.DefaultWorkerPool.Release() // gnet's, used by nobody here: its clock would wake the process up twice a second.
	err = gnet.Rotate(events, addresses,
		gnet.WithNumEventLoop(e.cfg.Count()),
		gnet.WithReusePort(true),
		gnet.WithReuseAddr(true),
		gnet.WithReadBufferCap(e.cfg.ReadBytes),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay),
		gnet.WithLogger(logger{e.log}),
	)
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	e.desk.Wait() // Their connections are closed.
	if err != nil {
		return fmt.Errorf("event loops: %w", err)
	}
	return nil
}

// reserve finds out the addresses for gnet and that nobody else listens there: with SO_REUSEPORT alone a second process would
// silently take a share of the connections. Where the port is to be chosen, it stays reserved until release.
func (e *Engine) reserve() (addresses []string, release func(), err error) {
	var held []net.Listener
	release = sync.OnceFunc(func() {
		for _, l := range held {
			_ = l.Close() // nothing was accepted from it
		}
	})
	for _, listener := range e.cfg.Listeners {
		address := listener.Address
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("listen on %q: %w", address, err)
		}
		var lc net.ListenConfig
		if port == "0" {
			lc.Control = reusePort
		}
		l, err := lc.Listen(context.Background(), "tcp", address)
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		e.addrs = append(e.addrs, l.Addr())
		bound := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		addresses = append(addresses, "tcp://"+net.JoinHostPort(host, bound))
		if port == "0" {
			held = append(held, l)
			continue
		}
		if err := l.Close(); err != nil {
			release()
			return nil, nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	return addresses, release, nil
}

func reusePort(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1)
	})
	return errors.Join(err, failed)
}

// Started is closed when every listener is bound.
func (e *Engine) Started() <-chan struct{} { return e.started }

// Addr is the address of a listener; valid when Started is closed.
func (e *Engine) Addr(listener int) net.Addr { return e.addrs[listener] }

// Stop makes Run return.
func (e *Engine) Stop() {
	if !e.booted.Load() {
		return
	}
	// gnet's Stop polls every half second for an end that Run sees at once; nobody needs to wait for it here.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.engine.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		e.log.Debug("stop event loops", "error", err)
	}
}

// Runner is what Wake runs on a loop.
type Runner interface {
	Run(ctx context.Context) error
}

// Wake runs r on the loop soon. It reports whether it will: not after Stop, and not on a loop that never had a connection.
func (e *Engine) Wake(loop int, r Runner) bool {
	// The lock is held over Execute because gnet would write to the descriptor of a loop that has ended, whoever owns that
	// number by then.
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.stopped || e.loops[loop] == nil {
		return false
	}
	return e.loops[loop].Execute(context.Background(), r) == nil
}

// Close closes a connection at once, after one more try to write what waits. On the connection's loop only; it calls
// Handler.Closed before it returns.
func Close(c transport.Conn) {
	if gc := socket(c); gc != nil {
		_ = gc.EventLoop().Close(gc) // the descriptor is gone either way
	}
}

// socket is what c stands on, nil where it is none of ours.
func socket(c transport.Conn) gnet.Conn {
	switch c := c.(type) {
	case *secured:
		return c.gc
	case *proxied:
		return c.Conn
	case gnet.Conn:
		return c
	}
	return nil
}

// CloseWrite sends FIN after what was written; bytes that wait in memory are not sent any more. The device's own FIN then
// closes the connection. So what was written last arrives even where the device's bytes lie unread, for which the kernel
// would answer a plain close with a reset.
func CloseWrite(c transport.Conn) {
	if s, ok := c.(*secured); ok {
		s.CloseWrite()
		if s.Gone() {
			return
		}
	}
	if gc := socket(c); gc != nil {
		_ = syscall.Shutdown(gc.Fd(), syscall.SHUT_WR) // it fails when the device is gone, which closes the connection
	}
}

// number is the loop's number, given now if it has none.
func (e *Engine) number(l gnet.EventLoop) int {
	e.mu.RLock()
	n, ok := e.numbers[l]
	e.mu.RUnlock()
	if ok {
		return n
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n = len(e.numbers)
	e.numbers[l] = n
	e.loops[n] = l
	return n
}

// plain is the loop's buffer for plain text; on the loop only.
func (e *Engine) plain(loop int) []byte {
	if e.plains[loop] == nil {
		e.plains[loop] = make([]byte, e.cfg.ReadBytes)
	}
	return e.plains[loop]
}

// Handshakes are the counts of TLS.
func (e *Engine) Handshakes() looptls.Stats { return e.desk.Stats() }

// listener is the number of the listener that accepted c.
func (e *Engine) listener(c gnet.Conn) int {
	port := c.LocalAddr().(*net.TCPAddr).Port
	for i, a := range e.addrs {
		if a.(*net.TCPAddr).Port == port {
			return i
		}
	}
	return 0
}
