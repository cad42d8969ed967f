package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/job"
	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/link/natslink"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/pebble"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// wireWorld is one logic node, one job and several comets on a bus, with the line where it is shipped. Its devices speak the protocol
// bare: they ask for history when they connect and when they are told to resync, and never because they miss something. So what a
// push should have brought and did not is not made good in silence.
type wireWorld struct {
	t        *testing.T
	rnd      *rand.Rand
	comets   []*comettest.Node
	registry *prometheus.Registry // of the logic node
	// Of the links of the asking node and of the comets, in this order.
	links  []*prometheus.Registry
	caller *logic.Caller
	group  string

	// What the members are to see. Changed by the test's goroutine alone.
	intervals map[string]memberIntervals
	members   int
	acked     sync.Mutex
	writes    int
	last      uint64 // the highest seq that was acknowledged
}

const (
	wirePartitions = 4
	wireComets     = 3
)

// wireSettings are what a test may want otherwise.
type wireSettings struct {
	logic    logic.Config
	comet    comet.Config
	presence func(presence.Registry) presence.Registry // as logic sees it
	store    func(store.Store) store.Store             // as logic sees it
	registry presence.Registry
	attach   func(link.Inbox) link.Inbox
	comets   int
	conn     *bus.Conn // nil: to a server of its own, that nobody else can reach
	log      *slog.Logger
}

func startWire(t *testing.T, seed uint64, change ...func(*wireSettings)) *wireWorld {
	t.Helper()
	w := &wireWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), registry: prometheus.NewRegistry(), intervals: map[string]memberIntervals{}}
	set := wireSettings{
		logic: logic.Default(), comet: comettest.Config(), comets: wireComets, log: slog.New(slog.DiscardHandler),
	}
	set.presence = func(r presence.Registry) presence.Registry { return r }
	set.store = func(s store.Store) store.Store { return s }
	set.attach = func(in link.Inbox) link.Inbox { return in }
	set.registry = memory.New(time.Now)
	set.comet.SessionsPerUser = 4
	for _, f := range change {
		f(&set)
	}
	conn, log := set.conn, set.log
	if conn == nil {
		conn = bustest.Open(t, bus.Config{Embedded: bustest.StartEmbedded(t)})
	}
	bustest.Create(t, conn, bus.LogConfig{Partitions: wirePartitions, Replicas: 1, MaxBytes: 256 << 20})
	history, err := pebble.Open(t.TempDir(), pebble.Default(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := history.Close(); err != nil {
			t.Error(err)
		}
	})
	registry := set.registry
	owner, err := natslink.NewOwner(conn, "logic", natslink.Default(), natslink.OwnerDeps{Log: log, Metrics: w.registry, EncodeError: partition.EncodeError})
	if err != nil {
		t.Fatal(err)
	}
	w.run(owner.Run)
	<-owner.Ready()
	asking, to := w.link(conn, "asking")
	w.caller = logic.NewCaller("asking", asking)
	to.Node = w.caller
	w.run(asking.Run)
	<-asking.Ready()
	deciding, err := logic.New(set.logic, logic.Deps{
		Node: "logic", Log: conn, Bus: conn, Store: set.store(history), Presence: set.presence(registry), Sender: owner, Caller: w.caller,
		Attach: func(p int, epoch uint64, in link.Inbox) (func(), error) {
			return owner.Attach(p, epoch, set.attach(in))
		},
		Logger: log, Metrics: w.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.run(deciding.Run)
	w.run(job.New(job.Default(), job.Deps{Conn: conn, Partitions: wirePartitions, Store: history, Log: log, Metrics: prometheus.NewRegistry()}).Run)
	for i := range set.comets {
		name := fmt.Sprint("comet-", i)
		node, to := w.link(conn, name)
		metrics := prometheus.NewRegistry()
		c, err := comet.New(set.comet, comet.Deps{
			Node: name, Router: node, Presence: registry, Auth: comettest.Auth{}, Tickets: comettest.Tickets(), Log: log, Metrics: metrics, Kick: owner.Send,
		})
		if err != nil {
			t.Fatal(err)
		}
		to.Node = c
		w.run(node.Run)
		<-node.Ready()
		w.run(c.Run)
		<-c.Started()
		w.comets = append(w.comets, &comettest.Node{Comet: c, Registry: metrics})
	}
	w.wait("the partitions are served", deciding.Ready)
	return w
}

func (w *wireWorld) link(conn *bus.Conn, id string) (*natslink.Node, *receiver) {
	w.t.Helper()
	to, metrics := &receiver{}, prometheus.NewRegistry()
	w.links = append(w.links, metrics)
	node, err := natslink.NewNode(conn, id, wirePartitions, natslink.Default(), natslink.NodeDeps{
		Log: slog.New(slog.DiscardHandler), Metrics: metrics, Receiver: to, EncodeError: partition.EncodeError,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return node, to
}

// run runs a part until the test ends; what was started last ends first.
func (w *wireWorld) run(part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
	})
}

func (w *wireWorld) wait(what string, check func() error) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for err := check(); err != nil; err = check() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in time: %v", what, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// write asks the owner of the group for a write until it is acknowledged, and returns its seq.
func (w *wireWorld) write(command envelopev1.Command, body protocol.Message) (uint64, error) {
	w.acked.Lock()
	w.writes++
	r := link.Request{
		App: "main", User: "owner", Device: "server", Codec: link.CodecProto, Server: true, Command: command, RequestID: 1,
		Conversation: w.group, ClientID: fmt.Sprint("w", w.writes), Since: 1 << 62,
	}
	w.acked.Unlock()
	var err error
	if r.Body, err = protocol.EncodeBody(false, body); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		var ack recordv1.Ack
		var refused *protocol.Error
		err := w.caller.Call(ctx, []link.Request{r}, func(_ int, f *envelopev1.Frame) {
			if f.Error != nil {
				refused = protocol.Errorf(protocol.Code(f.Error.Code), "%s", f.Error.Message)
			} else if err := ack.UnmarshalVT(f.Body); err != nil {
				refused = protocol.Errorf(protocol.CodeInvalid, "%v", err)
			}
		})
		switch {
		case err != nil:
			return 0, err
		case refused == nil:
			w.acked.Lock()
			w.last = max(w.last, ack.Seq)
			w.acked.Unlock()
			return ack.Seq, nil
		case !refused.Code.Retryable():
			return 0, refused
		}
	}
}

