package natslink

import (
	"sync"
	"time"

	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/link"
)

// outLink is one numbered link with a node.
type outLink struct {
	// static
	node, from string

	// guarded by mu
	mu        sync.Mutex
	pending   []*deliveries // in the order of sending; at most one open per partition
	bytes     int
	skip      bool // something after pending found no room
	dirty     bool // stands in the flusher's list
	forgotten bool
	used      time.Time // by Send
	heard     time.Time // from the node
	have      uint64    // the node's last word
	again     *linkv1.LinkStatus
	encoder   encoder

	// owned by Run
	number    uint64        // the last one given
	ring      []*deliveries // the last ones sent, without holes in their numbers
	ringBytes int
	floor     uint64 // the last number that left the ring
	floorSent time.Time
	spare     []*deliveries
}

// deliveries is one DeliveryBatch. In the ring, no data means that it was skipped.
type deliveries struct {
	partition int
	epoch     uint64
	data      []byte
	number    uint64
	sent      time.Time
}

var deliveryPool = sync.Pool{New: func() any { return new(deliveries) }}

func (d *deliveries) recycle() {
	if cap(d.data) > 2*maxBatchBytes {
		d.data = nil
	}
	*d = deliveries{data: d.data[:0]}
	deliveryPool.Put(d)
}

// What queue answers.
const (
	queued = iota
	queuedFirst
	linkForgotten
)

// queue encodes b into what is pending.
func (l *outLink) queue(o *Owner, b *link.Batch) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgotten {
		return linkForgotten
	}
	l.used = time.Now()
	first := !l.dirty
	l.dirty = true
	ds := b.Deliveries
	for len(ds) > 0 {
		// What follows a loss in the same flush would be taken for complete: it is lost as well, under the same number.
		if l.skip || l.bytes >= o.cfg.SendBytes {
			if !l.skip {
				o.n.lost.WithLabelValues("full").Inc()
			}
			l.skip = true
			break
		}
		d := l.open(b)
		before := len(d.data)
		data, rest, err := l.encoder.next(d.data, ds)
		if err != nil {
			o.n.log.Error("link: deliveries cannot be encoded", "node", l.node, "err", err)
			l.skip = true
			break
		}
		d.data, ds = data, rest
		l.bytes += len(data) - before
	}
	if first {
		return queuedFirst
	}
	return queued
}

// open is the pending batch that deliveries of b go into. Only the last one of a partition may be it: order holds per partition.
func (l *outLink) open(b *link.Batch) *deliveries {
	for i := len(l.pending) - 1; i >= 0; i-- {
		if d := l.pending[i]; d.partition == b.Partition {
			if d.epoch == b.Epoch && len(d.data) < maxBatchBytes {
				return d
			}
			break
		}
	}
	d := deliveryPool.Get().(*deliveries)
	d.partition, d.epoch = b.Partition, b.Epoch
	l.pending = append(l.pending, d)
	return d
}

// told takes in a node's status and reports whether the link is newly dirty.
func (l *outLink) told(s *linkv1.LinkStatus) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
	l.have = max(l.have, s.Have)
	if !s.Again {
		return false
	}
	l.again = s
	first := !l.dirty
	l.dirty = true
	return first
}

// flush sends again what the node asked for, and then what is pending, so that the order holds.
func (l *outLink) flush(o *Owner) {
	l.mu.Lock()
	pending, skip, again, have := l.pending, l.skip, l.again, l.have
	l.pending, l.bytes, l.skip, l.again, l.dirty = l.spare[:0], 0, false, nil, false
	l.mu.Unlock()
	now := time.Now()
	if again != nil {
		l.repeat(o, again, now)
	}
	l.trim(o, have, now)
	for _, d := range pending {
		l.number++
		d.number, d.sent = l.number, now
		d.data = appendHeader(d.data, l.from, d.number, d.partition, d.epoch)
		l.keep(d)
		l.send(o, d)
	}
	if skip {
		l.number++
		d := deliveryPool.Get().(*deliveries)
		d.number, d.sent = l.number, now
		l.keep(d)
	}
	l.trim(o, have, now)
	clear(pending)
	l.spare = pending
}

func (l *outLink) send(o *Owner, d *deliveries) {
	// Without a connection the batch stays in the ring, and the next heartbeat that gets through tells its number.
	if err := o.publish(o.subject(l.node), "", d.data); err != nil {
		o.n.log.Debug("link: deliveries were not sent", "node", l.node, "number", d.number, "err", err)
		return
	}
	o.n.batches.Inc()
}

func (l *outLink) keep(d *deliveries) {
	l.ring = append(l.ring, d)
	l.ringBytes += len(d.data)
}

// trim lets go what the node has, what is too old, and what is too much. The newest stays, however large.
func (l *outLink) trim(o *Owner, have uint64, now time.Time) {
	n := 0
	for n < len(l.ring) {
		d := l.ring[n]
		acked := d.number <= have
		if !acked && (l.ringBytes <= o.cfg.RingBytes || n == len(l.ring)-1) && now.Sub(d.sent) < ms(o.cfg.RingMs) {
			break
		}
		l.ringBytes -= len(d.data)
		l.floor, l.floorSent = d.number, d.sent
		d.recycle()
		n++
	}
	l.ring = append(l.ring[:0], l.ring[n:]...)
}

// upMargin is added to the time that a node says it has been listening: its word was under way.
const upMargin = time.Second

// repeat sends everything again that followed s.Have, and says what is missing of it. What was sent before the node began to
// listen is not missing.
func (l *outLink) repeat(o *Owner, s *linkv1.LinkStatus, now time.Time) {
	o.n.gaps.Inc()
	began := now.Add(-min(time.Duration(s.UpMs)*time.Millisecond, 24*time.Hour) - upMargin)
	skipTo, lost := uint64(0), false
	if s.Have < l.floor {
		skipTo, lost = l.floor, l.floorSent.After(began)
	}
	for _, d := range l.ring {
		concerns := d.sent.After(began)
		if d.number > s.Have && (len(d.data) == 0 || !concerns) {
			skipTo, lost = d.number, lost || concerns
		}
	}
	if skipTo != 0 {
		l.skipped(o, skipTo, lost)
	}
	for _, d := range l.ring {
		if d.number > s.Have && len(d.data) != 0 && d.sent.After(began) {
			l.send(o, d)
			o.n.again.Inc()
		}
	}
	o.sendControl(l, 0, false, false)
}

func (l *outLink) skipped(o *Owner, to uint64, lost bool) {
	if lost {
		o.n.lost.WithLabelValues("ring").Inc()
		o.n.log.Warn("link: deliveries have left the ring", "node", l.node, "up_to", to)
	}
	o.sendControl(l, to, lost, false)
}

// heartbeat tells the last number, and reports whether the node is forgotten: neither heard of nor sent to for long.
func (l *outLink) heartbeat(o *Owner) bool {
	now := time.Now()
	l.mu.Lock()
	have := l.have
	idle := min(now.Sub(l.heard), now.Sub(l.used)) > ms(o.cfg.ForgetMs)
	if idle && !l.dirty {
		l.forgotten = true
	}
	gone := l.forgotten
	l.mu.Unlock()
	if gone {
		return true
	}
	l.trim(o, have, now)
	o.sendControl(l, 0, false, false)
	return false
}
