package looptls

import (
	"container/list"
	"crypto/tls"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// DeskConfig bounds the handshakes of a desk.
type DeskConfig struct {
	// Handshakes under way at once; others wait for their turn, in order.
	Handshakes int
	// Timeout of one, from its turn on.
	Timeout time.Duration
	// Observe is told how long each took that came to a good end, from its turn on; it may be nil.
	Observe func(took time.Duration)
}

// Desk gives handshakes their turn. So many may be under way, most of them waiting for the other end; no more of them calculate at
// once than there are processors, so that loops do not wait behind a crowd of them.
type Desk struct {
	// Static.
	cfg     DeskConfig
	workers chan struct{}
	running sync.WaitGroup

	mu    sync.Mutex
	free  int
	queue list.List // of *Conn

	counts [resultCount]atomic.Int64
}

// Result is how a handshake ended.
type Result uint8

// The results.
const (
	ResultOK      Result = iota
	ResultResumed        // by a session ticket
	ResultNotTLS
	ResultTooMuch // more bytes than a handshake has
	ResultTimeout
	ResultGone // the other end left
	ResultFailed
	resultCount
)

var resultNames = [resultCount]string{"ok", "resumed", "not_tls", "too_much", "timeout", "gone", "failed"}

// String is the result's name in metrics.
func (r Result) String() string { return resultNames[r] }

// Results are all of them.
func Results() []Result {
	all := make([]Result, resultCount)
	for i := range all {
		all[i] = Result(i)
	}
	return all
}

// Stats are a desk's counts.
type Stats struct {
	UnderWay, Waiting int
	Results           [resultCount]int64
}

// NewDesk makes a desk.
func NewDesk(cfg DeskConfig) *Desk {
	return &Desk{cfg: cfg, free: cfg.Handshakes, workers: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)))}
}

// Stats reads the counts; from any goroutine.
func (d *Desk) Stats() Stats {
	var s Stats
	d.mu.Lock()
	s.UnderWay, s.Waiting = d.cfg.Handshakes-d.free, d.queue.Len()
	d.mu.Unlock()
	for i := range s.Results {
		s.Results[i] = d.counts[i].Load()
	}
	return s
}

// Wait returns when no handshake is under way; all their connections must have been abandoned.
func (d *Desk) Wait() { d.running.Wait() }

func (d *Desk) enter(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.free == 0 {
		c.place = d.queue.PushBack(c)
		return
	}
	d.free--
	d.running.Go(func() { d.handshake(c) })
}

// leave gives the turn to the next.
func (d *Desk) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := d.queue.Front()
	if first == nil {
		d.free++
		return
	}
	next := d.queue.Remove(first).(*Conn)
	next.place = nil
	d.running.Go(func() { d.handshake(next) })
}

// forget takes a connection out of the queue, if it is there.
func (d *Desk) forget(c *Conn, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.place != nil {
		d.queue.Remove(c.place)
		c.place = nil
		d.count(c.tls, why)
	}
}

func (d *Desk) count(conn *tls.Conn, err error) {
	result := ResultFailed
	switch {
	case err == nil && conn.ConnectionState().DidResume:
		result = ResultResumed
	case err == nil:
		result = ResultOK
	case errors.Is(err, ErrNotTLS):
		result = ResultNotTLS
	case errors.Is(err, ErrTooMuch):
		result = ResultTooMuch
	case errors.Is(err, ErrTimeout):
		result = ResultTimeout
	case errors.Is(err, errGone):
		result = ResultGone
	}
	d.counts[result].Add(1)
}

// handshake is the goroutine.
func (d *Desk) handshake(c *Conn) {
	defer d.leave()
	h := c.hs
	h.begin(d.cfg.Timeout)
	defer h.timer.Stop()
	d.workers <- struct{}{}
	began := time.Now()
	err := c.tls.Handshake()
	<-d.workers
	if err == nil && d.cfg.Observe != nil {
		d.cfg.Observe(time.Since(began))
	}
	d.count(c.tls, err)
	h.mu.Lock()
	h.done, h.err = true, err
	h.mu.Unlock()
	c.waker.WakeTLS() // c is the loop's from here on
}

// handshake is what loop and goroutine share.
type handshake struct {
	bell chan struct{} // holds one: something changed

	// Owned by the goroutine.
	timer *time.Timer

	// Guarded by mu.
	mu      sync.Mutex
	in      []byte // arrived, and not read yet
	out     []byte // to be sent
	started bool
	gone    error // why nobody waits for it any more
	done    bool
	err     error
}

func (h *handshake) begin(timeout time.Duration) {
	h.mu.Lock()
	h.started = true
	h.mu.Unlock()
	h.timer = time.NewTimer(timeout)
}

func (h *handshake) ring() {
	select {
	case h.bell <- struct{}{}:
	default:
	}
}

// arrived takes what the socket has; on the loop.
func (h *handshake) arrived(s Socket) (err error) {
	h.mu.Lock()
	most := maxBefore
	if !h.started {
		most = maxHello
	}
	h.in, err = take(s, h.in, most)
	h.mu.Unlock()
	h.ring()
	return err
}

// read waits for bytes, in the goroutine, and lets another calculate meanwhile.
func (h *handshake) read(p []byte, d *Desk) (int, error) {
	n, err := h.tryRead(p)
	if n > 0 || err != nil {
		return n, err
	}
	<-d.workers
	defer func() { d.workers <- struct{}{} }()
	for {
		select {
		case <-h.bell:
		case <-h.timer.C:
			return 0, ErrTimeout
		}
		if n, err := h.tryRead(p); n > 0 || err != nil {
			return n, err
		}
	}
}

func (h *handshake) tryRead(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone != nil {
		return 0, h.gone
	}
	n := copy(p, h.in)
	h.in = h.in[n:]
	return n, nil
}

// write leaves p for the loop.
func (h *handshake) write(p []byte, w Waker) (int, error) {
	h.mu.Lock()
	h.out = append(h.out, p...)
	gone := h.gone
	h.mu.Unlock()
	if gone != nil {
		return 0, gone
	}
	w.WakeTLS()
	return len(p), nil
}