func (w *wireWorld) mustWrite(command envelopev1.Command, body protocol.Message) uint64 {
	w.t.Helper()
	seq, err := w.write(command, body)
	if err != nil {
		w.t.Fatalf("%v: %v", command, err)
	}
	return seq
}

func (w *wireWorld) say() (uint64, error) {
	return w.write(envelopev1.Command_COMMAND_MESSAGE_SEND, &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: "hello"}}})
}

// active reports whether the user is a member now.
func (w *wireWorld) active(user string) bool {
	m := w.intervals[user]
	return len(m) > 0 && m[len(m)-1][1] == 0
}

// change has some users join, or leave.
func (w *wireWorld) change(join bool, users []string) {
	w.t.Helper()
	if join {
		seq := w.mustWrite(envelopev1.Command_COMMAND_CONVERSATION_ADD, &conversationv1.AddRequest{Members: users})
		for _, user := range users {
			w.intervals[user] = append(w.intervals[user], [2]uint64{seq, 0})
		}
		w.members += len(users)
		return
	}
	seq := w.mustWrite(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, &conversationv1.RemoveRequest{Members: users})
	for _, user := range users {
		w.intervals[user][len(w.intervals[user])-1][1] = seq
	}
	w.members -= len(users)
}

// wireDevice is a device that keeps what it gets, apart by how it came.
type wireDevice struct {
	w    *wireWorld
	user string
	name string

	mu      sync.Mutex
	client  *comettest.Client
	done    chan struct{}
	wrong   string          // the first thing that must not be
	last    uint64          // of this session's pushes
	pushed  map[uint64]bool // in any session
	have    map[uint64]bool // pushed or asked for
	synced  uint64          // all up to here was asked for
	asking  bool
	again   bool // a resync came while the history was being asked for
	resyncs int
}

// connect opens a session on any comet and reads it until it ends.
func (d *wireDevice) connect() {
	d.w.t.Helper()
	c := d.w.comets[d.w.rnd.IntN(len(d.w.comets))].Connect(d.w.t, comettest.TCP(), "main/"+d.user+"/"+d.name)
	if err := c.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		d.w.t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.client, d.done, d.last, d.asking, d.again = c, make(chan struct{}), 0, false, false
	d.sync()
	go d.read(c, d.done)
}

