package natslink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// NodeDeps is what a Node needs from outside.
type NodeDeps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Receiver gets what arrives, from several goroutines. The numbers of its connections must not come again after a
	// restart under the same id: deliveries to the node before may still be under way.
	Receiver    link.Node
	EncodeError EncodeError
}

// Node is a node's end: it takes requests to partitions and hands deliveries to the receiver. All methods are safe for
// concurrent use.
type Node struct {
	// static
	id      string
	conn    *bus.Conn
	publish publishFunc
	cfg     Config
	deps    NodeDeps
	n       *counters
	ready   chan struct{}

	queues     []queue
	dirty      *dirty[int] // partitions with something queued
	unanswered unanswered
	links      inLinks // with logic processes
	peers      inLinks // with comets
}

var _ link.Router = (*Node)(nil)

// queue holds the requests of one partition until the flusher comes by.
type queue struct {
	mu       sync.Mutex
	batches  []*requests // the last is open
	requests int
	bytes    int
	scratch  linkv1.Request
}

// requests is one RequestBatch, and what must be known to refuse it.
type requests struct {
	partition int
	data      []byte // until it is sent
	asked     []asked

	// in unanswered, guarded by its mu
	token        uint64
	left         int // of asked without an answer
	older, newer *requests
}

// asked is one request that may have to be refused; without requestID, no longer.
type asked struct {
	conn         uint64
	requestID    uint64
	conversation string
	command      envelopev1.Command
	codec        link.Codec
}

var requestPool = sync.Pool{New: func() any { return new(requests) }}

func (r *requests) recycle() {
	clear(r.asked)
	*r = requests{asked: r.asked[:0]}
	requestPool.Put(r)
}

// dataPool holds what RequestBatches were encoded in: sent at once, while the rest of a batch waits for its answers.
var dataPool = sync.Pool{New: func() any { return new([]byte) }}

// NewNode makes the end of the node with this id. The connection should have no buffer for the time without a server
// (bus.Config.NoReconnectBuffer), so that requests are then refused at once.
func NewNode(conn *bus.Conn, id string, partitions int, cfg Config, deps NodeDeps) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if !validToken(id) {
		return nil, fmt.Errorf("link: node id %q: want letters, digits, - and _", id)
	}
	n := &Node{
		id: id, conn: conn, publish: conn.Publish, cfg: cfg, deps: deps,
		n: newCounters("node", deps.Log, deps.Metrics), ready: make(chan struct{}),
		queues: make([]queue, partitions), dirty: newDirty[int](),
	}
	n.unanswered = newUnanswered(cfg.UnansweredSize)
	n.links.init(n, false)
	n.peers.init(n, true)
	return n, nil
}

// Ready is closed once Run listens: deliveries sent from then on arrive.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Partitions is the number of partitions of the cluster.
func (n *Node) Partitions() int { return len(n.queues) }

// Route queues r. It is encoded here, so nothing of it is kept but the name of the conversation.
func (n *Node) Route(partition int, r link.Request) *protocol.Error {
	size := len(r.Body) + 512 // Names and numbers are bounded; this is more than they take.
	if size > maxBatchBytes {
		return n.refused(errHuge)
	}
	r.Node = n.id
	q := &n.queues[partition]
	q.mu.Lock()
	if q.requests >= n.cfg.QueueRequests || q.bytes+size > n.cfg.QueueBytes {
		q.mu.Unlock()
		return n.refused(errFull)
	}
	b := q.open(partition, size)
	before := len(b.data)
	data, err := appendRequest(b.data, &r, &q.scratch)
	if err != nil {
		q.mu.Unlock()
		n.n.log.Error("link: a request cannot be encoded", "err", err)
		return n.refused(protocol.Errorf(protocol.CodeInternal, "the request cannot be passed on"))
	}
	b.data = data
	b.asked = append(b.asked, asked{r.Conn, r.RequestID, r.Conversation, r.Command, r.Codec})
	first := q.requests == 0
	q.requests++
	q.bytes += len(data) - before
	q.mu.Unlock()
	if first {
		n.dirty.add(partition)
	}
	return nil
}

func (n *Node) refused(err *protocol.Error) *protocol.Error {
	n.n.refused.WithLabelValues(string(err.Code)).Inc()
	return err
}

// open is the batch that a request of this size goes into.
func (q *queue) open(partition, size int) *requests {
	if i := len(q.batches) - 1; i >= 0 {
		if b := q.batches[i]; len(b.data)+size <= maxBatchBytes && len(b.asked) < maxBatchRequests {
			return b
		}
	}
	b := requestPool.Get().(*requests)
	b.partition, b.data = partition, (*dataPool.Get().(*[]byte))[:0]
	q.batches = append(q.batches, b)
	return b
}

