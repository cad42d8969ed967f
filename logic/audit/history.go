package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// history holds what the store has of this partition's conversations to 1, 2, 3 … up to its head: all of them where the store
// can name them, else those that the log names.
func (p *partition) history(ctx context.Context) error {
	if p.deps.Walker != nil {
		return p.walk(ctx)
	}
	var read counter
	err := each(ctx, p.cfg.Parallel, p.conv, func(ctx context.Context, key store.Conversation, c *conversation) error {
		return p.before(ctx, key, c, &read)
	})
	p.out.StoreRecords += read.n
	return err
}

// before reads what stands before the log's first record of the conversation, and the store's head.
func (p *partition) before(ctx context.Context, key store.Conversation, c *conversation, read *counter) error {
	run := run{p: p, key: key, known: c}
	for run.last.seq+1 < c.first.seq {
		page, err := p.deps.Store.Range(ctx, key, run.last.seq+1, c.first.seq-1, pageRecords, false)
		if err != nil {
			return fmt.Errorf("read %s from seq %d: %w", key.ID, run.last.seq+1, err)
		}
		read.add(uint64(len(page)))
		for _, r := range page {
			run.next(placeOf(r))
		}
		if len(page) < pageRecords {
			break
		}
	}
	if run.last.seq+1 < c.first.seq {
		run.gap(c.first.seq)
	} else {
		run.next(c.first)
	}
	head, err := p.deps.Store.Head(ctx, key)
	if err != nil {
		return fmt.Errorf("head of %s: %w", key.ID, err)
	}
	if head != nil {
		p.surpass(key, c, head.Seq)
	}
	return nil
}

// walk reads the whole store, of which this partition's conversations count.
func (p *partition) walk(ctx context.Context) error {
	var current *run
	wanted := func(c store.Conversation) bool { return protocol.Partition(c.App, c.ID, p.cfg.Partitions) == p.n }
	err := p.deps.Walker.WalkRecords(ctx, wanted, func(c store.Conversation, seq uint64, r *logv1.Record) error {
		p.out.StoreRecords++
		if current == nil || current.key != c {
			current.end()
			current = &run{p: p, key: c, known: p.conv[c]}
			if current.known == nil {
				p.out.Conversations++
			} else {
				current.known.seen = true
			}
		}
		if r.Seq != seq || r.App != c.App || r.Conversation != c.ID {
			p.found.add(current.violation(KindDiffers, seq, "in the store the record in this place is seq %d of %s in app %s", r.Seq, r.Conversation, r.App))
		}
		at := placeOf(r)
		at.seq = seq
		current.next(at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	current.end()
	for key, c := range p.conv {
		if !c.seen && c.first.seq > 1 {
			(&run{p: p, key: key, known: c}).gap(c.first.seq)
		}
	}
	return nil
}

// run follows one conversation through the store, from its beginning.
type run struct {
	p     *partition
	key   store.Conversation
	known *conversation // nil: the log has nothing of it
	last  place
}

func (r *run) next(at place) {
	if at.seq > r.last.seq+1 {
		r.gap(at.seq)
	} else {
		for _, f := range r.last.follow(at) {
			r.p.found.add(r.violation(f.kind, at.seq, "in the store, %s", f.detail))
		}
	}
	r.last = at
}

// gap judges that the store has nothing from behind the last record up to before seq.
func (r *run) gap(seq uint64) {
	from, to := r.last.seq+1, seq-1
	if r.known == nil {
		r.p.ahead.add(doubt{key: r.key, from: from, to: to})
		return
	}
	// What the log has was compared with the store one by one; what it no longer has must be stored.
	if to = min(to, r.known.first.seq-1); from <= to {
		r.p.found.add(r.violation(KindMissing, from, "the store lacks seq %d to %d, and the log begins behind them", from, to))
	}
}

// end closes the conversation: what the log no longer has must all have come.
func (r *run) end() {
	if r == nil {
		return
	}
	if r.known != nil && r.last.seq+1 < r.known.first.seq {
		r.gap(r.known.first.seq)
	}
	r.p.surpass(r.key, r.known, r.last.seq)
}

func (r *run) violation(kind Kind, seq uint64, format string, args ...any) Violation {
	return Violation{
		Kind: kind, Partition: r.p.n, App: strings.Clone(r.key.App), Conversation: strings.Clone(r.key.ID), Seq: seq, Detail: fmt.Sprintf(format, args...),
	}
}
