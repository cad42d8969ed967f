package state

import (
	"hash/maphash"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Entry is one committed record and the block of the log that holds it.
type Entry struct {
	*logv1.Record
	Block uint64
	// WriteID of the record; Push fills it in.
	id uint64
}

// WriteID is a hash of what identifies a write in its conversation: windows are long where history is behind, and every write
// is looked for in them. Equal writes have equal ids; the reverse must be checked wherever an answer follows from it. Nobody can
// choose names that meet, for the hash is another one in each process.
func WriteID(user, device, clientID string) uint64 {
	const odd = 0x9e3779b97f4a7c15
	return (maphash.String(hashSeed, user)*odd+maphash.String(hashSeed, device))*odd + maphash.String(hashSeed, clientID)
}

var hashSeed = maphash.MakeSeed()

// Place is where a record that is not in memory stands in the log.
type Place struct{ Seq, Block uint64 }

// Window is the newest stretch of a conversation, without holes and in seq order: an index of what only the log is sure to have,
// and behind it the records held in memory. It answers retries (a write names the head that its device knew, so its first
// transmission, if committed, lies above that) and reads of recent history. Before it lies what was read of the store for retries.
type Window struct {
	entries []Entry
	start   int // entries before it were dropped
	index   index
	past    past
}

// Len is the number of records held.
func (w *Window) Len() int { return len(w.entries) - w.start }

// All returns the records held, ascending; the slice is valid until the next Push or Trim.
func (w *Window) All() []Entry { return w.entries[w.start:] }

// First is the lowest seq held; 0 where none is.
func (w *Window) First() uint64 {
	if w.Len() == 0 {
		return 0
	}
	return w.entries[w.start].Seq
}

// Lowest is the lowest seq held or in the index; 0 where there is none. What lies below it is in the store.
func (w *Window) Lowest() uint64 {
	if w.index.len() > 0 {
		return w.index.first
	}
	return w.First()
}

// Push adds a record. One that does not follow the last is an older one seen again and is ignored.
func (w *Window) Push(e Entry) {
	n := len(w.entries)
	switch {
	case n > w.start && e.Seq != w.entries[n-1].Seq+1, n == w.start && w.index.len() > 0 && e.Seq != w.index.end():
		return
	}
	if w.start > 32 && w.start*2 > len(w.entries) {
		n := copy(w.entries, w.entries[w.start:])
		clear(w.entries[n:])
		w.entries, w.start = w.entries[:n], 0
	}
	e.id = WriteID(e.Sender, e.Device, e.ClientId)
	w.entries = append(w.entries, e)
}

// Trim forgets records of blocks up to floor, which are in the store, but keeps the newest keep of those that are held.
func (w *Window) Trim(floor uint64, keep int) {
	if n := w.index.len(); n > 0 {
		left := !w.index.trim(floor)
		if w.index.len() < n {
			w.past = past{} // The index cannot tell it who wrote.
		}
		if left {
			return // All that is held comes behind it.
		}
	}
	for w.Len() > keep && w.entries[w.start].Block <= floor {
		w.past.push(w.entries[w.start].Record)
		w.entries[w.start] = Entry{}
		w.start++
	}
	w.shrink()
}

// Evict lets go of the records of blocks up to block. Those of blocks above floor stay in the index; gone is called for each.
func (w *Window) Evict(block, floor uint64, gone func(r *logv1.Record)) {
	for w.Len() > 0 && w.entries[w.start].Block <= block {
		e := &w.entries[w.start]
		if e.Block > floor {
			w.index.push(e)
			gone(e.Record)
		} else {
			w.past.push(e.Record)
		}
		*e = Entry{}
		w.start++
	}
	w.shrink()
}

// shrink gives back what a burst, or an hour without the store, made large.
func (w *Window) shrink() {
	if n := w.Len(); cap(w.entries) > 128 && n < cap(w.entries)/8 {
		w.entries, w.start = append(make([]Entry, 0, 2*n), w.All()...), 0
	}
}

// Above reports whether the window has a record above the floor.
func (w *Window) Above(floor uint64) bool {
	if w.Len() > 0 {
		return w.entries[len(w.entries)-1].Block > floor
	}
	n := len(w.index.places)
	return w.index.len() > 0 && w.index.places[n-1].block > floor
}

// Find returns the record that this device wrote under this client id, if it lies above since. One that was read of the store has no
// body and no conversation.
func (w *Window) Find(user, device, clientID string, since uint64) *logv1.Record {
	all := w.All()
	id := WriteID(user, device, clientID)
	// By place and not by seq, which would fetch each record.
	least := 0
	if first := w.First(); since >= first {
		least = int(min(since-first+1, uint64(len(all))))
	}
	for i := len(all) - 1; i >= least; i-- {
		if all[i].id != id {
			continue
		}
		if r := all[i].Record; r.ClientId == clientID && r.Sender == user && r.Device == device {
			return r
		}
	}
	return w.past.find(user, device, clientID, since)
}

// Range returns the records with from ≤ seq ≤ to that are held.
func (w *Window) Range(from, to uint64) []Entry {
	all := w.All()
	if len(all) == 0 || to < all[0].Seq || from > to {
		return nil
	}
	first := all[0].Seq
	lo, hi := uint64(0), to-first+1
	if from > first {
		lo = from - first
	}
	if hi > uint64(len(all)) {
		hi = uint64(len(all))
	}
	if lo >= hi {
		return nil
	}
	return all[lo:hi]
}
