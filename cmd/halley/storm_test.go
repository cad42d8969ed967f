package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence/redis/redistest"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/observed"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// balancer spreads connections over comets, and can cut all of them.
type balancer struct {
	listener net.Listener
	targets  []string
	next     int

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func startBalancer(t *testing.T, targets ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: l, targets: targets, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			target := b.targets[b.next%len(b.targets)]
			b.next++
			wg.Go(func() { b.carry(c, target) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.cut()
		wg.Wait()
	})
	return b
}

// carry takes one connection to its comet and back.
func (b *balancer) carry(c net.Conn, target string) {
	defer func() { _ = c.Close() }()
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	b.mu.Lock()
	down := b.down
	b.conns[c] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, c)
	}()
	if down {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, to)
		_ = c.Close()
	})
	_, _ = io.Copy(to, c)
	_ = to.Close()
	back.Wait()
}

// cut ends all connections and lets none in until up.
func (b *balancer) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	for c := range b.conns {
		_ = c.Close()
	}
}

func (b *balancer) up() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = false
}

// asked counts requests on their way into partitions, by command.
type asked struct {
	mu sync.Mutex
	n  map[envelopev1.Command]int
}

type askedInbox struct {
	*asked
	link.Inbox
}

func (a askedInbox) Enqueue(r link.Request) *protocol.Error {
	a.mu.Lock()
	a.n[r.Command]++
	a.mu.Unlock()
	return a.Inbox.Enqueue(r)
}

// stormDevice is a device of a user that keeps count of what it is shown.
type stormDevice struct {
	user   string
	client *client.Client

	mu        sync.Mutex
	connects  int
	recovered int
	seqs      map[string]uint64 // the last one shown, by conversation
	wrong     string
}

func (d *stormDevice) handle(e client.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e := e.(type) {
	case client.State:
		switch {
		case e.Recovered:
			d.recovered++
		case e.Connected:
			d.connects++
		}
	case client.Record:
		if last := d.seqs[e.Conversation]; e.Seq != last+1 && d.wrong == "" {
			d.wrong = fmt.Sprintf("%s: record %d behind %d", e.Conversation, e.Seq, last)
		}
		d.seqs[e.Conversation] = e.Seq
	}
}

// storm is a number of devices in conversations with each other, behind a balancer.
type storm struct {
	*wireWorld
	balancer *balancer
	devices  []*stormDevice
	metrics  *prometheus.Registry // of store and presence
	asked    *asked

	heads map[string]uint64 // the last record, by conversation
	of    map[string][]string
}

const (
	stormDevices = 240
	stormGroup   = 12
)

func startStorm(t *testing.T) *storm {
	t.Helper()
	s := &storm{
		metrics: prometheus.NewRegistry(), asked: &asked{n: map[envelopev1.Command]int{}},
		heads: map[string]uint64{}, of: map[string][]string{},
	}
	address := redistest.Start(t)
	s.wireWorld = startWire(t, 1, func(set *wireSettings) {
		set.logic.Partition.LargeMembers = 16
		set.comet.AcceptRate, set.comet.AcceptBurst = stormDevices/6, stormDevices/6
		set.registry = redistest.Open(t, address, s.metrics)
		set.attach = func(in link.Inbox) link.Inbox { return askedInbox{s.asked, in} }
		set.store = func(st store.Store) store.Store {
			seen, err := observed.New(st, s.metrics)
			if err != nil {
				t.Fatal(err)
			}
			return seen
		}
	})
	targets := make([]string, len(s.comets))
	for i, c := range s.comets {
		targets[i] = c.Addr("tcp").String()
	}
	s.balancer = startBalancer(t, targets...)
	return s
}

func stormUser(i int) string { return fmt.Sprintf("user%04d", i%stormDevices) }