func (d *wireDevice) disconnect() {
	if d.client == nil {
		return
	}
	_ = d.client.Close()
	<-d.done
	d.client = nil
}

// sync asks for all records behind what was asked for before.
func (d *wireDevice) sync() {
	if d.asking {
		d.again = true
		return
	}
	d.asking = true
	d.history(d.synced)
}

func (d *wireDevice) history(after uint64) {
	body := d.client.Body(&conversationv1.HistoryRequest{AfterSeq: after, Limit: 200})
	_, err := d.client.Write(d.client.Bytes(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, RequestId: after + 2, Conversation: d.w.group, Body: body,
	}))
	if err != nil && !errors.Is(err, io.EOF) {
		d.asking = false // The session ends; the next one asks.
	}
}

func (d *wireDevice) read(c *comettest.Client, done chan struct{}) {
	defer close(done)
	for {
		f, err := c.TryRecv()
		if err != nil {
			return
		}
		d.mu.Lock()
		d.take(f)
		d.mu.Unlock()
	}
}

func (d *wireDevice) fail(format string, args ...any) {
	if d.wrong == "" {
		d.wrong = fmt.Sprintf(format, args...)
	}
}

func (d *wireDevice) take(f *envelopev1.Frame) {
	switch {
	case f.Command == envelopev1.Command_COMMAND_RESYNC:
		d.resyncs++
		d.sync()
	case f.Command == envelopev1.Command_COMMAND_RECORD && f.Conversation == d.w.group:
		var r recordv1.Record
		if err := r.UnmarshalVT(f.Body); err != nil {
			d.fail("a push that cannot be read: %v", err)
			return
		}
		if r.Seq <= d.last {
			d.fail("pushed %d behind %d", r.Seq, d.last)
		}
		d.last = r.Seq
		d.pushed[r.Seq], d.have[r.Seq] = true, true
	case f.Command == envelopev1.Command_COMMAND_CONVERSATION_HISTORY:
		d.answered(f)
	}
}

// answered takes a page of history. Who has never been a member is told of no conversation, and what is refused is asked for again
// with the next resync or session.
func (d *wireDevice) answered(f *envelopev1.Frame) {
	var reply conversationv1.HistoryReply
	err := reply.UnmarshalVT(f.Body)
	switch {
	case f.Error != nil && protocol.Code(f.Error.Code).Retryable():
		d.history(f.RequestId - 2)
		return
	case f.Error == nil && err != nil:
		d.fail("history that cannot be read: %v", err)
	case f.Error == nil:
		for _, r := range reply.Records {
			d.have[r.Seq] = true
		}
		if n := len(reply.Records); reply.More && n > 0 {
			d.history(reply.Records[n-1].Seq)
			return
		}
		d.synced = max(d.synced, reply.HeadSeq)
	}
	if d.asking = false; d.again {
		d.again = false
		d.sync()
	}
}

// lacks says in what the device differs from what its user may see.
func (d *wireDevice) lacks(head uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrong != "" {
		return errors.New(d.wrong)
	}
	want := d.w.intervals[d.user].seqs(head)
	if have := slices.Sorted(maps.Keys(d.have)); !slices.Equal(have, want) {
		return fmt.Errorf("has %v, want %v", summary(have), summary(want))
	}
	return nil
}

// wasPushed says which of the records no push brought.
func (d *wireDevice) wasPushed(from, to uint64, member bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for seq := from; seq <= to; seq++ {
		if d.pushed[seq] != member {
			return fmt.Errorf("pushed %d: %v, want %v; of %d to %d it has %v, %d resyncs", seq, d.pushed[seq], member, from, to, summary(slices.Sorted(maps.Keys(d.pushed))), d.resyncs)
		}
	}
	return nil
}

