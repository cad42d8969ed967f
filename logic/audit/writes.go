package audit

import (
	"context"
	"hash/maphash"

	"github.com/halley-im/halley/pkg/logblock"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// writes finds a client id that a device used twice in a conversation. It keeps a hash of each, and reads the log again for those that
// seem to be there twice: two ids may have one hash.
type writes struct {
	seed     maphash.Seed
	seen     map[uint64]struct{}
	suspects map[uint64]struct{}
}

// mostSuspects bounds the second reading's memory. With more, the log is beyond telling one by one.
const mostSuspects = 10_000

func newWrites() *writes {
	return &writes{seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}, suspects: map[uint64]struct{}{}}
}

func (w *writes) hash(r *logv1.Record) uint64 {
	var h maphash.Hash
	h.SetSeed(w.seed)
	for _, s := range [...]string{r.App, r.Conversation, r.Sender, r.Device, r.ClientId} {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

func (w *writes) add(r *logv1.Record) {
	h := w.hash(r)
	if _, ok := w.seen[h]; ok && len(w.suspects) < mostSuspects {
		w.suspects[h] = struct{}{}
	}
	w.seen[h] = struct{}{}
}

// write is the identity of one, by which a retry is known.
type write struct{ app, conversation, sender, device, clientID string }

// twice reads the log again for the suspects.
func (p *partition) twice(ctx context.Context) error {
	if len(p.writes.suspects) == 0 {
		return nil
	}
	type origin struct{ block, seq uint64 }
	firsts := map[write]origin{}
	return p.log.Scan(ctx, p.out.First, func(block uint64, data []byte) error {
		b := &logv1.Block{}
		if readable := logblock.Decode(data, b) == nil; !readable || block >= p.next {
			return nil // Told before, or newer than the audit.
		}
		for _, r := range b.Records {
			if _, ok := p.writes.suspects[p.writes.hash(r)]; !ok || r.ClientId == "" {
				continue
			}
			key := write{r.App, r.Conversation, r.Sender, r.Device, r.ClientId}
			first, ok := firsts[key]
			switch {
			case !ok:
				firsts[key] = origin{block, r.Seq}
			case first.seq != r.Seq: // The same seq again was told as such.
				p.at(KindClientID, block, r, "%s wrote %q on device %q before, as seq %d in block %d", r.Sender, r.ClientId, r.Device, first.seq, first.block)
			}
		}
		return nil
	})
}