// do has a server write until it is acknowledged.
func (s *storm) do(command envelopev1.Command, conversation, clientID string, body protocol.Message) {
	s.t.Helper()
	data, err := protocol.EncodeBody(false, body)
	if err != nil {
		s.t.Fatal(err)
	}
	user := "owner"
	if protocol.KindOf(conversation) == protocol.KindDirect {
		user, _ = protocol.Peers(conversation)
	}
	s.wait(conversation, func() error {
		var ack recordv1.Ack
		err := s.caller.One(s.t.Context(), link.Request{
			App: "main", User: user, Device: "server", Codec: link.CodecProto, Server: true, Command: command, RequestID: 1,
			Conversation: conversation, ClientID: clientID, Since: s.heads[conversation], Body: data,
		}, &ack)
		if err == nil {
			s.heads[conversation] = ack.Seq
		}
		return err
	})
}

// populate makes the conversations: for each user three 1:1 begun and three that others began, four small groups and a large one.
func (s *storm) populate() {
	var everybody []string
	for i := range stormDevices {
		everybody = append(everybody, stormUser(i))
		for k := 1; k <= 3; k++ {
			a, b := stormUser(i), stormUser(i+k)
			s.of[protocol.Direct(a, b)] = []string{a, b}
		}
	}
	for id := range s.of {
		s.do(envelopev1.Command_COMMAND_MESSAGE_SEND, id, "first", client.Text("hello"))
	}
	group := func(name string, members []string) {
		id := protocol.Group("main", "owner", name)
		s.do(envelopev1.Command_COMMAND_CONVERSATION_CREATE, id, name, &conversationv1.CreateRequest{Name: name, Members: members})
		s.of[id] = members
	}
	group("everybody", everybody)
	for i := 0; i < stormDevices; i += stormGroup {
		for k := range 4 {
			members := make([]string, stormGroup)
			for j := range members {
				members[j] = stormUser(i + j*(1+k*stormGroup))
			}
			slices.Sort(members)
			group(fmt.Sprint("group", i, ".", k), slices.Compact(members))
		}
	}
}

// send writes to every group, and to one 1:1 of three. To some it writes twice.
func (s *storm) send(name string) {
	for id, members := range s.of {
		if len(members) == 2 && id[len(id)-1]%3 != 0 {
			continue
		}
		s.do(envelopev1.Command_COMMAND_MESSAGE_SEND, id, name, client.Text(name))
		if len(members) == 2 && id[len(id)-2]%2 == 0 {
			s.do(envelopev1.Command_COMMAND_MESSAGE_SEND, id, name+"again", client.Text(name))
		}
	}
}

func (s *storm) connect() {
	for i := range stormDevices {
		d := &stormDevice{user: stormUser(i), seqs: map[string]uint64{}}
		s.devices = append(s.devices, d)
		c, err := client.New(client.Options{
			URL: "tcp://" + s.balancer.listener.Addr().String(), Handler: d.handle, Start: client.StartAtJoin,
			Token:  func(context.Context) (string, error) { return "main/" + d.user + "/phone", nil },
			Limits: client.Limits{BackOffFirst: 100 * time.Millisecond, BackOffMost: time.Second},
		})
		if err != nil {
			s.t.Fatal(err)
		}
		d.client = c
		s.run(c.Run)
	}
}

// complete waits until every device is, in its n-th session.
func (s *storm) complete(sessions int) {
	s.t.Helper()
	for _, d := range s.devices {
		s.wait(d.user, func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.wrong != "" {
				return errors.New(d.wrong)
			}
			if d.connects != sessions || d.recovered != sessions {
				return fmt.Errorf("connected %d times, recovered %d times, want %d", d.connects, d.recovered, sessions)
			}
			for id, members := range s.of {
				if slices.Contains(members, d.user) && d.seqs[id] != s.heads[id] {
					return fmt.Errorf("%s: shown up to %d of %d", id, d.seqs[id], s.heads[id])
				}
			}
			return nil
		})
	}
}

