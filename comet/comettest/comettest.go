// Package comettest runs a comet for tests: with a router that answers, a presence that can fail, tokens that anyone can
// write, and clients of both transports. It never runs outside tests.
package comettest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/certs"
	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
)

// Node is a running comet and what it works with.
type Node struct {
	*comet.Comet

	Router   *Router
	Presence *Presence
	Registry *prometheus.Registry
	Kicked   chan Kick
	Lines    observetest.Lines
	Certs    *certs.Source // of its transports over TLS

	stop context.CancelFunc
	done chan error
	once sync.Once
	err  error
}

// Kick is one call of Deps.Kick.
type Kick struct {
	Node  string
	Batch link.Batch
}

// Config is the default with ports of its own and short times.
func Config() comet.Config {
	cfg := comet.Default()
	cfg.TCPAddress, cfg.WebSocketAddress = "127.0.0.1:0", "127.0.0.1:0"
	cfg.CPUGuardPercent = 0 // the test itself may use all there is
	cfg.DrainSpreadMs, cfg.DrainTimeoutMs, cfg.ResyncSpreadMs = 1000, 5000, 100
	return cfg
}

// Start runs a comet until the test ends.
func Start(t testing.TB, cfg comet.Config) *Node {
	return StartWith(t, cfg, NewPresence(), Auth{})
}

// StartWith is Start with a presence and an authenticator; before is called before the comet runs.
func StartWith(t testing.TB, cfg comet.Config, p *Presence, judge comet.Authenticator, before ...func(*comet.Comet)) *Node {
	t.Helper()
	n := &Node{
		Router: NewRouter(), Presence: p, Registry: prometheus.NewRegistry(),
		Kicked: make(chan Kick, 1024), done: make(chan error, 1),
	}
	var out io.Writer = &n.Lines
	if testing.Verbose() {
		out = io.MultiWriter(out, testWriter{t})
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	if len(cfg.ProxyProtocolFrom) == 0 {
		cfg.ProxyProtocolFrom = []string{Balancer}
	}
	if !cfg.Secure() {
		cfg.TLSAddress, cfg.WSSAddress = "127.0.0.1:0", "127.0.0.1:0"
	}
	if !cfg.TLS.Set() {
		cfg.TLS.CertFile, cfg.TLS.KeyFile = authority(t).Issue(t, time.Now().Add(time.Hour), "localhost").Write(t, t.TempDir())
	}
	var err error
	if n.Certs, err = certs.Open(cfg.TLS, log); err != nil {
		t.Fatal(err)
	}
	n.Comet, err = comet.New(cfg, comet.Deps{
		Node: "comet-1", TLS: n.Certs.TLS(), Router: n.Router, Presence: p, Auth: judge, Tickets: Tickets(), Log: log, Metrics: n.Registry,
		Kick: func(node string, b *link.Batch) {
			n.Kicked <- Kick{node, link.Batch{Partition: b.Partition, Epoch: b.Epoch, Deliveries: append([]link.Delivery(nil), b.Deliveries...)}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(n.Comet)
	}
	n.Router.Bind(n.Comet)
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	go func() { n.done <- n.Comet.Run(ctx) }()
	select {
	case <-n.Started():
	case err := <-n.done:
		t.Fatalf("comet did not start: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("comet did not start within 10 s")
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Errorf("comet ended with: %v", err)
		}
		n.Router.Close()
	})
	return n
}

// Balancer is the address whose word nodes take for that of devices, if the test says nothing else.
const Balancer = "127.0.0.9"

var (
	authorityOnce sync.Once
	theAuthority  *certstest.Authority
)

// authority signs the certificates of all nodes.
func authority(t testing.TB) *certstest.Authority {
	authorityOnce.Do(func() { theAuthority = certstest.NewAuthority(t) })
	return theAuthority
}

// Tickets seals as any node does: all have the same key.
func Tickets() *auth.Keyring {
	ring, err := auth.NewKeyring(auth.Default(), auth.Key{ID: "test", Secret: []byte(strings.Repeat("s", auth.MinSecretLen))})
	if err != nil {
		panic(err)
	}
	return ring
}

// Cancel begins the drain.
func (n *Node) Cancel() { n.stop() }

// Stop drains and waits for the end.
func (n *Node) Stop() error {
	n.once.Do(func() {
		n.stop()
		select {
		case n.err = <-n.done:
		case <-time.After(30 * time.Second):
			n.err = errors.New("comet did not end within 30 s")
		}
	})
	return n.err
}

// Metric is the value of a metric, summed over its labels where none are given; labels are "name=value".
func (n *Node) Metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	return observetest.Metric(t, n.Registry, name, labels...)
}

// Eventually polls until ok reports true, and fails the test after ten seconds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

type testWriter struct{ t testing.TB }

// Write implements io.Writer.
func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// Auth takes tokens of the form "app/user/device", optionally "/seconds" of life, and refuses "bad".
type Auth struct{}

// Verify implements comet.Authenticator.
func (Auth) Verify(token string) (comet.Identity, *protocol.Error) {
	if token == "later" {
		return comet.Identity{}, protocol.Errorf(protocol.CodeRetry, "keys are not here yet")
	}
	parts := strings.Split(token, "/")
	if len(parts) < 3 {
		return comet.Identity{}, protocol.Errorf(protocol.CodeUnauthenticated, "the token does not hold")
	}
	id := comet.Identity{App: parts[0], User: parts[1], Device: parts[2], TokenID: token}
	if len(parts) > 3 {
		life, err := time.ParseDuration(parts[3])
		if err != nil {
			return comet.Identity{}, protocol.Errorf(protocol.CodeUnauthenticated, "no such time")
		}
		id.Expires = time.Now().Add(life)
	}
	return id, nil
}

// Router answers every request with its own body, as an owner of the partition would: from another goroutine, in batches.
type Router struct {
	// Refuse, if set, is the answer of Route.
	Refuse atomic.Pointer[protocol.Error]
	// Silent requests get no answer.
	Silent atomic.Bool
	// Unattached sessions are told nothing of their rooms.
	Unattached atomic.Bool
	// Attaches counts the questions for rooms.
	Attaches atomic.Int64

	queue chan link.Request
	done  chan struct{}
	node  atomic.Pointer[comet.Comet]

	mu    sync.Mutex
	seen  []link.Request
	rooms map[string]map[string]uint64 // user → conversation → joined
}

// SetRoom makes a user a member of a large conversation from joined on, or none any more with joined 0, for all attaches to come.
func (r *Router) SetRoom(user, conversation string, joined uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rooms == nil {
		r.rooms = make(map[string]map[string]uint64)
	}
	if r.rooms[user] == nil {
		r.rooms[user] = make(map[string]uint64)
	}
	if delete(r.rooms[user], conversation); joined > 0 {
		r.rooms[user][conversation] = joined
	}
}

// attached answers for the owner of a user's log.
func (r *Router) attached(q link.Request) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var asked linkv1.AttachRequest
	if err := asked.UnmarshalVT(q.Body); err != nil {
		panic(err)
	}
	reply := &linkv1.AttachReply{}
	for _, conversation := range slices.Sorted(maps.Keys(r.rooms[q.User])) {
		if conversation <= asked.After {
			continue
		}
		if reply.More = len(reply.Rooms) == protocol.MaxAttachedRooms; reply.More {
			break
		}
		reply.Rooms = append(reply.Rooms, &linkv1.AttachedRoom{Conversation: conversation, JoinedSeq: r.rooms[q.User][conversation]})
	}
	body, err := reply.MarshalVT()
	if err != nil {
		panic(err)
	}
	q.Body = body
	return answer(q)
}

// Partitions of the router.
const Partitions = 16

// NewRouter starts a router.
func NewRouter() *Router {
	r := &Router{queue: make(chan link.Request, 1<<14), done: make(chan struct{})}
	go r.run()
	return r
}

// Bind says where answers go.
func (r *Router) Bind(c *comet.Comet) { r.node.Store(c) }

// Close ends the router.
func (r *Router) Close() {
	close(r.queue)
	<-r.done
}

// Partitions implements link.Router.
func (r *Router) Partitions() int { return Partitions }

// Route implements link.Router.
func (r *Router) Route(_ int, q link.Request) *protocol.Error {
	if err := r.Refuse.Load(); err != nil {
		return err
	}
	select {
	case r.queue <- q:
		return nil
	default:
		return protocol.Errorf(protocol.CodeBusy, "the queue is full")
	}
}

// Seen returns the requests so far.
func (r *Router) Seen() []link.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]link.Request(nil), r.seen...)
}

