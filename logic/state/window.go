package state

import (
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
// is looked for in them. Equal writes have equal ids; the reverse must be checked (FNV-1a).
func WriteID(user, device, clientID string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{user, device, clientID} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h *= 1099511628211
	}
	return h
}

// Window is the newest stretch of a conversation, without holes and in seq order. It answers retries (a write names the head
// that its device knew, so its first transmission, if committed, lies above that) and reads of recent history.
type Window struct {
	entries []Entry
	start   int // entries before it were dropped
}

// Len is the number of records held.
func (w *Window) Len() int { return len(w.entries) - w.start }

// All returns the records held, ascending; the slice is valid until the next Push or Trim.
func (w *Window) All() []Entry { return w.entries[w.start:] }

// First is the lowest seq held; 0 when empty.
func (w *Window) First() uint64 {
	if w.Len() == 0 {
		return 0
	}
	return w.entries[w.start].Seq
}

// Push adds a record. One that does not follow the last held is an older one seen again and is ignored.
func (w *Window) Push(e Entry) {
	if n := len(w.entries); n > w.start && e.Seq != w.entries[n-1].Seq+1 {
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

// Trim drops records of blocks up to floor, which are in the store, but keeps the newest keep of them.
func (w *Window) Trim(floor uint64, keep int) {
	for w.Len() > keep && w.entries[w.start].Block <= floor {
		w.entries[w.start] = Entry{}
		w.start++
	}
	// What a burst, or an hour without the store, made large is given back.
	if n := w.Len(); cap(w.entries) > 128 && n < cap(w.entries)/8 {
		w.entries, w.start = append(make([]Entry, 0, 2*n), w.All()...), 0
	}
}

// Above reports whether the window holds a record above the floor.
func (w *Window) Above(floor uint64) bool {
	return w.Len() > 0 && w.entries[len(w.entries)-1].Block > floor
}

// Find returns the record that this device wrote under this client id, if it lies above since.
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
	return nil
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
