package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/generator"
)

// kind is what clients do in a scenario.
type kind string

const (
	idle  kind = "idle"  // They connect and do nothing.
	pairs kind = "pairs" // They play ping-pong in twos.
	room  kind = "room"  // One writes to all others.
)

// scenario is one column of the table.
type scenario struct {
	Name        string `json:"name"`
	Kind        kind   `json:"kind"`
	TCP         bool   `json:"tcp,omitempty"` // Without WebSocket.
	Connections int    `json:"connections"`   // Of a room: those who receive.
	Outstanding int    `json:"outstanding,omitempty"`
}

// figures are what a scenario showed of a server.
type figures struct {
	Error string `json:"error,omitempty"` // Why there are none.

	BytesPerConnection float64 `json:"bytes_per_connection,omitempty"` // Resident memory.
	CPUUsPerConnect    float64 `json:"cpu_us_per_connect,omitempty"`
	ConnectsPerS       float64 `json:"connects_per_s,omitempty"`

	Seconds          float64            `json:"seconds,omitempty"` // The measured interval. What follows is in it.
	MessagesPerS     float64            `json:"messages_per_s,omitempty"`
	DeliveriesPerS   float64            `json:"deliveries_per_s,omitempty"`
	CPUUsPerMessage  float64            `json:"cpu_us_per_message,omitempty"`
	CPUUsPerDelivery float64            `json:"cpu_us_per_delivery,omitempty"`
	DeliverMs        benchmarks.Latency `json:"deliver_ms,omitzero"`
	ServerCores      float64            `json:"server_cores,omitempty"`
	GeneratorCores   float64            `json:"generator_cores,omitempty"`

	// OfFloor is the CPU, or the memory of those who are idle, as a multiple of the floor's in the same run.
	OfFloor        float64 `json:"of_floor,omitempty"`
	ConnectOfFloor float64 `json:"connect_of_floor,omitempty"`

	Oracle *oracle `json:"oracle,omitempty"`
}

func (f figures) String() string {
	switch {
	case f.Error != "":
		return "failed: " + f.Error
	case f.Seconds == 0:
		return fmt.Sprintf("%.0f B and %.1f µs per connection", f.BytesPerConnection, f.CPUUsPerConnect)
	}
	text := fmt.Sprintf("%.0f messages/s, %.0f deliveries/s, %.1f µs per message, %.1f µs per delivery", f.MessagesPerS, f.DeliveriesPerS,
		f.CPUUsPerMessage, f.CPUUsPerDelivery)
	if f.Oracle != nil && f.Oracle.faults() > 0 {
		text += "; " + f.Oracle.String()
	}
	return text
}

// oracle is what became of the messages, from the first to the last.
type oracle struct {
	Sent      int64 `json:"sent"`
	Acked     int64 `json:"acked"`
	Due       int64 `json:"due"` // Deliveries that there should be.
	Delivered int64 `json:"delivered"`
	Missing   int64 `json:"missing"`
	Unacked   int64 `json:"unacked"` // Where the server acknowledges.
	Repeated  int64 `json:"repeated"`
	Reordered int64 `json:"reordered"`
	Strays    int64 `json:"strays"` // What nobody sent, or sent to somebody else.
}

// faults is what should be 0.
func (o oracle) faults() int64 { return o.Missing + o.Unacked + o.Repeated + o.Reordered + o.Strays }

func (o oracle) String() string {
	return fmt.Sprintf("%d missing, %d unacked, %d repeated, %d reordered, %d strays", o.Missing, o.Unacked, o.Repeated, o.Reordered, o.Strays)
}

func verdict(c counts, acks bool) *oracle {
	o := oracle{
		Sent: c.sent, Acked: c.acked, Due: c.due, Delivered: c.delivered, Missing: c.due - c.delivered,
		Repeated: c.repeated, Reordered: c.reordered, Strays: c.strays,
	}
	if acks {
		o.Unacked = c.sent - c.acked
	}
	return &o
}

// sizes are how long a run measures, and how much.
type sizes struct {
	idle, pairs           int
	rooms                 [2]int
	text                  int
	warmup, during, rests time.Duration
}

// aFew connect before memory is read for the first time: what a server needs for its first connection is not what one costs.
const aFew = 100

