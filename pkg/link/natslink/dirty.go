package natslink

import "sync"

// dirty lists what a flusher has to look at. Whoever adds makes sure that nothing stands in it twice, so it is no longer than
// there are partitions or links.
type dirty[T any] struct {
	wake chan struct{} // holds one signal: the list is not empty

	mu    sync.Mutex
	items []T
}

func newDirty[T any]() *dirty[T] { return &dirty[T]{wake: make(chan struct{}, 1)} }

func (d *dirty[T]) add(item T) {
	d.mu.Lock()
	d.items = append(d.items, item)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take empties the list; spare becomes its next slice.
func (d *dirty[T]) take(spare []T) []T {
	clear(spare)
	d.mu.Lock()
	defer d.mu.Unlock()
	items := d.items
	d.items = spare[:0]
	return items
}
