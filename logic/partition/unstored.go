package partition

// unstored counts the bytes of records that history has not stored yet, block by block, and knows which conversations hold
// them in memory.
type unstored struct {
	bytes  int
	blocks []unstoredBlock
}

type unstoredBlock struct {
	seq   uint64
	bytes int
	cells []*cell
}

func (u *unstored) add(seq uint64, n int, c *cell) {
	u.bytes += n
	last := len(u.blocks) - 1
	if last < 0 || u.blocks[last].seq != seq {
		u.blocks = append(u.blocks, unstoredBlock{seq: seq})
		last++
	}
	b := &u.blocks[last]
	b.bytes += n
	if k := len(b.cells); k == 0 || b.cells[k-1] != c {
		b.cells = append(b.cells, c)
	}
}

// stored forgets the blocks up to floor and calls trim for their conversations: one in which nobody writes any more would
// otherwise hold for ever what an hour without the store had it hold.
func (u *unstored) stored(floor uint64, trim func(c *cell)) {
	i := 0
	for ; i < len(u.blocks) && u.blocks[i].seq <= floor; i++ {
		u.bytes -= u.blocks[i].bytes
		for _, c := range u.blocks[i].cells {
			trim(c)
		}
	}
	if i > 0 {
		n := copy(u.blocks, u.blocks[i:])
		clear(u.blocks[n:])
		u.blocks = u.blocks[:n]
	}
}

// noteFloor takes what history has stored up to now.
func (o *owner) noteFloor(floor uint64) {
	o.floor = max(o.floor, floor)
	o.unstored.stored(o.floor, func(c *cell) { c.Window.Trim(o.floor, o.keep) })
}
