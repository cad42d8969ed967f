package state

import (
	"slices"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// past is what was read of the store to judge retries: the writes of the stretch directly below the window, without bodies. After an
// outage every device repeats what it has not heard of, and much of that lies below the window by then; one read judges them all.
type past struct {
	first  uint64    // seq of writes[0]
	writes []Written // by seq, without holes; what the store did not have is the zero value
}

// Written is what identifies a write, and what answers it.
type Written struct {
	id                       uint64
	sender, device, clientID string
	seq, count, message      uint64
	timeUs                   int64
}

// WrittenOf keeps nothing of r, whose strings may be parts of a larger buffer.
func WrittenOf(r *logv1.Record) Written {
	sender, device := len(r.Sender), len(r.Sender)+len(r.Device)
	names := r.Sender + r.Device + r.ClientId
	return Written{
		WriteID(r.Sender, r.Device, r.ClientId), names[:sender], names[sender:device], names[device:], r.Seq, r.Count, r.Id, r.TimeUs,
	}
}

func (p *past) end() uint64 { return p.first + uint64(len(p.writes)) }

// push takes a record that leaves the window. Only one that joins on is of use.
func (p *past) push(r *logv1.Record) {
	switch {
	case len(p.writes) == 0:
	case r.Seq != p.end():
		*p = past{}
	default:
		p.writes = append(p.writes, WrittenOf(r))
	}
}

func (p *past) find(user, device, clientID string, since uint64) *logv1.Record {
	if len(p.writes) == 0 || since >= p.end()-1 {
		return nil
	}
	id := WriteID(user, device, clientID)
	least := 0
	if since >= p.first {
		least = int(since - p.first + 1)
	}
	for i := len(p.writes) - 1; i >= least; i-- {
		if w := &p.writes[i]; w.id == id && w.clientID == clientID && w.sender == user && w.device == device {
			return &logv1.Record{
				Seq: w.seq, Count: w.count, Id: w.message, TimeUs: w.timeUs, Sender: w.sender, Device: w.device, ClientId: w.clientID,
			}
		}
	}
	return nil
}

// Known is the lowest seq from which on memory has all that was written, be it the place in the log alone.
func (c *Conversation) Known() uint64 {
	if p := &c.Window.past; len(p.writes) > 0 {
		return p.first
	}
	if lowest := c.Window.Lowest(); lowest > 0 {
		return lowest
	}
	return c.Head.Seq + 1
}

// Recall remembers what the store has of from ≤ seq ≤ to, and reports whether that joins what is known.
func (c *Conversation) Recall(from, to uint64, writes []Written) bool {
	p := &c.Window.past
	if from > to || to+1 != c.Known() {
		return false
	}
	all := make([]Written, to-from+1, to-from+1+uint64(len(p.writes))+64)
	for _, r := range writes {
		if r.seq >= from && r.seq <= to {
			all[r.seq-from] = r
		}
	}
	p.first, p.writes = from, append(all, p.writes...)
	return true
}

// Recalled is how many writes are remembered of the store.
func (w *Window) Recalled() int { return len(w.past.writes) }

// Forget drops what is remembered of the store below seq.
func (w *Window) Forget(seq uint64) {
	p := &w.past
	switch {
	case seq >= p.end():
		*p = past{}
	case seq > p.first:
		p.first, p.writes = seq, slices.Clone(p.writes[seq-p.first:])
	}
}
