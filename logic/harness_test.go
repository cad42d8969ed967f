package logic_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/pebble"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

const partitions = 4

// world is everything around logic nodes, in one process: a real log, a real store, a link and presence.
type world struct {
	t        testing.TB
	open     func() *bus.Conn // to the servers of NATS
	conn     *bus.Conn
	store    store.Store
	link     *link.Local
	presence *memory.Registry
	log      *slog.Logger
	cfg      logic.Config
	epoch    uint64 // of the comet's lease
}

func newWorld(t testing.TB) *world {
	t.Helper()
	server := bustest.StartEmbedded(t)
	return newWorldOn(t, 1, func() *bus.Conn { return bustest.Connect(t, server) })
}

func newWorldOn(t testing.TB, replicas int, open func() *bus.Conn) *world {
	t.Helper()
	conn := open()
	if err := bus.CreateLogs(t.Context(), conn, bus.LogConfig{Partitions: partitions, Replicas: replicas, MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.Default()
	}
	st, err := pebble.Open(t.TempDir(), pebble.Default(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	w := &world{t: t, open: open, conn: conn, store: st, link: link.NewLocal(partitions), log: log, cfg: logic.Default()}
	w.cfg.Replicas = replicas
	start := time.Now() // Presence's clock stands still: the comet's lease never runs out.
	w.presence = memory.New(func() time.Time { return start })
	if w.epoch, err = w.presence.Acquire(t.Context(), "comet"); err != nil {
		t.Fatal(err)
	}
	return w
}

// node is one running logic node.
type node struct {
	name string
	stop func() error
	*logic.Logic
	metrics *prometheus.Registry
	// Of one that can be killed: its connection, and how its partitions are taken off the link.
	conn   *bus.Conn
	mu     sync.Mutex
	detach []func()
}

// kill ends the node without a word to anybody: its requests reach nobody, nothing of its own arrives, and it gives up no lease.
func (n *node) kill() {
	n.conn.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, detach := range n.detach {
		detach()
	}
}

// start runs a logic node until stop or the end of the test.
func (w *world) start(name string) *node {
	w.t.Helper()
	return w.startOn(name, w.conn)
}

func (w *world) startOn(name string, conn *bus.Conn) *node {
	w.t.Helper()
	n := &node{name: name, metrics: prometheus.NewRegistry(), conn: conn}
	caller := logic.NewCaller("caller-"+name, w.link)
	remove := w.link.Register(caller.Node(), caller)
	l, err := logic.New(w.cfg, logic.Deps{
		Node: name, Log: conn, Bus: conn, Store: w.store, Presence: w.presence, Sender: w.link, Caller: caller,
		Attach: func(p int, epoch uint64, in link.Inbox) (func(), error) {
			detach := w.link.Attach(p, epoch, in)
			n.mu.Lock()
			defer n.mu.Unlock()
			n.detach = append(n.detach, detach)
			return detach, nil
		},
		Logger: w.log, Metrics: n.metrics,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	n.Logic = l
	n.stop = sync.OnceValue(func() error {
		cancel()
		defer remove()
		select {
		case err := <-done:
			return err
		case <-time.After(30 * time.Second):
			return fmt.Errorf("%s did not stop", name)
		}
	})
	w.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			w.t.Errorf("stop %s: %v", name, err)
		}
	})
	return n
}

// metric is the value of one, the sum over its labels.
func (n *node) metric(t testing.TB, name string) float64 {
	t.Helper()
	return observetest.Metric(t, n.metrics, name)
}

// ready starts a node and waits until it serves.
func (w *world) ready(name string) *node {
	w.t.Helper()
	n := w.start(name)
	eventually(w.t, func() error { return n.Ready() })
	return n
}

// eventually polls until check answers nil.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// device is a session without a socket: it routes frames as comet does, and keeps what it is delivered.
type device struct {
	w            *world
	comet        *comet
	user, device string
	app          string
	conn         uint64

	mu      sync.Mutex
	next    uint64
	answers map[uint64]chan *envelopev1.Frame
	pushes  []*envelopev1.Frame
}

// comet is the one node of all devices of a test.
type comet struct {
	mu      sync.Mutex
	devices map[uint64]*device
	words   []link.Delivery // about rooms
	lost    atomic.Int64
	epochs  link.Epochs
}

func (c *comet) Lost() { c.lost.Add(1) }

func (c *comet) LostTo(link.Users) { c.lost.Add(1) }

func (c *comet) Deliver(b *link.Batch) {
	c.epochs.Admit(b.Partition, b.Epoch)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range b.Deliveries {
		if d.Room != nil {
			c.words = append(c.words, d)
			if d.Room.Op != link.RoomAlso {
				continue
			}
		}
		if dev := c.devices[d.Conn]; dev != nil {
			dev.deliver(d.Frame)
		}
	}
}

func (w *world) comet() *comet {
	c := &comet{devices: map[uint64]*device{}, epochs: make(link.Epochs, partitions)}
	w.link.Register("comet", c)
	return c
}

func (c *comet) connect(w *world, user, name string) *device {
	w.t.Helper()
	c.mu.Lock()
	d := &device{w: w, comet: c, user: user, device: name, app: "main", conn: uint64(len(c.devices) + 1), answers: map[uint64]chan *envelopev1.Frame{}}
	c.devices[d.conn] = d
	c.mu.Unlock()
	regs := []presence.Registration{{
		User:  presence.User{App: "main", User: user},
		Entry: presence.Entry{Device: name, Node: "comet", Epoch: w.epoch, Conn: d.conn, Codec: link.CodecProto},
	}}
	if err := w.presence.Register(w.t.Context(), regs); err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (d *device) deliver(frame []byte) {
	f := &envelopev1.Frame{}
	if err := f.UnmarshalVT(frame); err != nil {
		d.w.t.Errorf("a frame that cannot be decoded: %v", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.RequestId == 0 {
		d.pushes = append(d.pushes, f)
		return
	}
	if ch := d.answers[f.RequestId]; ch != nil {
		ch <- f
		delete(d.answers, f.RequestId)
	}
}

// request is a frame to send.
type request struct {
	command         envelopev1.Command
	conversation    string
	clientID, after string
	since           uint64
	body            protocol.Message
	server          bool
}

// ask sends one frame and waits for its answer.
func (d *device) ask(r request) *envelopev1.Frame {
	d.w.t.Helper()
	ch := d.send(r)
	select {
	case f := <-ch:
		return f
	case <-time.After(20 * time.Second):
		d.w.t.Fatalf("%s: no answer to %v in %s", d.user, r.command, r.conversation)
		return nil
	}
}

func (d *device) send(r request) <-chan *envelopev1.Frame {
	d.w.t.Helper()
	var body []byte
	if r.body != nil {
		var err error
		if body, err = r.body.MarshalVT(); err != nil {
			d.w.t.Fatal(err)
		}
	}
	if r.conversation == "" {
		r.conversation = protocol.UserLog(d.user)
	}
	d.mu.Lock()
	d.next++
	id := d.next
	ch := make(chan *envelopev1.Frame, 1)
	d.answers[id] = ch
	d.mu.Unlock()
	p := protocol.Partition(d.app, r.conversation, partitions)
	if err := d.w.link.Route(p, link.Request{
		Node: "comet", Conn: d.conn, App: d.app, User: d.user, Device: d.device, Codec: link.CodecProto, Server: r.server,
		Command: r.command, RequestID: id, Conversation: r.conversation, ClientID: r.clientID, After: r.after, Since: r.since, Body: body, Epoch: d.comet.epochs.Highest(p),
	}); err != nil {
		ch <- &envelopev1.Frame{Error: err.Wire()}
	}
	return ch
}

func text(s string) *messagev1.Message {
	return &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: s}}}
}

// say sends a text, again while the answer is retryable, and returns its ack.
func (d *device) say(conversation, clientID string, since uint64, words string) *recordv1.Ack {
	d.w.t.Helper()
	ack := &recordv1.Ack{}
	eventually(d.w.t, func() error {
		f := d.ask(request{
			command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: conversation, clientID: clientID, since: since, body: text(words),
		})
		if f.Error != nil && f.Error.Retryable {
			return protocol.FromWire(f.Error)
		}
		if f.Error != nil {
			d.w.t.Fatalf("%s says %q in %s: %v", d.user, words, conversation, protocol.FromWire(f.Error))
		}
		return ack.UnmarshalVT(f.Body)
	})
	return ack
}

// refused sends a frame that must be refused with this code.
func (d *device) refused(want protocol.Code, r request) {
	d.w.t.Helper()
	f := d.ask(r)
	if f.Error == nil || protocol.Code(f.Error.Code) != want {
		d.w.t.Fatalf("%s: %v in %s answered %v, want the error %s", d.user, r.command, r.conversation, f, want)
	}
}

// records are the pushes of a conversation so far, by seq and once.
func (d *device) records(conversation string) []*recordv1.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*recordv1.Record
	for _, f := range d.pushes {
		if f.Command != envelopev1.Command_COMMAND_RECORD || f.Conversation != conversation {
			continue
		}
		r := &recordv1.Record{}
		if err := r.UnmarshalVT(f.Body); err != nil {
			d.w.t.Errorf("a record that cannot be decoded: %v", err)
			continue
		}
		if n := len(out); n > 0 && r.Seq <= out[n-1].Seq {
			continue // Delivered again.
		}
		out = append(out, r)
	}
	return out
}

func decodeAck(t testing.TB, f *envelopev1.Frame) *recordv1.Ack {
	t.Helper()
	if f.Error != nil {
		t.Fatalf("refused: %v", protocol.FromWire(f.Error))
	}
	ack := &recordv1.Ack{}
	if err := ack.UnmarshalVT(f.Body); err != nil {
		t.Fatal(err)
	}
	return ack
}

// ack sends a write and returns its ack.
func (d *device) ack(r request) *recordv1.Ack {
	d.w.t.Helper()
	return decodeAck(d.w.t, d.ask(r))
}

func (d *device) history(conversation string, after uint64) *conversationv1.HistoryReply {
	d.w.t.Helper()
	f := d.ask(request{
		command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: conversation,
		body: &conversationv1.HistoryRequest{AfterSeq: after, Limit: 200},
	})
	if f.Error != nil {
		d.w.t.Fatalf("history: %v", protocol.FromWire(f.Error))
	}
	h := &conversationv1.HistoryReply{}
	if err := h.UnmarshalVT(f.Body); err != nil {
		d.w.t.Fatal(err)
	}
	return h
}

// hasSeqs reports how the pushed records differ from these.
func (d *device) hasSeqs(conversation string, want ...uint64) error {
	var got []uint64
	for _, r := range d.records(conversation) {
		got = append(got, r.Seq)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s has %v of %s pushed, want %v", d.user, got, conversation, want)
	}
	return nil
}

func (d *device) hasAtLeast(conversation string, n int) error {
	if got := len(d.records(conversation)); got < n {
		return fmt.Errorf("%s has %d records of %s pushed, want %d", d.user, got, conversation, n)
	}
	return nil
}

// storeLog does what job does: every record of the log goes to the store, and the history follower's floor to the tail.
func (w *world) storeLog() {
	w.t.Helper()
	for p := range partitions {
		log := bustest.OpenLog(w.t, w.conn, p)
		f, err := log.Follow(w.t.Context(), "history", bus.FollowOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		for {
			blocks, err := f.Fetch(w.t.Context(), 100, 1<<20, 50*time.Millisecond)
			if err != nil {
				w.t.Fatal(err)
			}
			if len(blocks) == 0 {
				break
			}
			for _, m := range blocks {
				b := &logv1.Block{}
				if err := logblock.Decode(m.Data, b); err != nil {
					w.t.Fatal(err)
				}
				if err := w.store.Append(w.t.Context(), b.Records); err != nil {
					w.t.Fatal(err)
				}
				if err := m.Ack(); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		eventually(w.t, func() error {
			floor, pending, err := f.Floor(w.t.Context())
			if err == nil && pending > 0 {
				err = fmt.Errorf("partition %d: floor %d, %d pending", p, floor, pending)
			}
			return err
		})
		f.Close()
	}
}

// heads asks where conversations stand.
func (d *device) heads(conversations ...string) []*conversationv1.Head {
	d.w.t.Helper()
	reply := &conversationv1.HeadsReply{}
	eventually(d.w.t, func() error {
		f := d.ask(request{
			command: envelopev1.Command_COMMAND_CONVERSATION_HEADS, body: &conversationv1.HeadsRequest{Conversations: conversations},
		})
		if f.Error != nil {
			return protocol.FromWire(f.Error)
		}
		return reply.UnmarshalVT(f.Body)
	})
	return reply.Heads
}

// standings does what job's userlog follower does: one batch of standings in g:x for a user's log. It returns the code of each answer,
// empty where it was taken.
func (w *world) standings(partition int, userLog string, seqs ...uint64) []string {
	w.t.Helper()
	return w.standingsIn("g:x", partition, userLog, seqs...)
}

func (w *world) standingsIn(conversation string, partition int, userLog string, seqs ...uint64) []string {
	w.t.Helper()
	batch := &linkv1.RequestBatch{}
	for i, seq := range seqs {
		body, err := (&recordv1.Standing{Conversation: conversation, Seq: seq, Member: true, JoinedSeq: 1}).MarshalVT()
		if err != nil {
			w.t.Error(err)
		}
		batch.Requests = append(batch.Requests, &linkv1.Request{
			Conn: uint64(i), App: "main", User: userLog[2:], Command: protocol.CommandStanding, Conversation: userLog,
			ClientId: fmt.Sprint("s-", conversation, "-", seq), Since: math.MaxUint64, Body: body, Server: true,
		})
	}
	data, err := batch.MarshalVT()
	if err != nil {
		w.t.Error(err)
	}
	answer, err := w.conn.Request(context.Background(), protocol.SubjectServer(partition), data)
	if err != nil {
		w.t.Error(err)
		return nil
	}
	out := &linkv1.DeliveryBatch{}
	if err := out.UnmarshalVT(answer); err != nil {
		w.t.Error(err)
	}
	codes := make([]string, len(seqs))
	for i := range codes {
		codes[i] = "unanswered"
	}
	for _, d := range out.Deliveries {
		f := &envelopev1.Frame{}
		if err := f.UnmarshalVT(d.Frame); err != nil {
			w.t.Error(err)
		}
		codes[d.Conns[0]] = f.Error.GetCode()
	}
	return codes
}
