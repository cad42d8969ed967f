package signal_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/feature/signal"
	"github.com/halley-im/halley/logic/state"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

const (
	app = "main"
	// Longer than two polls, shorter than a watch.
	someTime = 5 * time.Second
)

// registry is presence in memory that may fall silent.
type registry struct {
	presence.Registry
	silent  atomic.Bool
	largest atomic.Int64
}

func (r *registry) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	if r.silent.Load() {
		return nil, presence.ErrUnavailable
	}
	r.largest.Store(max(r.largest.Load(), int64(len(users))))
	return r.Registry.Lookup(ctx, users, dst)
}

// world is Watches at work, with presence and the nodes that sessions are at. It lives in a bubble of synctest, whose clock moves when all wait.
type world struct {
	t        *testing.T
	registry *registry
	metrics  *prometheus.Registry
	handlers map[envelopev1.Command]feature.Handler
	epoch    map[string]uint64
	conns    uint64
	pushes   chan push
}

// push is a presence frame as a node got it.
type push struct {
	node  string
	conn  uint64
	frame *byte // whose
	text  string
}

func inBubble(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now() // Leases do not end here.
		w := &world{
			t: t, registry: &registry{Registry: memory.New(func() time.Time { return start })}, metrics: prometheus.NewRegistry(),
			epoch: map[string]uint64{}, pushes: make(chan push, 10_000),
		}
		for _, node := range []string{"comet-1", "comet-2"} {
			epoch, err := w.registry.Acquire(t.Context(), node)
			if err != nil {
				t.Fatal(err)
			}
			w.epoch[node] = epoch
		}
		watches := signal.NewWatches(w.registry, w, slog.New(slog.DiscardHandler), w.metrics)
		w.handlers = signal.Feature{Watches: watches}.Handlers()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watches.Run(ctx)
		}()
		defer func() {
			cancel()
			<-done
		}()
		test(w)
	})
}

// Send implements link.Sender.
func (w *world) Send(node string, b *link.Batch) {
	if b.Epoch != 0 {
		w.t.Errorf("a batch under epoch %d", b.Epoch)
	}
	for _, d := range b.Deliveries {
		var f envelopev1.Frame
		var p signalv1.Presence
		isJSON := d.Frame[0] == '{'
		if isJSON {
			if err := protocol.DecodeJSONFrame(d.Frame, &f); err != nil {
				w.t.Error(err)
			}
		} else if err := f.UnmarshalVT(d.Frame); err != nil {
			w.t.Error(err)
		}
		if err := protocol.DecodeBody(isJSON, f.Body, &p); err != nil {
			w.t.Error(err)
		}
		if f.Command != envelopev1.Command_COMMAND_PRESENCE || f.Conversation != "" || d.Generation == 0 {
			w.t.Errorf("delivery %v, generation %d", &f, d.Generation)
		}
		w.pushes <- push{node, d.Conn, &d.Frame[0], text(&p)}
	}
}

// Skip implements link.Sender.
func (w *world) Skip() { w.t.Error("Skip: presence is no reason to resync") }

// SkipUsers implements link.Sender.
func (w *world) SkipUsers(link.Users) { w.Skip() }

// text is what a session was told, in a form that can be compared.
func text(p *signalv1.Presence) string {
	out := p.User + " offline"
	if p.Online {
		out = p.User + " online"
	}
	if p.Degraded {
		out += "?"
	}
	return out
}

// device is a connected session.
type device struct {
	w    *world
	reg  presence.Registration
	user string
}

// connect registers a session as its node does.
func (w *world) connect(user, node string, codec link.Codec) *device {
	w.t.Helper()
	w.conns++
	d := &device{w, presence.Registration{
		User: presence.User{App: app, User: user},
		Entry: presence.Entry{
			Device: fmt.Sprint("device-", w.conns), Node: node, Epoch: w.epoch[node], Conn: w.conns, Codec: codec,
		},
	}, user}
	d.register()
	return d
}

