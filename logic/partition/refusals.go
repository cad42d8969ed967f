package partition

import (
	"slices"

	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
)

// refusals are the writes of a conversation that were refused last because their writer had left it. A device sends a write again while an
// earlier copy of it may still be on its way, held up for as long as a network is cut. Its writer may be back by the time that one
// arrives; but the device was told that it is not written, and must not find it in the conversation.
type refusals struct {
	ids  [refusalsMost]uint64
	next int
}

// refusalsMost is more than one who left has on the way.
const refusalsMost = 64

// with remembers the write in the place of the oldest. Servers repeat a request once they have put the user back, and mean it.
func (f *refusals) with(r *link.Request) *refusals {
	if r.Server || f.has(r) {
		return f
	}
	if f == nil {
		f = &refusals{}
	}
	f.ids[f.next%refusalsMost] = state.WriteID(r.User, r.Device, r.ClientID)
	f.next++
	return f
}

func (f *refusals) has(r *link.Request) bool {
	return f != nil && slices.Contains(f.ids[:], state.WriteID(r.User, r.Device, r.ClientID))
}
