package link_test

import (
	"testing"

	"github.com/halley-im/halley/pkg/link"
)

func TestEpochs(t *testing.T) {
	e := make(link.Epochs, 4)
	for _, c := range []struct {
		partition int
		epoch     uint64
		want      bool
	}{
		{0, 5, true}, {0, 5, true}, {0, 4, false}, {0, 6, true}, {0, 5, false}, {1, 1, true}, {0, 0, true}, {9, 1, true}, {-1, 1, true},
	} {
		if got := e.Admit(c.partition, c.epoch); got != c.want {
			t.Errorf("admit(%d, %d) = %v", c.partition, c.epoch, got)
		}
	}
	for p, want := range []uint64{6, 1, 0, 0} {
		if got := e.Highest(p); got != want {
			t.Errorf("of partition %d epoch %d was heard, want %d", p, got, want)
		}
	}
}