func (r *Router) run() {
	defer close(r.done)
	var b link.Batch
	for q := range r.queue {
		b.Deliveries = b.Deliveries[:0]
		for {
			if q.Command == protocol.CommandAttach {
				r.Attaches.Add(1)
				if !r.Unattached.Load() {
					b.Deliveries = append(b.Deliveries, link.Delivery{Conn: q.Conn, Frame: r.attached(q)})
				}
			} else if r.note(q); !r.Silent.Load() {
				b.Deliveries = append(b.Deliveries, link.Delivery{Conn: q.Conn, Frame: answer(q)})
			}
			if len(b.Deliveries) >= 512 || len(r.queue) == 0 {
				break
			}
			q = <-r.queue
		}
		r.node.Load().Deliver(&b)
	}
}

// maxSeen keeps a long test from keeping everything.
const maxSeen = 10_000

func (r *Router) note(q link.Request) {
	r.mu.Lock()
	if len(r.seen) < maxSeen {
		r.seen = append(r.seen, q)
	}
	r.mu.Unlock()
}

func answer(q link.Request) []byte {
	f := &envelopev1.Frame{Command: q.Command, RequestId: q.RequestID, Conversation: q.Conversation, Body: q.Body}
	data, err := protocol.EncodeFrame(q.Codec == link.CodecJSON, f)
	if err != nil {
		panic(err)
	}
	return data
}
