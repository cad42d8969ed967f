package link

import "sync/atomic"

// Epochs is what a node has heard of the owners of partitions: of each the highest epoch. All methods are safe for concurrent use.
type Epochs []atomic.Uint64

// Admit notes the epoch of a batch and reports whether the batch may be delivered: not if a later owner of the partition has spoken
// already. Epoch 0 is nobody's word about a partition, such as the close of a replaced session.
func (e Epochs) Admit(partition int, epoch uint64) bool {
	if epoch == 0 || partition < 0 || partition >= len(e) {
		return true
	}
	for {
		seen := e[partition].Load()
		if epoch < seen {
			return false
		}
		if epoch == seen || e[partition].CompareAndSwap(seen, epoch) {
			return true
		}
	}
}

// Highest is what a request to the partition is stamped with (Request.Epoch).
func (e Epochs) Highest(partition int) uint64 { return e[partition].Load() }
