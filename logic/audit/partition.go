package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// partition is one log and what follows from it.
type partition struct {
	cfg   Config
	deps  Deps
	n     int
	log   Log
	floor uint64
	found findings

	// owned by the goroutine that reads the log
	out    Partition
	next   uint64 // the block to read next; 0: the first that there is
	crc    uint32 // of the block before; 0: not known
	owner  string // of the epoch
	timeUs int64  // of the newest record or block
	id     uint64 // of the newest record
	// broken is the last block that could not be read: a conversation seen last before it may have had records in it.
	broken uint64
	conv   map[store.Conversation]*conversation
	writes *writes
	batch  batch

	ahead doubts // what the store has and the log, when it was read, did not
}

func newPartition(cfg Config, deps Deps, n int) *partition {
	return &partition{
		cfg: cfg, deps: deps, n: n, found: findings{limit: cfg.Limit, kinds: map[Kind]uint64{}},
		conv: map[store.Conversation]*conversation{}, writes: newWrites(),
	}
}

// audit reads the log, then the store, then what the log got meanwhile: a store that is being written may be ahead of the first
// reading, but never of the second.
func (p *partition) audit(ctx context.Context) error {
	var err error
	if p.log, err = p.deps.Open(ctx, p.n); err != nil {
		return p.broke(err)
	}
	if p.floor, err = p.log.Floor(ctx); err != nil {
		return fmt.Errorf("history's floor: %w", err)
	}
	if err := p.read(ctx); err != nil {
		return p.broke(err)
	}
	if err := p.history(ctx); err != nil {
		return err
	}
	if err := p.read(ctx); err != nil {
		return p.broke(err)
	}
	if err := p.twice(ctx); err != nil {
		return err
	}
	p.judge()
	return nil
}

// broke makes a violation of a log that is not whole. Nothing behind the break is known, so the store is not compared with it.
func (p *partition) broke(err error) error {
	if !errors.Is(err, ErrBroken) {
		return err
	}
	p.found.add(Violation{Kind: KindLog, Partition: p.n, Block: p.next, Detail: err.Error() + "; the rest of the partition was not audited"})
	return nil
}

func (p *partition) result() *Partition {
	out := p.out
	out.Partition, out.Floor = p.n, p.floor
	out.Violations, out.kinds, out.found = p.found.count, p.found.kinds, p.found.first
	return &out
}

