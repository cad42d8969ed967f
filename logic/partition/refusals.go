package partition

import (
	"hash/maphash"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// refusals are the writes that were refused for good in this epoch. A device sends a write again while an earlier copy of it may still be
// on its way, held up for as long as a network is cut. What the write was refused for may be over by the time that one arrives, its writer
// back in the group for instance; but the device was told that it is not written, and must not find it in the conversation.
//
// Copies that nodes took in earlier epochs are sent back unseen (decide). So all may be forgotten with a new epoch, and one begins when
// there are too many.
type refusals struct {
	seed  maphash.Seed
	codes map[uint64]protocol.Code
}

func (f *refusals) id(r *link.Request) uint64 {
	return maphash.Comparable(f.seed, [...]string{r.App, r.Conversation, r.User, r.Device, r.ClientID})
}

// note remembers a refusal. Servers repeat a request once they have changed what it was refused for, and mean it.
func (f *refusals) note(r *link.Request, code protocol.Code) {
	if r.Server {
		return
	}
	if f.codes == nil {
		f.seed, f.codes = maphash.MakeSeed(), make(map[uint64]protocol.Code)
	}
	f.codes[f.id(r)] = code
}

// again refuses what was refused before.
func (f *refusals) again(r *link.Request) *protocol.Error {
	if len(f.codes) == 0 {
		return nil
	}
	if code, found := f.codes[f.id(r)]; found {
		return protocol.Errorf(code, "this client_id was refused before")
	}
	return nil
}

func (f *refusals) clear() { f.codes = nil }
