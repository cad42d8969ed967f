package natslink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/link/linktest"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// quick is Default with a pulse that tests can wait for.
func quick() Config {
	cfg := Default()
	cfg.HeartbeatMs, cfg.RepeatAgainMs, cfg.SilenceMs, cfg.ForgetMs = 50, 30, 30_000, 60_000
	return cfg
}

// start runs f until the test ends or stop is called.
func start(t testing.TB, f func(context.Context) error, ready <-chan struct{}) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("Run: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func newNode(t testing.TB, conn *bus.Conn, id string, cfg Config, n link.Node) *Node {
	t.Helper()
	node, err := NewNode(conn, id, linktest.Partitions, cfg, NodeDeps{
		Log: bustest.Log(t), Metrics: prometheus.NewRegistry(), Receiver: n, EncodeError: linktest.EncodeError,
	})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func newOwner(t testing.TB, conn *bus.Conn, id string, cfg Config) *Owner {
	t.Helper()
	o, err := NewOwner(conn, id, cfg, OwnerDeps{
		Log: bustest.Log(t), Metrics: prometheus.NewRegistry(), EncodeError: linktest.EncodeError,
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func attach(t testing.TB, o *Owner, p int, in link.Inbox) func() {
	t.Helper()
	detach, err := o.Attach(p, 1, in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(detach)
	return detach
}

func TestSuite(t *testing.T) {
	linktest.Run(t, func(t *testing.T) linktest.Harness {
		server := bustest.StartEmbedded(t)
		return linktest.Harness{
			Owner: func(t *testing.T, process string) linktest.Owner {
				o := newOwner(t, bustest.Connect(t, server), process, quick())
				start(t, o.Run, o.Ready())
				return linktest.Owner{Sender: o, Attach: func(p int, in link.Inbox) func() { return attach(t, o, p, in) }}
			},
			Node: func(t *testing.T, id string, n link.Node) (link.Router, func()) {
				node := newNode(t, bustest.Connect(t, server), id, quick(), n)
				return node, start(t, node.Run, node.Ready())
			},
		}
	})
}

// pair is one process and one node, and what may be lost between them.
type pair struct {
	t     *testing.T
	owner *Owner
	node  *Node
	got   *linktest.Node
	stop  func() // the process, with a goodbye

	mu   sync.Mutex
	drop func(fromOwner bool) bool
}

func newPair(t *testing.T, cfg Config, drop func(fromOwner bool) bool) *pair {
	server := bustest.StartEmbedded(t)
	p := &pair{t: t, got: new(linktest.Node), drop: drop}
	p.owner = newOwner(t, bustest.Connect(t, server), "logic-1", cfg)
	p.node = newNode(t, bustest.Connect(t, server), "comet-1", cfg, p.got)
	p.owner.publish = p.lossy(p.owner.publish, true)
	p.node.publish = p.lossy(p.node.publish, false)
	start(t, p.node.Run, p.node.Ready())
	p.stop = start(t, p.owner.Run, p.owner.Ready())
	return p
}

func (p *pair) lossy(publish publishFunc, fromOwner bool) publishFunc {
	return func(subject, reply string, data []byte) error {
		p.mu.Lock()
		lost := p.drop != nil && p.drop(fromOwner)
		p.mu.Unlock()
		if lost {
			return nil
		}
		return publish(subject, reply, data)
	}
}

func (p *pair) lose(drop func(fromOwner bool) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop = drop
}

func (p *pair) send(i int) {
	p.owner.Send("comet-1", &link.Batch{
		Partition: i % 3, Epoch: 1, Deliveries: []link.Delivery{{Conn: uint64(i), Frame: fmt.Appendf(nil, "%d", i)}},
	})
}

// numbers are the connections reached, in order of arrival; each of a partition must be above the one before it.
func (p *pair) numbers() map[uint64]bool {
	p.t.Helper()
	seen := map[uint64]bool{}
	last := map[int]int{}
	for _, d := range p.got.Deliveries() {
		if l, ok := last[d.Partition]; ok && int(d.Conn) <= l {
			p.t.Fatalf("partition %d: delivery %d follows %d", d.Partition, d.Conn, l)
		}
		last[d.Partition] = int(d.Conn)
		seen[d.Conn] = true
	}
	return seen
}

// Whatever single message between the two is lost, everything arrives, in order, and nobody resyncs.
func TestAnyOneMessageLost(t *testing.T) {
	const total = 12
	for lostAt := range 14 {
		for _, side := range []bool{true, false} {
			t.Run(fmt.Sprintf("owner=%v/%d", side, lostAt), func(t *testing.T) {
				t.Parallel()
				n := 0
				p := newPair(t, quick(), func(fromOwner bool) bool {
					if fromOwner == side {
						n++
					}
					return fromOwner == side && n == lostAt+1
				})
				for i := range total {
					p.send(i)
					linktest.Until(t, "the process sent it", func() bool { return pendingBytes(p.owner) == 0 })
				}
				linktest.Until(t, "every delivery", func() bool { return len(p.numbers()) == total })
				if p.got.Losses() != 0 {
					t.Errorf("%d losses, though everything arrived", p.got.Losses())
				}
			})
		}
	}
}

// Whom a loss concerned is told once: a node that misses it has everybody compare heads, by the count that the next heartbeat tells.
func TestAWordOfUsersThatIsMissedConcernsAll(t *testing.T) {
	users := func(names ...string) link.Users {
		u := link.Users{}
		for _, name := range names {
			u.Add("app", name)
		}
		return u
	}
	var once sync.Once
	p := newPair(t, quick(), nil)
	p.send(0)
	linktest.Until(t, "the first delivery", func() bool { return len(p.numbers()) == 1 })
	p.owner.SkipUsers(users("alice"))
	linktest.Until(t, "word of alice", func() bool { return len(p.got.LossesTo()) == 1 })

	missed := make(chan struct{})
	p.lose(func(fromOwner bool) bool {
		if fromOwner && p.owner.skips.Load() == 2 { // It is the first that is sent after the count has risen.
			once.Do(func() { close(missed) })
		}
		return fromOwner
	})
	p.owner.SkipUsers(users("bob"))
	<-missed
	p.lose(nil)
	linktest.Until(t, "a loss", func() bool { return p.got.Losses() == 1 })
	if got := p.got.LossesTo(); len(got) != 1 {
		t.Errorf("%v are told", got)
	}

	p.owner.SkipUsers(users("carol"))
	linktest.Until(t, "word of carol", func() bool { return len(p.got.LossesTo()) == 2 })
	if got := p.got.LossesTo()[1]; len(got) != 1 || !got.Has("app", "carol") || p.got.Losses() != 1 {
		t.Errorf("%v, %d losses", got, p.got.Losses())
	}

	// More than are told at once are everybody.
	many := make(link.Users, link.MaxUsers+1)
	for i := range uint64(link.MaxUsers + 1) {
		many[i] = struct{}{}
	}
	p.owner.SkipUsers(many)
	linktest.Until(t, "another loss", func() bool { return p.got.Losses() == 2 })
}

func pendingBytes(o *Owner) int {
	n := 0
	for _, l := range *o.links.Load() {
		l.mu.Lock()
		n += l.bytes
		l.mu.Unlock()
	}
	return n
}

// A fifth of all messages, of both sides and of every kind, is lost: everything arrives all the same.
func TestManyMessagesLost(t *testing.T) {
	const total = 3000
	cfg := quick()
	cfg.RingMs = 60_000 // Longer than all the repetitions.
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	p := newPair(t, cfg, func(bool) bool { return rnd.IntN(5) == 0 })
	for i := range total {
		p.send(i)
		if i%50 == 0 {
			linktest.Until(t, "the process sent it", func() bool { return pendingBytes(p.owner) == 0 })
		}
	}
	linktest.Until(t, "every delivery", func() bool { return len(p.numbers()) == total || p.got.Losses() > 0 })
	if p.got.Losses() != 0 {
		t.Errorf("%d losses, though the ring holds everything", p.got.Losses())
	}
}

// The ring is smaller than what is lost: the node is told, and goes on with what comes after.
func TestBeyondTheRing(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"bytes": func(c *Config) { c.RingBytes = 1 },
		"time":  func(c *Config) { c.RingMs = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quick()
			change(&cfg)
			p := newPair(t, cfg, nil)
			p.send(0)
			linktest.Until(t, "the first delivery", func() bool { return len(p.numbers()) == 1 })
			p.lose(func(bool) bool { return true })
			for i := 1; i <= 20; i++ {
				p.send(i)
				linktest.Until(t, "the process sent it", func() bool { return pendingBytes(p.owner) == 0 })
			}
			if name == "time" {
				began := time.Now()
				linktest.Until(t, "the ring's time", func() bool { return time.Since(began) > 400*time.Millisecond })
			}
			p.lose(nil)
			linktest.Until(t, "the loss", func() bool { return p.got.Losses() == 1 })
			p.send(100)
			linktest.Until(t, "what comes after the loss", func() bool { return p.numbers()[100] })
			if p.got.Losses() != 1 {
				t.Errorf("%d losses, want one", p.got.Losses())
			}
		})
	}
}

// The delivery stage is full: what finds no room is lost, takes a number, and the node finds out.
func TestFullStageIsSeen(t *testing.T) {
	cfg := quick()
	cfg.SendBytes = 2000
	p := newPair(t, cfg, nil)
	p.send(0)
	linktest.Until(t, "the first delivery", func() bool { return len(p.numbers()) == 1 })
	block := make(chan struct{})
	var once sync.Once
	p.lose(func(fromOwner bool) bool {
		if fromOwner {
			once.Do(func() { <-block })
		}
		return false
	})
	before := time.Now()
	for i := 1; i <= 500; i++ {
		p.send(i)
	}
	if d := time.Since(before); d > 5*time.Second {
		t.Errorf("sending to a link that stands still took %v", d)
	}
	close(block)
	linktest.Until(t, "the loss", func() bool { return p.got.Losses() > 0 })
	p.send(1000)
	linktest.Until(t, "what comes after the loss", func() bool { return p.numbers()[1000] })
	if n := len(p.numbers()); n < 10 || n > 300 {
		t.Errorf("%d of 502 deliveries arrived: the bound was 2,000 bytes", n)
	}
}

func TestProcessFallsSilent(t *testing.T) {
	cfg := quick()
	cfg.SilenceMs = 300
	p := newPair(t, cfg, nil)
	p.send(0)
	linktest.Until(t, "the first delivery", func() bool { return len(p.numbers()) == 1 })
	p.lose(func(fromOwner bool) bool { return fromOwner })
	linktest.Until(t, "the loss", func() bool { return p.got.Losses() == 1 })
	p.send(1) // Into the silence; it comes when the silence ends.
	p.lose(nil)
	linktest.Until(t, "the delivery", func() bool { return len(p.numbers()) == 2 })
}

func TestGoodbyeIsNoLoss(t *testing.T) {
	cfg := quick()
	cfg.SilenceMs = 300
	p := newPair(t, cfg, nil)
	p.send(0)
	linktest.Until(t, "the delivery", func() bool { return len(p.numbers()) == 1 })
	p.stop()
	linktest.Until(t, "the node to forget the link", func() bool { return links(p.node) == 0 })
	if p.got.Losses() != 0 {
		t.Errorf("%d losses by a process that said goodbye", p.got.Losses())
	}
}

func links(n *Node) int {
	n.links.mu.Lock()
	defer n.links.mu.Unlock()
	return len(n.links.links)
}

// Both ends forget an other that is gone.
func TestBothForget(t *testing.T) {
	cfg := quick()
	cfg.SilenceMs, cfg.ForgetMs = 200, 400
	p := newPair(t, cfg, nil)
	p.send(0)
	p.owner.Send("comet-9", &link.Batch{Deliveries: []link.Delivery{{Conn: 1}}})
	linktest.Until(t, "comet-9 to be forgotten", func() bool { return len(*p.owner.links.Load()) == 1 })
	p.lose(func(fromOwner bool) bool { return true })
	linktest.Until(t, "both to forget", func() bool { return len(*p.owner.links.Load()) == 0 && links(p.node) == 0 })
	p.lose(nil)
	p.send(1)
	linktest.Until(t, "a new link", func() bool { return len(p.numbers()) == 2 })
}

// A node starts again under its name: it gets nothing from before, and needs no resync.
func TestNodeStartsAgain(t *testing.T) {
	server := bustest.StartEmbedded(t)
	o := newOwner(t, bustest.Connect(t, server), "logic-1", quick())
	start(t, o.Run, o.Ready())
	first := new(linktest.Node)
	node := newNode(t, bustest.Connect(t, server), "comet-1", quick(), first)
	stop := start(t, node.Run, node.Ready())
	for i := range 5 {
		o.Send("comet-1", &link.Batch{Deliveries: []link.Delivery{{Conn: uint64(i)}}})
	}
	linktest.Until(t, "five deliveries", func() bool { return len(first.Deliveries()) == 5 })
	stop()
	began := time.Now()
	linktest.Until(t, "the margin", func() bool { return time.Since(began) > upMargin+200*time.Millisecond })
	second := new(linktest.Node)
	node = newNode(t, bustest.Connect(t, server), "comet-1", quick(), second)
	start(t, node.Run, node.Ready())
	o.Send("comet-1", &link.Batch{Deliveries: []link.Delivery{{Conn: 6}}})
	linktest.Until(t, "the delivery", func() bool { return len(second.Deliveries()) > 0 })
	if got := second.Deliveries(); len(got) != 1 || got[0].Conn != 6 || second.Losses() != 0 {
		t.Errorf("the new node got %+v and %d losses", got, second.Losses())
	}
}

// NATS goes away and comes back: requests are refused at once, and deliveries arrive late.
func TestServerRestarts(t *testing.T) {
	cluster := bustest.StartCluster(t, 1)
	o := newOwner(t, cluster.Connect(), "logic-1", quick())
	start(t, o.Run, o.Ready())
	got := new(linktest.Node)
	node := newNode(t, cluster.Connect(), "comet-1", quick(), got)
	start(t, node.Run, node.Ready())
	attach(t, o, 0, new(linktest.Inbox))
	o.Send("comet-1", &link.Batch{Deliveries: []link.Delivery{{Conn: 1}}})
	linktest.Until(t, "a delivery", func() bool { return len(got.Deliveries()) == 1 })
	cluster.Kill(0)
	linktest.Until(t, "the connections to break", func() bool { return !o.conn.Connected() && !node.conn.Connected() })
	for i := range 5 {
		o.Send("comet-1", &link.Batch{Deliveries: []link.Delivery{{Conn: uint64(2 + i)}}})
	}
	if code := linktest.Answer(t, node, got, 0, link.Request{Conn: 99, RequestID: 7}); code != "retry" {
		t.Errorf("without a server: %q, want retry", code)
	}
	cluster.Start(0)
	linktest.Until(t, "all deliveries", func() bool { return len(got.Deliveries()) == 7 })
	if got.Losses() != 0 {
		t.Errorf("%d losses by a mere reconnect", got.Losses())
	}
}

// A process that dies with requests in its hands answers none of them. The word of the next owner ends the wait.
// hearing keeps the epochs that a node hears of.
type hearing struct {
	linktest.Node
	epochs link.Epochs
}

func (h *hearing) Deliver(b *link.Batch) {
	h.epochs.Admit(b.Partition, b.Epoch)
	h.Node.Deliver(b)
}

// Before it asks anything: a write that is stamped with the epoch before costs a question more.
func TestNodesHearOfANewOwnersEpoch(t *testing.T) {
	server := bustest.StartEmbedded(t)
	got := &hearing{epochs: make(link.Epochs, linktest.Partitions)}
	node := newNode(t, bustest.Connect(t, server), "comet-1", quick(), got)
	start(t, node.Run, node.Ready())
	o := newOwner(t, bustest.Connect(t, server), "logic-1", quick())
	start(t, o.Run, o.Ready())
	detach, err := o.Attach(2, 9, new(linktest.Inbox))
	if err != nil {
		t.Fatal(err)
	}
	defer detach()
	linktest.Until(t, "the word of the new owner", func() bool { return got.epochs.Highest(2) == 9 })
	if len(got.Deliveries()) != 0 {
		t.Errorf("%v was delivered", got.Deliveries())
	}
}

func TestTheNextOwnerEndsTheWaitForTheLast(t *testing.T) {
	server := bustest.StartEmbedded(t)
	got := new(linktest.Node)
	node := newNode(t, bustest.Connect(t, server), "comet-1", quick(), got)
	conns := []*bus.Conn{bustest.Connect(t, server), bustest.Connect(t, server)}
	first, second := newOwner(t, conns[0], "logic-1", quick()), newOwner(t, conns[1], "logic-2", quick())
	start(t, first.Run, first.Ready())
	start(t, second.Run, second.Ready())
	in := new(linktest.Inbox)
	detach := attach(t, first, 1, in)
	attach(t, first, 2, new(linktest.Inbox))
	attach(t, second, 3, new(linktest.Inbox))
	for _, c := range conns { // What they said is over before anybody listens.
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	start(t, node.Run, node.Ready()) // Only now: words about the owners there are would end no wait, or that of this test.
	ask := func(partition int, id uint64) {
		t.Helper()
		err := node.Route(partition, link.Request{
			Node: "comet-1", Conn: 7, App: "main", User: "u", Device: "d", Codec: link.CodecProto, RequestID: id, Conversation: "d:u:v",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask(1, 1)
	ask(1, 2)
	ask(2, 3)
	linktest.Until(t, "the requests with the owner", func() bool { return len(in.Requests()) == 2 })
	first.Send("comet-1", &link.Batch{Partition: 1, Epoch: 1, Deliveries: []link.Delivery{{Conn: 7, Frame: []byte("answer"), Answers: 1}}})
	linktest.Until(t, "the one answer", func() bool { return len(got.Deliveries()) == 1 })

	detach()
	attach(t, second, 1, new(linktest.Inbox))
	linktest.Until(t, "the word about the other", func() bool { return len(got.Deliveries()) == 2 })
	var f envelopev1.Frame
	if err := f.UnmarshalVT(got.Deliveries()[1].Frame); err != nil || f.RequestId != 2 || f.Error.GetCode() != string(protocol.CodeRetry) {
		t.Fatalf("the answer is %v, %v", &f, err)
	}
	// Said once; and the partition whose owner lives is not concerned.
	attach(t, second, 1, new(linktest.Inbox))
	ask(3, 4)
	second.Send("comet-1", &link.Batch{Partition: 3, Epoch: 1, Deliveries: []link.Delivery{{Conn: 7, Frame: []byte("last"), Answers: 4}}})
	linktest.Until(t, "what comes last", func() bool {
		ds := got.Deliveries()
		return string(ds[len(ds)-1].Frame) == "last"
	})
	if n := len(got.Deliveries()); n != 3 {
		t.Fatalf("%d deliveries, want 3", n)
	}
}