// Run listens and sends until ctx ends; then it sends what is queued and stops listening.
func (n *Node) Run(ctx context.Context) (closed error) {
	var subs []*bus.Subscription
	defer func() {
		for _, sub := range subs {
			closed = errors.Join(closed, sub.Close())
		}
	}()
	node := protocol.SubjectNode(n.id)
	for subject, f := range map[string]func(bus.Msg){
		node: n.links.onMessage, node + ".*": n.onReply, protocol.SubjectNodes(): n.links.onAll,
		protocol.SubjectPeer(n.id): n.peers.onMessage,
	} {
		sub, err := n.conn.Subscribe(subject, deliveryQueue, f)
		if err != nil {
			return fmt.Errorf("link: %w", err)
		}
		subs = append(subs, sub)
	}
	// Subscribed only when the server has seen it. Without a server it will, with the connection.
	if err := n.conn.Flush(ctx); err != nil {
		n.n.log.Warn("link: listening as soon as there is a server", "err", err)
	}
	n.links.listening()
	n.peers.listening()
	close(n.ready)

	tick := time.NewTicker(ms(n.cfg.HeartbeatMs))
	defer tick.Stop()
	var spare []int
	var batches []*requests
	for {
		select {
		case <-n.dirty.wake:
		case <-tick.C:
			n.links.watch()
			n.peers.watch()
			continue
		case <-ctx.Done():
			n.flush(n.dirty.take(nil), nil)
			return nil
		}
		partitions := n.dirty.take(spare)
		batches = n.flush(partitions, batches)
		spare = partitions
	}
}

// flush sends what the partitions have queued; spare and the result are slices used again.
func (n *Node) flush(partitions []int, spare []*requests) []*requests {
	for _, p := range partitions {
		q := &n.queues[p]
		q.mu.Lock()
		batches := q.batches
		q.batches, q.requests, q.bytes = spare[:0], 0, 0
		q.mu.Unlock()
		for _, b := range batches {
			n.send(b)
		}
		clear(batches)
		spare = batches
	}
	return spare
}

func (n *Node) send(b *requests) {
	partition, data := b.partition, b.data
	b.data = nil
	token := n.unanswered.add(b) // An answer may come from here on, and b be another's.
	reply := protocol.SubjectNode(n.id) + "." + strconv.FormatUint(token, 36)
	if err := n.publish(protocol.SubjectPartition(partition), reply, data); err != nil {
		n.n.log.Debug("link: requests were not sent", "partition", partition, "err", err)
		n.refuse(n.unanswered.remove(token), errOffline)
		return
	}
	n.n.batches.Inc()
	if cap(data) <= 2*maxBatchBytes {
		dataPool.Put(&data)
	}
}

// onReply takes the server's word that a batch reached nobody.
func (n *Node) onReply(m bus.Msg) {
	if !m.NoResponders {
		return
	}
	token, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err == nil {
		n.refuse(n.unanswered.remove(token), errNoOwner)
	}
}

// onTaken takes a new owner's word that the partition is its own: requests that the one before took and did not answer are
// lost with it, or answered by nobody. What was sent to the new owner meanwhile may be among them, and is asked once more.
//
// The receiver hears of the epoch: a write that it stamps with an earlier one would be sent back.
func (n *Node) onTaken(partition int, epoch uint64) {
	if epoch != 0 {
		n.deps.Receiver.Deliver(&link.Batch{Partition: partition, Epoch: epoch})
	}
	for _, b := range n.unanswered.of(partition) {
		n.refuse(b, errMoved)
	}
}

// refuse answers every request of a batch that has no answer; b may be nil.
func (n *Node) refuse(b *requests, why *protocol.Error) {
	if b == nil {
		return
	}
	out := &link.Batch{Partition: b.partition, Deliveries: make([]link.Delivery, 0, len(b.asked))}
	for _, a := range b.asked {
		if a.requestID != 0 {
			out.Deliveries = append(out.Deliveries, link.Delivery{
				Conn: a.conn, Frame: n.deps.EncodeError(a.codec, a.command, a.requestID, a.conversation, why), Answers: a.requestID,
			})
		}
	}
	b.recycle()
	if len(out.Deliveries) == 0 {
		return
	}
	n.n.refused.WithLabelValues(string(why.Code)).Add(float64(len(out.Deliveries)))
	n.deps.Receiver.Deliver(out)
}
