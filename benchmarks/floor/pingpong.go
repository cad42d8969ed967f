package floor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/halley-im/halley/benchmarks/generator"
)

// PingPong keeps messages in flight over pairs of connections, as a closed loop of 1:1 conversations does: when one comes
// back, the other connection of the pair sends the next.
type PingPong struct {
	fleet *generator.Fleet
	ends  []*end
	parts []*part

	outstanding int
	up          atomic.Int64
	lost        atomic.Int64
	last        atomic.Pointer[error]
}

type part struct {
	worker  *generator.Worker
	latency generator.Histogram
	pairs   []*end
	talking bool
	echoed  int64
	live    atomic.Int64
	payload []byte
}

type end struct {
	line  generator.Line
	part  *part
	peer  *end
	owner *PingPong
}

// NewPingPong lays n connections out over the fleet. It starts nothing.
func NewPingPong(fleet *generator.Fleet, n, outstanding, size int) *PingPong {
	p := &PingPong{fleet: fleet, outstanding: outstanding}
	for _, w := range fleet.Workers() {
		q := &part{worker: w, latency: generator.NewHistogram(), payload: make([]byte, max(size, 8))}
		w.EachTick(func(int64) { q.live.Store(q.echoed) })
		p.parts = append(p.parts, q)
	}
	for i := 0; i+1 < n; i += 2 {
		q := p.parts[i/2%len(p.parts)]
		a, b := &end{part: q, owner: p}, &end{part: q, owner: p}
		a.peer, b.peer = b, a
		a.line.Init(q.worker, i, a)
		b.line.Init(q.worker, i+1, b)
		q.pairs = append(q.pairs, a)
		p.ends = append(p.ends, a, b)
	}
	return p
}

// Connect queues the connect of connection i.
func (p *PingPong) Connect(i int) { p.fleet.Connect(&p.ends[i].line) }

// Up is how many connections were made, how many were lost or never made, and why the last of these.
func (p *PingPong) Up() (up, lost int64, last error) {
	if e := p.last.Load(); e != nil {
		last = *e
	}
	return p.up.Load(), p.lost.Load(), last
}

// Begin starts the loop.
func (p *PingPong) Begin() {
	for _, q := range p.parts {
		q.worker.Post(func() {
			q.talking = true
			for range p.outstanding {
				for _, e := range q.pairs {
					e.send()
				}
			}
		})
	}
}

// Halt ends it.
func (p *PingPong) Halt() {
	for _, q := range p.parts {
		q.worker.Post(func() { q.talking = false })
	}
}

// Echoed is how many messages came back, as of the last tick.
func (p *PingPong) Echoed() (n int64) {
	for _, q := range p.parts {
		n += q.live.Load()
	}
	return n
}

// Latency is the time from send to return. To be called when the fleet has stopped.
func (p *PingPong) Latency() generator.Histogram {
	h := generator.NewHistogram()
	for _, q := range p.parts {
		h.Add(q.latency)
	}
	return h
}

func (e *end) send() {
	binary.LittleEndian.PutUint64(e.part.payload, uint64(e.part.worker.Now()))
	e.line.Send(e.part.payload)
}

// Opened implements generator.Endpoint.
func (e *end) Opened() { e.owner.up.Add(1) }

// Payload implements generator.Endpoint.
func (e *end) Payload(b []byte) {
	q := e.part
	if len(b) != len(q.payload) {
		e.line.Close(fmt.Errorf("echo of %d bytes, not %d", len(b), len(q.payload)))
		return
	}
	q.echoed++
	generator.Record(q.latency, q.worker.Now()-int64(binary.LittleEndian.Uint64(b)))
	if q.talking {
		e.peer.send()
	}
}

// Closed implements generator.Endpoint: a floor that loses connections measures nothing.
func (e *end) Closed(err error) {
	if err == nil {
		err = errors.New("closed by the server")
	}
	e.owner.last.Store(&err)
	e.owner.lost.Add(1)
}
