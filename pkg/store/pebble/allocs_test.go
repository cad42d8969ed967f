//go:build !race

// The race detector allocates on its own account.

package pebble

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A block on its way into the store is on every message's bill: no allocation per record.
func TestAppendAllocatesNothingPerRecord(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	rs := blockOf(500)
	allocs := testing.AllocsPerRun(50, func() {
		for _, r := range rs {
			r.Seq++
		}
		if err := s.Append(t.Context(), rs); err != nil {
			t.Error(err)
		}
	})
	// Flushes of the in-memory table happen meanwhile and are the rest.
	if perRecord := allocs / float64(len(rs)); perRecord > 0.2 {
		t.Errorf("%.2f allocations per record", perRecord)
	}
}