// read reads the log to its end as it is now, and compares its records with the store's.
func (p *partition) read(ctx context.Context) error {
	err := p.log.Scan(ctx, p.next, func(block uint64, data []byte) error {
		if p.next != 0 && block != p.next {
			return fmt.Errorf("%w: block %d comes where %d belongs", ErrTrimmed, block, p.next)
		}
		if err := p.block(block, data); err != nil {
			return err
		}
		if p.batch.full() {
			return p.compare(ctx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.compare(ctx)
}

// block checks one block of the log. Its error is that of one who is told.
func (p *partition) block(n uint64, data []byte) error {
	if p.out.Blocks == 0 {
		p.out.First = n
	}
	p.out.Blocks++
	p.out.Last, p.next = n, n+1
	b := &logv1.Block{}
	size := len(data)
	crc, err := logblock.CRC(data)
	if err == nil {
		err = logblock.Decode(data, b)
	}
	if err != nil {
		p.fault(KindBlock, n, "%v", err)
		p.crc, p.broken = 0, n
		return nil
	}
	if n == 1 && b.PrevCrc != 0 {
		p.fault(KindBlock, n, "the first block follows one with CRC %08x", b.PrevCrc)
	}
	if p.crc != 0 && b.PrevCrc != p.crc {
		p.fault(KindBlock, n, "it follows a block with CRC %08x, but the one before has %08x", b.PrevCrc, p.crc)
	}
	p.crc = crc
	p.epoch(n, b)
	for _, r := range b.Records {
		p.record(n, b, r)
		if err := p.tell(n, r); err != nil {
			return err
		}
	}
	if b.TimeUs < p.timeUs || b.TimeUs == p.timeUs && len(b.Records) == 0 {
		p.fault(KindOrder, n, "its time %d does not follow %d", b.TimeUs, p.timeUs)
	}
	p.timeUs = max(p.timeUs, b.TimeUs)
	p.batch.bytes += size
	return nil
}

// tell says where a record stands, to who wants to know.
func (p *partition) tell(block uint64, r *logv1.Record) error {
	if !p.cfg.Records {
		return nil
	}
	return p.deps.Emit(Event{Record: &Record{
		Partition: p.n, Block: block, App: r.App, Conversation: r.Conversation, Seq: r.Seq, Sender: r.Sender, Device: r.Device, ClientID: r.ClientId,
	}})
}

// epoch holds owners to their fences: whoever was deposed must not have written afterwards.
func (p *partition) epoch(n uint64, b *logv1.Block) {
	first := p.out.Epoch == 0
	switch b.Kind {
	case logv1.Kind_KIND_FENCE:
		p.out.Fences++
		if len(b.Records) > 0 {
			p.fault(KindBlock, n, "a fence with %d records", len(b.Records))
		}
		if b.Epoch <= p.out.Epoch {
			p.fault(KindEpoch, n, "the fence of %s opens epoch %d behind epoch %d of %s", b.Owner, b.Epoch, p.out.Epoch, p.owner)
			return
		}
	case logv1.Kind_KIND_DATA:
		switch {
		case first && n == 1:
			p.fault(KindEpoch, n, "%s writes in epoch %d, and no fence opened it", b.Owner, b.Epoch)
		case first:
		case b.Epoch < p.out.Epoch:
			p.fault(KindEpoch, n, "%s writes in epoch %d behind the fence of epoch %d", b.Owner, b.Epoch, p.out.Epoch)
			return
		case b.Epoch > p.out.Epoch && p.broken != n-1:
			p.fault(KindEpoch, n, "%s writes in epoch %d, and no fence opened it; the last was of epoch %d", b.Owner, b.Epoch, p.out.Epoch)
		case b.Epoch == p.out.Epoch && b.Owner != p.owner:
			p.fault(KindEpoch, n, "%s writes in epoch %d, which is that of %s", b.Owner, b.Epoch, p.owner)
			return
		}
	default:
		p.fault(KindBlock, n, "kind %d", b.Kind)
		return
	}
	p.out.Epoch, p.owner = b.Epoch, strings.Clone(b.Owner)
}

// record checks one record against all before it.
func (p *partition) record(n uint64, b *logv1.Block, r *logv1.Record) {
	p.out.Records++
	if err := store.CheckRecord(r); err != nil {
		p.fault(KindRecord, n, "%v", err)
		return
	}
	if home := protocol.Partition(r.App, r.Conversation, p.cfg.Partitions); home != p.n {
		p.at(KindPlace, n, r, "the conversation belongs to partition %d", home)
	}
	if r.TimeUs <= p.timeUs || r.TimeUs > b.TimeUs {
		p.at(KindOrder, n, r, "its time %d does not lie behind %d and up to %d, the block's", r.TimeUs, p.timeUs, b.TimeUs)
	}
	if r.Id <= p.id {
		p.at(KindOrder, n, r, "its id %d does not follow %d", r.Id, p.id)
	}
	p.timeUs, p.id = max(p.timeUs, r.TimeUs), max(p.id, r.Id)
	p.number(n, r)
	if r.ClientId == "" {
		p.at(KindClientID, n, r, "it has none")
	} else {
		p.writes.add(r)
	}
	p.batch.add(n, r)
}

// number holds the conversation to 1, 2, 3 …
func (p *partition) number(n uint64, r *logv1.Record) {
	key := store.Conversation{App: r.App, ID: r.Conversation}
	now := placeOf(r)
	c := p.conv[key]
	if c == nil {
		key = store.Conversation{App: strings.Clone(r.App), ID: strings.Clone(r.Conversation)}
		c = &conversation{first: now}
		p.conv[key] = c
		p.out.Conversations++
		// A log that was never trimmed has everything from the beginning.
		if p.out.First == 1 && p.broken == 0 {
			for _, f := range (place{}).follow(now) {
				p.at(f.kind, n, r, "%s", f.detail)
			}
		}
	} else {
		lost := c.block < p.broken && now.seq > c.last.seq // in a block that could not be read, which was told
		if !lost {
			for _, f := range c.last.follow(now) {
				p.at(f.kind, n, r, "%s", f.detail)
			}
		}
	}
	c.block = n
	if now.seq >= c.last.seq {
		c.last = now
	}
}

func (p *partition) fault(kind Kind, block uint64, format string, args ...any) {
	p.found.add(Violation{Kind: kind, Partition: p.n, Block: block, Detail: fmt.Sprintf(format, args...)})
}

// at is a fault of a record. Names are copied, for they point into the block.
func (p *partition) at(kind Kind, block uint64, r *logv1.Record, format string, args ...any) {
	p.found.add(Violation{
		Kind: kind, Partition: p.n, Block: block, App: strings.Clone(r.App), Conversation: strings.Clone(r.Conversation), Seq: r.Seq,
		Detail: fmt.Sprintf(format, args...),
	})
}
