package natslink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// OwnerDeps is what an Owner needs from outside.
type OwnerDeps struct {
	Log         *slog.Logger
	Metrics     prometheus.Registerer
	EncodeError EncodeError
	// Peer makes it the end of a comet, which only closes sessions of others. A node takes nothing else from it.
	Peer bool
}

// Owner is a logic process's end: it hands requests to the partitions that the process owns, and takes deliveries to nodes. All
// methods are safe for concurrent use.
type Owner struct {
	// static
	process string
	conn    *bus.Conn
	publish publishFunc
	cfg     Config
	deps    OwnerDeps
	n       *counters
	ready   chan struct{}

	links  atomic.Pointer[map[string]*outLink] // by node; replaced as a whole, under linkMu
	linkMu sync.Mutex
	dirty  *dirty[*outLink]

	skips   atomic.Uint64
	skipped chan struct{} // holds one signal: skips has changed, or users

	usersMu sync.Mutex
	users   link.Users // whom nodes are still to be told of

	// owned by Run
	from    string // of what goes to all nodes
	control []byte
}

var _ link.Sender = (*Owner)(nil)

// NewOwner makes the end of the process with this id, which no other process may have at the same time.
func NewOwner(conn *bus.Conn, process string, cfg Config, deps OwnerDeps) (*Owner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if !validToken(process) {
		return nil, fmt.Errorf("link: process id %q: want letters, digits, - and _", process)
	}
	o := &Owner{
		process: process, conn: conn, publish: conn.Publish, cfg: cfg, deps: deps,
		n: newCounters("owner", deps.Log, deps.Metrics), ready: make(chan struct{}), dirty: newDirty[*outLink](),
		skipped: make(chan struct{}, 1), from: newFrom(process),
	}
	o.links.Store(&map[string]*outLink{})
	return o, nil
}

// newFrom names a new link of the process, or a new life of it.
func newFrom(process string) string { return process + "/" + rand.Text()[:16] }

// Skip has all nodes' sessions compare heads, those of nodes included that this process has no link with, within a heartbeat. The
// count of skips is told to all nodes again with each heartbeat, so none misses it.
func (o *Owner) Skip() {
	o.n.lost.WithLabelValues("skip").Inc()
	o.skips.Add(1)
	select {
	case o.skipped <- struct{}{}:
	default:
	}
}

// SkipUsers does the same for the sessions of these users. To be told of them counts as a skip, so that a node that misses it has all
// its sessions compare heads.
func (o *Owner) SkipUsers(users link.Users) {
	o.usersMu.Lock()
	if o.users == nil {
		o.users = users
	} else {
		maps.Copy(o.users, users)
	}
	many := len(o.users) > link.MaxUsers
	if many {
		o.users = nil
	}
	o.usersMu.Unlock()
	if many {
		o.Skip()
		return
	}
	select {
	case o.skipped <- struct{}{}:
	default:
	}
}

// Ready is closed once Run listens to the nodes.
func (o *Owner) Ready() <-chan struct{} { return o.ready }

