package link

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/halley-im/halley/protocol"
)

// Local is the link of one process: nodes and owners call each other directly, so nothing is copied, queued or lost between
// them. Its hot path takes no lock and allocates nothing. All methods are safe for concurrent use.
type Local struct {
	owners []atomic.Pointer[owner] // by partition; nil where nobody owns it
	nodes  atomic.Pointer[map[string]*member]

	mu sync.Mutex // held by those who replace nodes
}

// owner and member exist for their addresses: a detach or remove that comes late must not undo what a successor did.
type (
	owner struct {
		inbox Inbox
		epoch uint64
	}
	member struct{ node Node }
)

var (
	_ Router = (*Local)(nil)
	_ Sender = (*Local)(nil)
)

// NewLocal makes a link for the given number of partitions, none of which has an owner yet.
func NewLocal(partitions int) *Local {
	l := &Local{owners: make([]atomic.Pointer[owner], partitions)}
	l.nodes.Store(&map[string]*member{})
	return l
}

// Attach makes in, of an owner in this epoch, the receiver of the partition's requests, in place of whoever was before. Nodes are told, so
// that they stamp with this epoch what they send it. After detach has returned no new
// call reaches in, but one begun earlier may still be running: an inbox that has stopped refuses by itself. A detach
// after another Attach changes nothing.
func (l *Local) Attach(partition int, epoch uint64, in Inbox) (detach func()) {
	o := &owner{in, epoch}
	l.owners[partition].Store(o)
	for _, m := range *l.nodes.Load() {
		m.node.Deliver(&Batch{Partition: partition, Epoch: epoch})
	}
	return func() { l.owners[partition].CompareAndSwap(o, nil) }
}

// Register makes n the receiver of batches for the node, in place of whoever was before. A remove after another Register
// changes nothing.
func (l *Local) Register(node string, n Node) (remove func()) {
	m := &member{n}
	l.change(func(nodes map[string]*member) { nodes[node] = m })
	for p := range l.owners {
		if o := l.owners[p].Load(); o != nil {
			n.Deliver(&Batch{Partition: p, Epoch: o.epoch})
		}
	}
	return func() {
		l.change(func(nodes map[string]*member) {
			if nodes[node] == m {
				delete(nodes, node)
			}
		})
	}
}

func (l *Local) change(f func(map[string]*member)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := maps.Clone(*l.nodes.Load())
	f(next)
	l.nodes.Store(&next)
}

// Partitions is the number of partitions of the cluster.
func (l *Local) Partitions() int { return len(l.owners) }

// The refusals are shared: they are the same for every request, and a storm of them must cost nothing.
var errNoOwner = protocol.Errorf(protocol.CodeRetry, "the conversation has no owner just now")

// Route gives r to the partition's owner in the caller's goroutine.
func (l *Local) Route(partition int, r Request) *protocol.Error {
	o := l.owners[partition].Load()
	if o == nil {
		return errNoOwner
	}
	return o.inbox.Enqueue(r)
}

// Send gives b to the node in the caller's goroutine.
func (l *Local) Send(node string, b *Batch) {
	if m := (*l.nodes.Load())[node]; m != nil {
		m.node.Deliver(b)
	}
}

// SkipUsers tells every node that deliveries for these users were lost.
func (l *Local) SkipUsers(users Users) {
	for _, m := range *l.nodes.Load() {
		m.node.LostTo(users)
	}
}

// Skip tells every node that deliveries were lost.
func (l *Local) Skip() {
	for _, m := range *l.nodes.Load() {
		m.node.Lost()
	}
}