func (d *device) register() {
	regs := []presence.Registration{d.reg}
	if err := d.w.registry.Register(d.w.t.Context(), regs); err != nil {
		d.w.t.Fatal(err)
	}
	d.reg = regs[0]
}

func (d *device) disconnect() {
	if err := d.w.registry.Unregister(d.w.t.Context(), []presence.Registration{d.reg}); err != nil {
		d.w.t.Fatal(err)
	}
}

func (d *device) request(c *state.Conversation, command envelopev1.Command, m protocol.Message) *link.Request {
	body, err := protocol.EncodeBody(d.reg.Entry.Codec == link.CodecJSON, m)
	if err != nil {
		d.w.t.Fatal(err)
	}
	return &link.Request{
		Node: d.reg.Entry.Node, Conn: d.reg.Entry.Conn, App: app, User: d.user, Device: d.reg.Entry.Device,
		Codec: d.reg.Entry.Codec, Command: command, Conversation: c.ID, Body: body,
	}
}

// watch asks as a partition does that has found the caller a member.
func (d *device) watch(c *state.Conversation, users ...string) (*signalv1.WatchReply, *protocol.Error) {
	command := envelopev1.Command_COMMAND_SIGNAL_WATCH
	return d.w.ask(c, d.request(c, command, &signalv1.WatchRequest{Users: users}))
}

func (w *world) ask(c *state.Conversation, r *link.Request) (*signalv1.WatchReply, *protocol.Error) {
	w.t.Helper()
	out := w.handlers[r.Command].Do(c, r)
	if out.Err != nil {
		return nil, out.Err
	}
	m := out.Reply
	if out.Read != nil {
		var err error
		if m, err = out.Read(w.t.Context(), feature.Services{Presence: w.registry}); err != nil {
			w.t.Fatal(err)
		}
	}
	return m.(*signalv1.WatchReply), nil
}

// sees watches and fails unless the answer is this.
func (d *device) sees(c *state.Conversation, user, want string) {
	d.w.t.Helper()
	reply, err := d.watch(c, user)
	if err != nil {
		d.w.t.Fatal(err)
	}
	if len(reply.Presences) != 1 || text(reply.Presences[0]) != want || reply.ExpiresMs != 60_000 {
		d.w.t.Fatalf("the answer: %v; want %s", reply, want)
	}
}

func (d *device) unwatch(c *state.Conversation, users ...string) {
	d.w.t.Helper()
	reply, err := d.w.ask(c, d.request(c, envelopev1.Command_COMMAND_SIGNAL_UNWATCH, &signalv1.UnwatchRequest{Users: users}))
	if err != nil || len(reply.Presences) != 0 || reply.ExpiresMs != 0 {
		d.w.t.Fatalf("unwatch: %v, %v", reply, err)
	}
}

// told are the pushes that a session got since it was asked last, after some time.
func (w *world) told() map[uint64][]string {
	time.Sleep(someTime) // Of the bubble: it returns when all that Watches did by then is done.
	synctest.Wait()
	out := map[uint64][]string{}
	for {
		select {
		case p := <-w.pushes:
			out[p.conn] = append(out[p.conn], p.text)
		default:
			return out
		}
	}
}

// expect fails unless exactly this was pushed in some time: each device's texts.
func (w *world) expect(when string, want map[*device]string) {
	w.t.Helper()
	got := w.told()
	for d, text := range want {
		if got := got[d.reg.Entry.Conn]; len(got) != 1 || got[0] != text {
			w.t.Errorf("%s: %s was told %q, want %q once", when, d.user, got, text)
		}
		delete(got, d.reg.Entry.Conn)
	}
	if len(got) > 0 {
		w.t.Errorf("%s: others were told too: %v", when, got)
	}
}

// watches is the gauge.
func (w *world) watches() int {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "halley_logic_watches" {
		w.t.Fatal(families, err)
	}
	return int(families[0].GetMetric()[0].GetGauge().GetValue())
}

// group is a conversation of these members.
func group(id string, members ...string) *state.Conversation {
	c := state.New(app, id)
	c.ApplyMembers(&logv1.Record{App: app, Conversation: id, Seq: 1, Joined: members})
	return c
}