// Attach makes in, of an owner in this epoch, the receiver of the partition's requests; it returns when the server knows. All nodes are told, and give up
// waiting for the owner before. After detach has returned nothing reaches in any more. The strings and the body of a request
// share memory of their own.
func (o *Owner) Attach(partition int, epoch uint64, in link.Inbox) (detach func(), err error) {
	sub, err := o.conn.Subscribe(protocol.SubjectPartition(partition), requestQueue, func(m bus.Msg) {
		o.onRequests(partition, in, m.Data)
	})
	if err != nil {
		return nil, fmt.Errorf("link: attach partition %d: %w", partition, err)
	}
	detach = sync.OnceFunc(func() {
		if err := sub.Close(); err != nil {
			o.n.log.Warn("link: detach", "partition", partition, "err", err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), attachTimeout)
	defer cancel()
	if err := o.conn.Flush(ctx); err != nil {
		detach()
		return nil, fmt.Errorf("link: attach partition %d: %w", partition, err)
	}
	if err := o.publish(protocol.SubjectNodes(), "", appendTaken(nil, partition, epoch)); err != nil {
		o.n.log.Debug("link: nodes were not told of the new owner", "partition", partition, "err", err) // Devices ask again.
	}
	return detach, nil
}

// attachTimeout bounds how long Attach waits for the server.
const attachTimeout = 5 * time.Second

func (o *Owner) onRequests(partition int, in link.Inbox, data []byte) {
	err := eachRequest(data, func(r link.Request) {
		if err := in.Enqueue(r); err != nil {
			o.refuse(partition, &r, err)
		}
	})
	if err != nil {
		o.n.log.Error("link: a batch of requests cannot be read", "partition", partition, "bytes", len(data), "err", err)
	}
}

func (o *Owner) refuse(partition int, r *link.Request, why *protocol.Error) {
	o.n.refused.WithLabelValues(string(why.Code)).Inc()
	frame := o.deps.EncodeError(r.Codec, r.Command, r.RequestID, strings.Clone(r.Conversation), why)
	o.Send(r.Node, &link.Batch{Partition: partition, Deliveries: []link.Delivery{{Conn: r.Conn, Frame: frame, Answers: r.RequestID}}})
}

// Send queues b on the node's link. Deliveries for which there is no room are lost, and the node finds out.
func (o *Owner) Send(node string, b *link.Batch) {
	for {
		l := (*o.links.Load())[node]
		if l == nil {
			if l = o.open(node); l == nil {
				return
			}
		}
		switch l.queue(o, b) {
		case queued:
			return
		case queuedFirst:
			o.dirty.add(l)
			return
		case linkForgotten: // between the look-up and now
			o.forget(l)
		}
	}
}

// open makes a link with a node of which nothing is known.
func (o *Owner) open(node string) *outLink {
	o.linkMu.Lock()
	defer o.linkMu.Unlock()
	links := *o.links.Load()
	if l := links[node]; l != nil {
		return l
	}
	if !validToken(node) || len(links) >= o.cfg.MaxNodes {
		o.n.lost.WithLabelValues("no_link").Inc()
		o.n.log.Debug("link: no link with this node", "node", node, "links", len(links), "limit", o.cfg.MaxNodes)
		return nil
	}
	node = strings.Clone(node)
	l := &outLink{node: node, from: newFrom(o.process), used: time.Now(), heard: time.Now()}
	next := maps.Clone(links)
	next[node] = l
	o.links.Store(&next)
	return l
}

func (o *Owner) forget(l *outLink) {
	o.linkMu.Lock()
	defer o.linkMu.Unlock()
	links := *o.links.Load()
	if links[l.node] != l {
		return
	}
	next := maps.Clone(links)
	delete(next, l.node)
	o.links.Store(&next)
}

// onStatus takes what a node says about its link.
func (o *Owner) onStatus(m bus.Msg) {
	var s linkv1.LinkStatus
	if err := s.UnmarshalVT(m.Data); err != nil {
		o.n.log.Error("link: a node's status cannot be read", "err", err)
		return
	}
	l := (*o.links.Load())[s.Node]
	if l == nil || l.from != s.From {
		return // A link that is forgotten here; there, it falls silent.
	}
	if l.told(&s) {
		o.dirty.add(l)
	}
}

// Run sends until ctx ends; then it sends what is queued and says goodbye.
func (o *Owner) Run(ctx context.Context) (err error) {
	sub, err := o.conn.Subscribe(protocol.SubjectProcess(o.process), statusQueue, o.onStatus)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	if err := o.conn.Flush(ctx); err != nil {
		o.n.log.Warn("link: listening as soon as there is a server", "err", err)
	}
	close(o.ready)
	tick := time.NewTicker(ms(o.cfg.HeartbeatMs))
	defer tick.Stop()
	var spare []*outLink
	var told time.Time
	for {
		select {
		case <-o.dirty.wake:
			links := o.dirty.take(spare)
			for _, l := range links {
				l.flush(o)
			}
			spare = links
		case <-o.skipped:
			// What makes one partition skip makes all of them skip: the next heartbeat tells of all that follow.
			if now := time.Now(); now.Sub(told) >= ms(o.cfg.HeartbeatMs) {
				told = now
				o.tellAll()
			}
		case <-tick.C:
			o.tellAll()
			for _, l := range *o.links.Load() {
				if l.heartbeat(o) {
					o.forget(l)
				}
			}
		case <-ctx.Done():
			o.tellAll()
			for _, l := range *o.links.Load() {
				l.flush(o)
				o.sendControl(l, 0, false, true)
			}
			return nil
		}
	}
}

// subject is where the node hears this end.
func (o *Owner) subject(node string) string {
	if o.deps.Peer {
		return protocol.SubjectPeer(node)
	}
	return protocol.SubjectNode(node)
}

func (o *Owner) sendControl(l *outLink, skipTo uint64, lost, closing bool) {
	o.control = appendControl(o.control[:0], l.from, l.number, skipTo, lost, closing)
	o.tell(o.subject(l.node))
}

func (o *Owner) tellAll() {
	if o.deps.Peer {
		return // It loses nothing that sessions could miss.
	}
	o.usersMu.Lock()
	users := o.users
	o.users = nil
	o.usersMu.Unlock()
	last := o.skips.Load()
	if len(users) > 0 {
		o.n.lost.WithLabelValues("users").Inc()
		last = o.skips.Add(1)
	}
	o.control = appendUsers(appendControl(o.control[:0], o.from, last, 0, false, false), users)
	o.tell(protocol.SubjectNodes())
}

func (o *Owner) tell(subject string) {
	if err := o.publish(subject, "", o.control); err != nil {
		o.n.log.Debug("link: heartbeat was not sent", "subject", subject, "err", err) // The next one tells the same.
	}
}