// A group of more than 200 shrinks below the line and grows above it, again and again, while two talk and a third of the devices come and
// go on three comets. Each device gets each record of its user's time once and in order, and none other; and what is sent while nothing
// changes is pushed to all, on either side of the line.
func TestMembersOnSeveralNodesSeeExactlyTheirsAcrossTheLine(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := startWire(t, seed)
	const users, low, high = 225, 140, 210
	names := make([]string, users)
	for i := range names {
		names[i] = fmt.Sprintf("user%03d", i)
	}
	w.group = protocol.Group("main", "owner", "w1")
	created := w.mustWrite(envelopev1.Command_COMMAND_CONVERSATION_CREATE, &conversationv1.CreateRequest{Name: "wire", Members: names[:low]})
	for _, user := range names[:low] {
		w.intervals[user] = memberIntervals{{created, 0}}
	}
	w.members = low + 1
	devices := make([]*wireDevice, users)
	for i, user := range names {
		devices[i] = &wireDevice{w: w, user: user, name: "phone", pushed: map[uint64]bool{}, have: map[uint64]bool{}}
		devices[i].connect()
	}
	stop := w.talk(2)
	expansions := w.expansions()
	for range 3 {
		w.shift(devices, names, true, high)
		w.shift(devices, names, false, low)
	}
	w.shift(devices, names, true, high)
	stop()
	w.settled(devices)
	if n := w.expansions() - expansions; n == 0 {
		t.Error("nothing went by rooms")
	}
	for _, up := range []bool{true, false} {
		if !up {
			w.shift(nil, names, false, low)
			w.settled(devices)
		}
		w.quiet(devices, up)
	}
	resyncs := 0
	for _, d := range devices {
		d.disconnect()
		resyncs += d.resyncs
	}
	t.Logf("%d records, %.0f frames to rooms, %d resyncs", w.head(), w.expansions()-expansions, resyncs)
}

// talk has some senders talk until stop.
func (w *wireWorld) talk(senders int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var talking sync.WaitGroup
	for range senders {
		talking.Go(func() {
			for ctx.Err() == nil {
				if _, err := w.say(); err != nil {
					w.t.Errorf("send: %v", err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(3 * time.Millisecond):
				}
			}
		})
	}
	return func() { cancel(); talking.Wait() }
}

// shift has members join, or leave, a few at a time, until there are so many, and devices come and go meanwhile.
func (w *wireWorld) shift(devices []*wireDevice, names []string, join bool, until int) {
	w.t.Helper()
	for w.members != until {
		most := min(1+w.rnd.IntN(25), max(until-w.members, w.members-until))
		var some []string
		for _, i := range w.rnd.Perm(len(names)) {
			if len(some) < most && w.active(names[i]) != join {
				some = append(some, names[i])
			}
		}
		w.change(join, some)
		for i := 0; i < 5 && devices != nil; i++ {
			if d := devices[w.rnd.IntN(len(devices)/3)*3]; d.client != nil {
				d.disconnect()
			} else {
				d.connect()
			}
		}
		<-time.After(time.Duration(w.rnd.IntN(120)) * time.Millisecond)
	}
	if w.rnd.IntN(2) == 0 { // The users' logs catch up, so that pushes go by rooms alone.
		<-time.After(1500 * time.Millisecond)
	}
}

func (w *wireWorld) head() uint64 {
	seq, err := w.say()
	if err != nil {
		w.t.Fatal(err)
	}
	return seq
}

// settled waits until each device has what is its user's, and no more.
func (w *wireWorld) settled(devices []*wireDevice) {
	w.t.Helper()
	for _, d := range devices {
		if d.client == nil {
			d.connect()
		}
	}
	head := w.head()
	for _, d := range devices {
		w.wait(fmt.Sprintf("%s, member in %v, head %d", d.user, w.intervals[d.user], head), func() error { return d.lacks(head) })
	}
}

// quiet sends while nothing changes: every member is pushed everything, nobody else anything.
func (w *wireWorld) quiet(devices []*wireDevice, large bool) {
	w.t.Helper()
	before := w.expansions()
	first := w.head()
	last := first
	for range 30 {
		last = w.head()
	}
	for _, d := range devices {
		w.wait(d.user, func() error { return d.wasPushed(first, last, w.active(d.user)) })
	}
	for _, d := range devices {
		if err := d.lacks(last); err != nil {
			w.t.Errorf("%s: %v", d.user, err)
		}
	}
	if went := w.expansions() - before; (went > 0) != large {
		w.t.Errorf("large: %v, but %.0f frames went to rooms", large, went)
	}
}

func (w *wireWorld) expansions() float64 {
	return w.counter(w.registry, "halley_logic_expansions_total")
}

// counter is the sum of a metric over its labels.
func (w *wireWorld) counter(of *prometheus.Registry, name string) (sum float64) {
	w.t.Helper()
	families, err := of.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}
