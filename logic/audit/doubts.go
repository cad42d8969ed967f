package audit

import (
	"sync"

	"github.com/halley-im/halley/pkg/store"
)

// doubt is something in the store that the log had not when it was read: it may have come since. Either head is set, the
// highest seq stored, or from and to, which are not stored.
type doubt struct {
	key            store.Conversation
	head, from, to uint64
}

// doubts collects them; safe for concurrent use.
type doubts struct {
	mu   sync.Mutex
	list []doubt // guarded by mu
}

func (d *doubts) add(one doubt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, one)
}

// surpass notes the head of the store's conversation unless the log accounts for it already.
func (p *partition) surpass(key store.Conversation, known *conversation, head uint64) {
	if known == nil && p.out.First > 1 || known != nil && head <= known.last.seq {
		return // A conversation of which a trimmed log has nothing may be of any length.
	}
	p.ahead.add(doubt{key: key, head: head})
}

// judge settles the doubts, now that the log was read again after the store.
func (p *partition) judge() {
	for _, d := range p.ahead.list {
		c := p.conv[d.key]
		r := run{p: p, key: d.key, known: c}
		switch {
		case d.head == 0 && c == nil:
			p.found.add(r.violation(KindMissing, d.from, "the store lacks seq %d to %d, and the log has nothing of the conversation any more", d.from, d.to))
		case d.head == 0:
			r.last.seq = d.from - 1
			r.gap(d.to + 1)
		case c == nil:
			if p.broken == 0 {
				p.found.add(r.violation(KindDiffers, d.head, "the store has the conversation up to here, and the log, which has everything, never had it"))
			}
		case d.head > c.last.seq && c.block > p.broken:
			p.found.add(r.violation(KindDiffers, d.head, "the store has the conversation up to here, the log only up to seq %d", c.last.seq))
		}
	}
}
