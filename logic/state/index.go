package state

// index says of a stretch of records, without holes, which block each is in and what write it is. It holds no pointers, so that the
// garbage collector need not look at millions of them.
type index struct {
	first  uint64 // seq of places[start]
	places []place
	start  int
}

type place struct{ block, id uint64 }

func (x *index) len() int { return len(x.places) - x.start }

// end is the seq behind the last.
func (x *index) end() uint64 { return x.first + uint64(x.len()) }

func (x *index) push(e *Entry) {
	if x.len() == 0 {
		x.first = e.Seq
	}
	x.places = append(x.places, place{e.Block, e.id})
}

// trim drops what is in blocks up to floor, and reports whether nothing is left.
func (x *index) trim(floor uint64) bool {
	n := x.len()
	for x.start < len(x.places) && x.places[x.start].block <= floor {
		x.start++
	}
	left := x.len()
	x.first += uint64(n - left)
	switch {
	case left == 0:
		*x = index{}
	case x.start > 32 && x.start*2 > len(x.places):
		x.places, x.start = append(make([]place, 0, left+left/4), x.places[x.start:]...), 0
	}
	return left == 0
}

// Place is where the log has the record with this seq, if it is in the index; without one it is held, or in the store.
func (w *Window) Place(seq uint64) Place {
	x := &w.index
	if x.len() == 0 || seq < x.first || seq >= x.end() {
		return Place{Seq: seq}
	}
	return Place{seq, x.places[x.start+int(seq-x.first)].block}
}

// Places returns the records of the index with from ≤ seq ≤ to, ascending: at most that many, the newest of them or the oldest.
func (w *Window) Places(from, to uint64, most int, newest bool) []Place {
	x := &w.index
	if x.len() == 0 || most <= 0 {
		return nil
	}
	from, to = max(from, x.first), min(to, x.end()-1)
	if from > to {
		return nil
	}
	if n := uint64(most); to-from >= n {
		if newest {
			from = to - n + 1
		} else {
			to = from + n - 1
		}
	}
	out := make([]Place, 0, to-from+1)
	for seq := from; seq <= to; seq++ {
		out = append(out, w.Place(seq))
	}
	return out
}

// Candidates returns the records of the index above since that may be this write, the newest first. Only the log tells.
func (w *Window) Candidates(user, device, clientID string, since uint64) []Place {
	x := &w.index
	if x.len() == 0 || since >= x.end() {
		return nil
	}
	id := WriteID(user, device, clientID)
	var out []Place
	for seq := x.end() - 1; seq > since && seq >= x.first; seq-- {
		if p := x.places[x.start+int(seq-x.first)]; p.id == id {
			out = append(out, Place{seq, p.block})
		}
	}
	return out
}
