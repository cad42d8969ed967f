// Package audit derives the numbering of all conversations anew from the blocks of the logs and compares it with the store. It
// never takes anybody's word for what it can count itself, and it writes nothing.
package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// What a Log answers beside the errors of a context and of a connection; wrapped.
var (
	// ErrTrimmed: the log was trimmed while it was read. The partition is read again from its new beginning.
	ErrTrimmed = errors.New("audit: log was trimmed while it was read")
	// ErrBroken: the log lacks a block between its first and its last, or has lost its end. That is a violation.
	ErrBroken = errors.New("audit: log is broken")
)

// Log is the log of one partition.
type Log interface {
	// Floor is the sequence up to which every block is in the store, by the word of those who wrote it there.
	Floor(ctx context.Context) (uint64, error)
	// Scan calls fn for every block from the sequence on (0: from the first there is) to the last one at the time of the call, in order. data
	// belongs to fn.
	Scan(ctx context.Context, from uint64, fn func(block uint64, data []byte) error) error
}

// Store is what the audit reads of the store.
type Store interface {
	Range(ctx context.Context, c store.Conversation, from, to uint64, limit int, newest bool) ([]*logv1.Record, error)
	Head(ctx context.Context, c store.Conversation) (*logv1.Record, error)
}

// Walker is a store that can name all that it holds. Without it, conversations of which the log has nothing any more are not seen.
type Walker interface {
	WalkRecords(ctx context.Context, wanted func(store.Conversation) bool,
		fn func(c store.Conversation, seq uint64, r *logv1.Record) error) error
}

// Config of an audit.
type Config struct {
	// Partitions of the cluster.
	Partitions int
	// Limit is how many violations are told one by one; all are counted.
	Limit int
	// Parallel is how many conversations are read from the store at once.
	Parallel int
	// Records: what stands where in the logs is told too. A partition that was trimmed while it was read is told again from its beginning.
	Records bool
}

// Default suits a store in the same process.
func Default(partitions int) Config { return Config{Partitions: partitions, Limit: 100, Parallel: 1} }

// Deps of an audit.
type Deps struct {
	Open  func(ctx context.Context, partition int) (Log, error)
	Store Store
	// Walker may be nil.
	Walker Walker
	// Emit is told everything as it becomes known; an error of its ends the audit.
	Emit func(Event) error
}

// Auditor does one audit. What it holds in memory is of one partition at a time: for each record in its log some 20 bytes, for each
// conversation in its log some 300, and a batch of records.
type Auditor struct {
	cfg    Config
	deps   Deps
	report Report
}

// New prepares an audit.
func New(cfg Config, deps Deps) *Auditor {
	return &Auditor{cfg: cfg, deps: deps, report: Report{Partitions: cfg.Partitions, Kinds: map[Kind]uint64{}}}
}

// How often a partition is begun anew because it was trimmed meanwhile: trimming takes what is a day old, a little every half minute.
const mostTries = 5

// Run audits partition after partition. An error says that the audit could not be finished, not that it found something.
func (a *Auditor) Run(ctx context.Context) (*Report, error) {
	for n := range a.cfg.Partitions {
		if err := a.partition(ctx, n); err != nil {
			return nil, fmt.Errorf("partition %d: %w", n, err)
		}
	}
	return &a.report, a.deps.Emit(Event{Report: &a.report})
}

func (a *Auditor) partition(ctx context.Context, n int) error {
	for try := 1; ; try++ {
		p := newPartition(a.cfg, a.deps, n)
		err := p.audit(ctx)
		if errors.Is(err, ErrTrimmed) && try < mostTries {
			continue
		}
		if err != nil {
			return err
		}
		return a.take(p.result())
	}
}

// take adds what was found in a partition to the report and tells it.
func (a *Auditor) take(p *Partition) error {
	r := &a.report
	r.Violations += p.Violations
	r.Blocks += p.Blocks
	r.Records += p.Records
	r.Conversations += p.Conversations
	r.StoreRecords += p.StoreRecords
	r.Unstored += p.Unstored
	for kind, count := range p.kinds {
		r.Kinds[kind] += count
	}
	for _, v := range p.found {
		if len(r.Found) == a.cfg.Limit {
			break
		}
		r.Found = append(r.Found, v)
		if err := a.deps.Emit(Event{Violation: &v}); err != nil {
			return err
		}
	}
	r.Logs = append(r.Logs, *p)
	return a.deps.Emit(Event{Partition: p})
}
