package audit

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// A batch of records is looked up in the store at once: the more of a conversation come together, the fewer look-ups.
const (
	batchRecords = 32 << 10
	batchBytes   = 16 << 20
	pageRecords  = 512 // of one answer of the store
)

// batch is records of the log that wait to be compared.
type batch struct {
	of      map[store.Conversation][]logged
	records int
	bytes   int
}

// logged is a record and where it stands.
type logged struct {
	*logv1.Record
	block uint64
}

func (b *batch) add(block uint64, r *logv1.Record) {
	if b.of == nil {
		b.of = map[store.Conversation][]logged{}
	}
	key := store.Conversation{App: r.App, ID: r.Conversation}
	b.of[key] = append(b.of[key], logged{r, block})
	b.records++
}

func (b *batch) full() bool { return b.records >= batchRecords || b.bytes >= batchBytes }

// compare holds the store to the batch and empties it.
func (p *partition) compare(ctx context.Context) error {
	var unstored, read counter
	err := each(ctx, p.cfg.Parallel, p.batch.of, func(ctx context.Context, c store.Conversation, records []logged) error {
		return p.compareOne(ctx, c, records, &unstored, &read)
	})
	p.out.Unstored += unstored.n
	p.out.StoreRecords += read.n
	p.batch = batch{}
	return err
}

func (p *partition) compareOne(ctx context.Context, c store.Conversation, records []logged, unstored, read *counter) error {
	slices.SortStableFunc(records, func(a, b logged) int { return cmp.Compare(a.Seq, b.Seq) })
	last := records[len(records)-1].Seq
	var page []*logv1.Record
	var err error
	upTo := records[0].Seq - 1 // what was read of the store
	for _, r := range records {
		for len(page) > 0 && page[0].Seq < r.Seq {
			page = page[1:]
		}
		if len(page) == 0 && upTo < r.Seq {
			if page, err = p.deps.Store.Range(ctx, c, r.Seq, last, pageRecords, false); err != nil {
				return fmt.Errorf("read %s from seq %d: %w", c.ID, r.Seq, err)
			}
			read.add(uint64(len(page)))
			upTo = last
			if len(page) == pageRecords {
				upTo = page[len(page)-1].Seq
			}
		}
		switch {
		case len(page) > 0 && page[0].Seq == r.Seq:
			if diff := difference(r.Record, page[0]); diff != "" {
				p.at(KindDiffers, r.block, r.Record, "the store has another record: %s", diff)
			}
		case r.block <= p.floor:
			p.at(KindMissing, r.block, r.Record, "the store does not have it, though history is done with everything up to block %d", p.floor)
		default:
			unstored.add(1)
		}
	}
	return nil
}

// difference says in what the store's record is not the log's; nothing where it is the same.
func difference(log, stored *logv1.Record) string {
	a, errA := log.MarshalVT()
	b, errB := stored.MarshalVT()
	if errA == nil && errB == nil && bytes.Equal(a, b) {
		return ""
	}
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"conversation", log.App + " " + log.Conversation, stored.App + " " + stored.Conversation},
		{"id", log.Id, stored.Id}, {"count", log.Count, stored.Count}, {"sender", log.Sender, stored.Sender},
		{"client id", log.ClientId, stored.ClientId}, {"time", log.TimeUs, stored.TimeUs}, {"type", log.Type, stored.Type},
	} {
		if f.a != f.b {
			return fmt.Sprintf("%s %v, in the log %v", f.name, f.b, f.a)
		}
	}
	if !bytes.Equal(log.Body, stored.Body) {
		return fmt.Sprintf("a body of %d bytes, in the log another of %d", len(stored.Body), len(log.Body))
	}
	return "device, members or another part of its envelope"
}

// counter counts from several goroutines.
type counter struct {
	mu sync.Mutex
	n  uint64
}

func (c *counter) add(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
}

// each calls fn for every entry, for some at once, and returns the first error, after which no more are begun.
func each[K comparable, V any](ctx context.Context, parallel int, entries map[K]V, fn func(context.Context, K, V) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, max(1, parallel))
	var running sync.WaitGroup
	for k, v := range entries {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-slots }()
			if err := fn(ctx, k, v); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
