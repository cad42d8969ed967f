// Package generator holds many client connections on a few gnet loops: dialling, framing, sessions, heartbeats and
// reconnects at under 2 KB and no goroutine per connection. It never judges what the server says: that is the device's part.
package generator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"github.com/panjf2000/gnet/v2/pkg/pool/goroutine"

	"github.com/halley-im/halley/pkg/looptls"
)

// Transport is how frames travel.
type Transport string

// The transports.
const (
	WebSocket Transport = "ws"
	TCP       Transport = "tcp"
	// Bytes has no frames: an endpoint is given what arrived, as it arrived, and finds the frames of its protocol itself.
	Bytes Transport = "bytes"
)

// Config says where to connect and with what.
type Config struct {
	Workers   int
	Transport Transport
	// TLS, if it is set, is under the transport; a name in it that is empty is the target's host.
	TLS *tls.Config
	// Targets are host:port; connection i goes to Targets[i % len].
	Targets []string
	// Path and Subprotocol are those of the WebSocket handshake. Text has payloads sent in text frames, not in binary ones.
	Path, Subprotocol string
	Text              bool
	// Sources are local addresses; each target is reached from each of them in turn. Empty leaves the choice to the kernel.
	Sources []net.IP
	// Tick is how often each worker looks at its clock: the resolution of timers and of an open loop's schedule.
	Tick time.Duration
	// Dialers is how many connects may be in progress at once.
	Dialers int
	Seed    uint64
}

// Fleet is a set of workers and the dialers that bring them connections.
type Fleet struct {
	// static
	cfg     Config
	epoch   time.Time
	workers []*Worker
	desk    *looptls.Desk
	secured []*tls.Config // by target

	// owned by the dialers
	queue chan *Line
	stop  context.CancelFunc
	wait  sync.WaitGroup

	broken atomic.Pointer[error]
}

// New makes a fleet for at most lines connections. It starts nothing.
func New(cfg Config, lines int) (*Fleet, error) {
	if cfg.Workers < 1 || cfg.Dialers < 1 || cfg.Tick <= 0 || len(cfg.Targets) == 0 {
		return nil, errors.New("generator: workers, dialers, tick and targets must be set")
	}
	if cfg.Transport != WebSocket && cfg.Transport != TCP && cfg.Transport != Bytes {
		return nil, fmt.Errorf("generator: unknown transport %q", cfg.Transport)
	}
	// Each line is in the queue at most once, so a send to it never blocks a loop.
	f := &Fleet{cfg: cfg, epoch: time.Now(), queue: make(chan *Line, lines)}
	f.secure()
	for i := range cfg.Workers {
		f.workers = append(f.workers, newWorker(f, i))
	}
	return f, nil
}

// Start starts the loops and dialers; Stop ends them.
func (f *Fleet) Start() error {
	goroutine.DefaultWorkerPool.Release() // gnet's, used by nobody here: its clock would wake each process up twice a second.
	for i, w := range f.workers {
		client, err := gnet.NewClient(w, gnet.WithNumEventLoop(1), gnet.WithTCPNoDelay(gnet.TCPNoDelay),
			gnet.WithReadBufferCap(64<<10), gnet.WithLogger(silent{}), gnet.WithLogLevel(logging.FatalLevel))
		if err == nil {
			err = client.Start()
		}
		if err != nil {
			for _, started := range f.workers[:i] {
				_ = started.client.Stop()
			}
			return fmt.Errorf("start loop %d: %w", i, err)
		}
		w.client = client
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	for range f.cfg.Dialers {
		f.wait.Go(func() { f.dialer(ctx) })
	}
	for _, w := range f.workers {
		f.wait.Go(func() { w.ticker(ctx) })
	}
	return nil
}

// Stop closes every connection and returns when nothing of the fleet runs any more. After it the state that the loops
// owned may be read.
func (f *Fleet) Stop() {
	f.stop()
	f.wait.Wait()
	for _, w := range f.workers {
		w.stopping.Store(true)
		_ = w.client.Stop()
	}
	if f.desk != nil {
		f.desk.Wait()
	}
}

// Workers are the loops; who makes lines chooses one for each, and everything that shares state shares a worker.
func (f *Fleet) Workers() []*Worker { return f.workers }

// Now is the fleet's clock: nanoseconds since it was made, never going back.
func (f *Fleet) Now() int64 { return int64(time.Since(f.epoch)) }

// Connect queues the line's first connect.
func (f *Fleet) Connect(l *Line) { f.queue <- l }

// Err is why the fleet cannot work at all, such as a target that was never reached.
func (f *Fleet) Err() error {
	if p := f.broken.Load(); p != nil {
		return *p
	}
	return nil
}

// Up is how many sessions hold a hello now; ended how many will not come back; last the latest failure, if any.
func (f *Fleet) Up() (up, ended int64, last error) {
	for _, w := range f.workers {
		up += w.up.Load()
		ended += w.ended.Load()
		if p := w.last.Load(); p != nil {
			last = *p
		}
	}
	return up, ended, last
}

func (f *Fleet) dialer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-f.queue:
			if err := f.dial(ctx, l); err != nil && ctx.Err() == nil {
				if !l.worker.Post(func() { l.closed(err) }) {
					f.broken.CompareAndSwap(nil, &err)
				}
			}
		}
	}
}

func (f *Fleet) dial(ctx context.Context, l *Line) error {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}
	if n := len(f.cfg.Sources); n > 0 {
		d.LocalAddr = &net.TCPAddr{IP: f.cfg.Sources[l.index/len(f.cfg.Targets)%n]}
		d.Control = latePort
	}
	c, err := d.DialContext(ctx, "tcp", l.target())
	if err != nil {
		return err
	}
	_, err = l.worker.client.EnrollContext(c, l)
	return err
}

// silent is gnet's logger: what happens to a connection is told to its endpoint.
type silent struct{}

func (silent) Debugf(string, ...any) {}
func (silent) Infof(string, ...any)  {}
func (silent) Warnf(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}
