package cassandra

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/gocql/gocql"
)

// A batch is of one partition, so its replicas take it as one mutation: rows share the cost of a write, and the server's limit
// on batches over partitions does not concern it. These bounds keep a mutation far below what a commit log segment takes.
const (
	batchRows  = 100
	batchBytes = 128 << 10
)

type table uint8

const (
	tableMessages table = iota
	tableHeads
	tableMembers
	tableUsers
)

// partition names one partition of one table.
type partition struct {
	table  table
	app    string
	name   string // The conversation or user.
	bucket uint64
}

// plan gathers statements into batches.
type plan struct {
	session *gocql.Session
	batches []*gocql.Batch
	// The last batch of each partition, which may have room.
	open map[partition]*openBatch
}

type openBatch struct {
	batch *gocql.Batch
	bytes int
}

func (s *Store) newPlan() *plan {
	return &plan{session: s.session, open: map[partition]*openBatch{}}
}

// add puts an idempotent statement into a batch of its partition. bytes is about the size of its larger arguments.
func (p *plan) add(to partition, bytes int, stmt string, args ...any) {
	o := p.open[to]
	if o == nil {
		o = &openBatch{}
		p.open[to] = o
	}
	if o.batch == nil || len(o.batch.Entries) >= batchRows || o.bytes+bytes > batchBytes {
		o.batch, o.bytes = p.session.NewBatch(gocql.UnloggedBatch), 0
		p.batches = append(p.batches, o.batch)
	}
	o.batch.Entries = append(o.batch.Entries, gocql.BatchEntry{Stmt: stmt, Args: args, Idempotent: true})
	o.bytes += bytes
}

// write carries out a plan, as many batches at once as there are slots. It returns the first error, when all that were
// started have ended.
func (s *Store) write(ctx context.Context, p *plan) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(p.batches) || ctx.Err() != nil {
				return
			}
			if err := s.execute(ctx, p.batches[i]); err != nil {
				cancel(err)
				return
			}
		}
	}
	var others sync.WaitGroup
	for range min(len(p.batches), cap(s.slots)) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return context.Cause(ctx)
}

func (s *Store) execute(ctx context.Context, b *gocql.Batch) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if len(b.Entries) == 1 { // Of a batch the server makes more than of its only statement.
		e := b.Entries[0]
		return s.session.Query(e.Stmt, e.Args...).Idempotent(e.Idempotent).WithContext(ctx).Exec()
	}
	return s.session.ExecuteBatch(b.WithContext(ctx))
}
