package cassandra

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/gocql/gocql"
)

// The rows of one partition are one mutation: they share the cost of a write. These bounds keep it far below what a commit log segment takes.
const (
	mutationRows  = 100
	mutationBytes = 128 << 10
)

// A request costs a node more than the row that it carries. So small mutations travel together if the same node is the first replica of all of
// them, which then coordinates what it writes itself. Cassandra warns in its log of batches beyond these bounds
// (unlogged_batch_across_partitions_warn_threshold, batch_size_warn_threshold), and refuses those ten times as large.
const (
	groupMutations = 10
	groupBytes     = 4 << 10
	// rowOverhead is about what a row takes there beside its larger columns.
	rowOverhead = 64
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

// mutation is what a plan writes to one partition.
type mutation struct {
	batch *gocql.Batch
	bytes int
}

// plan gathers statements into mutations.
type plan struct {
	session   *gocql.Session
	mutations []*mutation
	// The last mutation of each partition, which may have room.
	open map[partition]*mutation
}

func (s *Store) newPlan() *plan {
	return &plan{session: s.session, open: map[partition]*mutation{}}
}

// add puts an idempotent statement into a mutation of its partition. bytes is about the size of its larger arguments.
func (p *plan) add(to partition, bytes int, stmt string, args ...any) {
	m := p.open[to]
	if m == nil || len(m.batch.Entries) >= mutationRows || m.bytes+bytes > mutationBytes {
		m = &mutation{batch: p.session.NewBatch(gocql.UnloggedBatch)}
		p.mutations = append(p.mutations, m)
		p.open[to] = m
	}
	m.batch.Entries = append(m.batch.Entries, gocql.BatchEntry{Stmt: stmt, Args: args, Idempotent: true})
	m.bytes += bytes + rowOverhead
}

// group is a plan's mutations as they travel: each alone, or some small ones together.
func (s *Store) group(ctx context.Context, p *plan) []*gocql.Batch {
	type group struct {
		*mutation
		members int
	}
	var batches []*gocql.Batch
	open := map[string]*group{} // By the node that coordinates.
	for _, m := range p.mutations {
		if len(p.mutations) == 1 || m.bytes > groupBytes {
			batches = append(batches, m.batch)
			continue
		}
		node := s.firstReplica(m.batch.WithContext(ctx))
		g := open[node]
		if node == "" || g == nil || g.members == groupMutations || g.bytes+m.bytes > groupBytes {
			open[node] = &group{m, 1}
			batches = append(batches, m.batch)
			continue
		}
		g.batch.Entries = append(g.batch.Entries, m.batch.Entries...)
		g.bytes += m.bytes
		g.members++
	}
	return batches
}

// firstReplica is the node to which the driver sends a batch while it is up; empty if that is not known.
func (s *Store) firstReplica(b *gocql.Batch) string {
	if host := s.route.Pick(b)(); host != nil {
		return host.Info().HostID()
	}
	return ""
}

// write carries out a plan, as many batches at once as there are slots. It returns the first error, when all that were
// started have ended.
func (s *Store) write(ctx context.Context, p *plan) error {
	batches := s.group(ctx, p)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(batches) || ctx.Err() != nil {
				return
			}
			if err := s.execute(ctx, batches[i]); err != nil {
				cancel(err)
				return
			}
		}
	}
	var others sync.WaitGroup
	for range min(len(batches), cap(s.slots)) - 1 {
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