// spent is what has been done so far for devices, by name.
func (s *storm) spent() map[string]float64 {
	out := map[string]float64{
		"Redis commands": s.counter(s.metrics, "halley_presence_redis_commands_total"),
		"bus messages":   s.counter(s.registry, "halley_link_batches_total"),
	}
	for _, end := range s.links {
		out["bus messages"] += s.counter(end, "halley_link_batches_total")
	}
	for _, c := range s.comets {
		out["frames"] += c.Metric(s.t, "halley_comet_frames_received_total")
		out["resyncs"] += c.Metric(s.t, "halley_comet_resyncs_total")
		out["sessions by ticket"] += c.Metric(s.t, "halley_comet_resumed_total")
		out["refusals"] += c.Metric(s.t, "halley_comet_accepts_total", "result=accept_rate")
	}
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "halley_store_seconds" && !slices.Contains(storeWrites, m.GetLabel()[0].GetValue()) {
				out["store reads"] += float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	for command, n := range s.asked.n {
		if name := askedNames[command]; name != "" {
			out[name] += float64(n)
		}
	}
	return out
}

var storeWrites = []string{"append", "set_cursors", "put_standings", "touch"}

var askedNames = map[envelopev1.Command]string{
	protocol.CommandAttach: "attaches", envelopev1.Command_COMMAND_CONVERSATION_HEADS: "questions for heads", protocol.CommandHeadOf: "heads",
	envelopev1.Command_COMMAND_CONVERSATION_HISTORY: "questions for history", envelopev1.Command_COMMAND_RECEIPT_READ: "read marks",
}

// read has every device mark its groups read.
func (s *storm) read() {
	s.t.Helper()
	var all sync.WaitGroup
	for _, d := range s.devices {
		all.Go(func() {
			for id, members := range s.of {
				if protocol.KindOf(id) == protocol.KindGroup && slices.Contains(members, d.user) {
					if _, err := d.client.MarkRead(s.t.Context(), id, s.heads[id]); err != nil {
						s.t.Errorf("%s reads %s: %v", d.user, id, err)
					}
				}
			}
		})
	}
	all.Wait()
}

// quiet waits until nothing is asked of partitions any more: users' logs have been told of everything.
func (s *storm) quiet() {
	s.t.Helper()
	sum := func() (n int) {
		s.asked.mu.Lock()
		defer s.asked.mu.Unlock()
		for _, k := range s.asked.n {
			n += k
		}
		return n
	}
	last, since := sum(), time.Now()
	s.wait("quiet", func() error {
		if n := sum(); n != last {
			last, since = n, time.Now()
		}
		if still := time.Since(since); still < time.Second {
			return fmt.Errorf("requests came %v ago", still)
		}
		return nil
	})
}

// All devices lose their connections at once and come back. Each does so once, misses nothing, and costs no more than it must.
func TestAStormOfAllConnections(t *testing.T) {
	s := startStorm(t)
	s.populate()
	s.quiet()
	s.connect()
	s.complete(1)
	s.read()
	s.balancer.cut()
	s.send("missed")
	s.quiet()
	before := s.spent()
	s.balancer.up()
	from := time.Now()
	s.complete(2)
	took := time.Since(from)
	after := s.spent()
	var report []string
	each := func(name string, most float64) {
		t.Helper()
		n := (after[name] - before[name]) / stormDevices
		report = append(report, fmt.Sprintf("%.2f %s", n, name))
		if n > most {
			t.Errorf("%.2f %s for each device; %.2f are enough", n, name, most)
		}
	}
	each("frames", 5)                // connect, the question for heads, and history where two or more are missing
	each("questions for heads", 1.5) // a resync is one more
	each("heads", 20)                // 12 conversations and the user's log
	each("questions for history", 2)
	each("read marks", 0.5)
	each("attaches", 1.5)
	each("bus messages", 30)
	each("store reads", 0.5) // all is in memory
	each("Redis commands", 3)
	each("resyncs", 0.5)
	each("refusals", 5)
	each("sessions by ticket", 1)
	if n := after["sessions by ticket"] - before["sessions by ticket"]; n < stormDevices {
		t.Errorf("only %.0f sessions were let in by a ticket", n)
	}
	t.Logf("%d devices in %d conversations were complete after %v; for each: %s",
		stormDevices, len(s.of), took.Round(time.Millisecond), strings.Join(report, ", "))
	if after["refusals"] == before["refusals"] {
		t.Error("the gate let all in at once")
	}
}