// drive measures a server by the driver.
func drive(ctx context.Context, s scenario, z sizes, loops int, w wire, pid int) (figures, error) {
	if s.Kind == idle {
		return driveIdle(ctx, s, z, loops, w, pid)
	}
	n := s.Connections
	if s.Kind == room {
		n++
	}
	d, err := newDriver(w, n, loops, z.text)
	if err != nil {
		return figures{}, err
	}
	defer d.stop()
	if s.Kind == pairs {
		d.pairs(w, s.Connections/2, s.Outstanding)
	} else {
		d.room(w, s.Connections)
	}
	if err := d.connect(ctx); err != nil {
		return figures{}, err
	}
	if err := d.each(func(p *part) {
		p.talking = true
		for _, c := range p.chats {
			c.begin()
		}
	}); err != nil {
		return figures{}, err
	}
	pause(ctx, z.warmup)
	from, err := d.mark(pid, true)
	if err != nil {
		return figures{}, err
	}
	pause(ctx, z.during)
	to, err := d.mark(pid, false)
	if err != nil {
		return figures{}, err
	}
	if err := ctx.Err(); err != nil {
		return figures{}, err
	}
	if err := errors.Join(d.drain(ctx, patience), d.broken()); err != nil {
		return figures{}, err
	}
	total, err := d.count()
	if err != nil {
		return figures{}, err
	}
	d.stop()
	f := between(from, to)
	latencies := generator.NewHistogram()
	for _, p := range d.parts {
		latencies.Add(p.latency)
	}
	f.DeliverMs = latency(latencies)
	f.Oracle = verdict(total, w.acks)
	return f, nil
}

// mark is one end of the measured interval.
type mark struct {
	server    usage
	generator float64
	counts    counts
}

// mark reads everything; measuring is what holds for latencies from here on.
func (d *driver) mark(pid int, measuring bool) (m mark, err error) {
	if m.server, err = spentBy(pid); err != nil {
		return m, err
	}
	m.generator = spentHere()
	err = d.each(func(p *part) {
		p.measuring = measuring
		m.counts.add(p.counts)
	})
	return m, err
}

func between(from, to mark) figures {
	f := figures{Seconds: to.server.at.Sub(from.server.at).Seconds()}
	cpu := to.server.cpu - from.server.cpu
	messages, deliveries := to.counts.sent-from.counts.sent, to.counts.delivered-from.counts.delivered
	f.MessagesPerS, f.DeliveriesPerS = float64(messages)/f.Seconds, float64(deliveries)/f.Seconds
	f.CPUUsPerMessage, f.CPUUsPerDelivery = per(cpu*1e6, messages), per(cpu*1e6, deliveries)
	f.ServerCores, f.GeneratorCores = cpu/f.Seconds, (to.generator-from.generator)/f.Seconds
	return f
}

func per(total float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return total / float64(n)
}

func driveIdle(ctx context.Context, s scenario, z sizes, loops int, w wire, pid int) (f figures, err error) {
	few, err := newDriver(w, aFew, loops, z.text)
	if err != nil {
		return f, err
	}
	few.idlers(w, aFew)
	err = few.connect(ctx)
	few.stop()
	if err != nil {
		return f, err
	}
	pause(ctx, z.warmup)
	d, err := newDriver(w, s.Connections, loops, z.text)
	if err != nil {
		return f, err
	}
	defer d.stop()
	d.idlers(w, s.Connections)
	before, err := spentBy(pid)
	if err != nil {
		return f, err
	}
	if err := d.connect(ctx); err != nil {
		return f, err
	}
	after, err := spentBy(pid)
	if err != nil {
		return f, err
	}
	pause(ctx, z.rests)
	rested, err := spentBy(pid)
	if err := errors.Join(err, ctx.Err(), d.broken()); err != nil {
		return f, err
	}
	n := float64(s.Connections)
	return figures{
		BytesPerConnection: (rested.resident - before.resident) / n, CPUUsPerConnect: (after.cpu - before.cpu) / n * 1e6,
		ConnectsPerS: n / after.at.Sub(before.at).Seconds(),
	}, nil
}

func latency(h generator.Histogram) benchmarks.Latency {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return benchmarks.Latency{
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)),
		P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()), Mean: h.Mean() / 1000, Count: h.TotalCount(),
	}
}
