package oracle

import "math/bits"

// View is which records of one conversation one device has: everything up to a mark, and a few beyond it. It is a mark and
// a word as long as records come nearly in order.
type View struct {
	low    uint64   // It has base..low.
	ahead  uint64   // Bit i: it has low+1+i.
	more   []uint64 // The words after ahead.
	pushed uint64   // The highest seq that was pushed.
	behind int64
}

// Start says what the device has before the run.
func (v *View) Start(head uint64) { *v = View{low: head, pushed: head} }

// Low is the seq up to which the device has everything.
func (v *View) Low() uint64 { return v.low }

// Whole reports that the device knows of no gap below what it has.
func (v *View) Whole() bool { return v.ahead == 0 && len(v.more) == 0 }

// Has reports whether the device has seq.
func (v *View) Has(seq uint64) bool {
	if seq <= v.low {
		return true
	}
	i := seq - v.low - 1
	if i < 64 {
		return v.ahead>>i&1 != 0
	}
	w := i/64 - 1
	return w < uint64(len(v.more)) && v.more[w]>>(i%64)&1 != 0
}

// Push adds a record that the server pushed; false where the device had it. A new one below an earlier push is out of
// order, unless the device is repairing a gap, when order is by what it asked for.
func (v *View) Push(seq uint64, repairing bool) bool {
	if !v.Add(seq) {
		return false
	}
	if seq < v.pushed && !repairing {
		v.behind++
	}
	v.pushed = max(v.pushed, seq)
	return true
}

// Add adds a record that the device asked for or wrote itself; false where it had it.
func (v *View) Add(seq uint64) bool {
	if v.Has(seq) {
		return false
	}
	if seq == v.low+1 {
		v.low++
		v.shift(1)
		v.advance()
		return true
	}
	i := seq - v.low - 1
	if i < 64 {
		v.ahead |= 1 << i
		return true
	}
	w := i/64 - 1
	for uint64(len(v.more)) <= w {
		v.more = append(v.more, 0)
	}
	v.more[w] |= 1 << (i % 64)
	return true
}

// advance moves the mark over what was ahead of it.
func (v *View) advance() {
	for v.ahead&1 != 0 {
		n := bits.TrailingZeros64(^v.ahead) // 64 where all bits are set.
		v.low += uint64(n)
		v.shift(uint(n))
	}
}

// shift drops the first n ≤ 64 bits.
func (v *View) shift(n uint) {
	v.ahead >>= n
	if len(v.more) == 0 {
		return
	}
	v.ahead |= v.more[0] << (64 - n)
	for i := range v.more {
		v.more[i] >>= n
		if i+1 < len(v.more) {
			v.more[i] |= v.more[i+1] << (64 - n)
		}
	}
	for len(v.more) > 0 && v.more[len(v.more)-1] == 0 {
		v.more = v.more[:len(v.more)-1]
	}
	if len(v.more) == 0 {
		v.more = nil
	}
}

// missing counts the records up to head that the device does not have.
func (v *View) missing(head uint64) int64 {
	if head <= v.low {
		return 0
	}
	n := int64(head - v.low)
	n -= int64(bits.OnesCount64(v.ahead))
	for _, w := range v.more {
		n -= int64(bits.OnesCount64(w))
	}
	return n
}
