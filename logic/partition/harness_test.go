package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/feature/all"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// emptyStore is a history in which nothing was stored yet: all there is stands in the log.
type emptyStore struct{}

func (emptyStore) Append(context.Context, []*logv1.Record) error { return nil }
func (emptyStore) Range(context.Context, store.Conversation, uint64, uint64, int, bool) ([]*logv1.Record, error) {
	return nil, nil
}
func (emptyStore) Head(context.Context, store.Conversation) (*logv1.Record, error) { return nil, nil }
func (emptyStore) Members(context.Context, store.Conversation) ([]store.Member, error) {
	return nil, nil
}
func (emptyStore) Intervals(context.Context, store.Conversation, string) ([]store.Interval, error) {
	return nil, nil
}
func (emptyStore) SetCursors(context.Context, store.Conversation, []store.Cursor) error { return nil }
func (emptyStore) Cursor(context.Context, store.Conversation, string) (store.Cursor, error) {
	return store.Cursor{}, nil
}
func (emptyStore) PutStandings(context.Context, string, []store.UserStanding) error { return nil }
func (emptyStore) Touch(context.Context, string, []store.Touch) error               { return nil }
func (emptyStore) List(context.Context, string, string, func(store.Listing) error) error {
	return nil
}
func (emptyStore) Ping(context.Context) error { return nil }
func (emptyStore) Close() error               { return nil }

// lab is one partition's surroundings, with as many owners of it as a test wants.
type lab struct {
	t      testing.TB
	conn   *bus.Conn
	leases *bus.Leases
	link   *link.Local
	node   *answers
	cfg    Config
	// What history says, and its metrics and log lines.
	floor    atomic.Uint64
	store    store.Store
	logger   *slog.Logger
	metrics  *Metrics
	registry *prometheus.Registry
}

const labTTL = time.Second

func newLab(t testing.TB, maxBytes int64) *lab {
	t.Helper()
	conn := bustest.Connect(t, bustest.StartEmbedded(t))
	bustest.Create(t, conn, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: maxBytes})
	leases, err := bus.OpenLeases(t.Context(), conn, "test", labTTL, 1)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, conn: conn, leases: leases, link: link.NewLocal(1), node: &answers{waiting: map[uint64]chan *envelopev1.Frame{}, epochs: make(link.Epochs, 1)}, cfg: Default(),
		store: emptyStore{}, logger: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry()}
	l.metrics = NewMetrics(l.registry)
	l.link.Register("comet", l.node)
	return l
}

// partition makes a partition for a node. Each has connections to the log of its own, as nodes do.
func (l *lab) partition(name string) *Partition {
	l.t.Helper()
	features := all.Features(nil)
	handlers, err := all.Handlers(features)
	if err != nil {
		l.t.Fatal(err)
	}
	slots := make(chan struct{}, 64)
	async := func(fn func(context.Context)) bool {
		select {
		case slots <- struct{}{}:
		default:
			return false
		}
		go func() {
			defer func() { <-slots }()
			fn(context.Background())
		}()
		return true
	}
	return New(0, 1, l.cfg, Deps{
		Node: name, Log: bustest.OpenLog(l.t, l.conn, 0), Leases: l.leases,
		Floor: func(context.Context) (uint64, error) { return l.floor.Load(), nil }, UserlogFloor: func(context.Context) (uint64, error) { return 0, nil },
		Presence: memory.New(time.Now), Sender: l.link,
		Attach:   func(epoch uint64, in link.Inbox) (func(), error) { return l.link.Attach(0, epoch, in), nil },
		Handlers: handlers, Features: features, Services: feature.Services{Store: l.store},
		Go: async, Load: async, Logger: l.logger, Metrics: l.metrics,
	})
}

// reignOf is a running owner.
type reignOf struct {
	inbox  *queue
	cancel context.CancelFunc
	ended  chan error
}

// rule takes the partition over; with renew false the owner is as one that was paused: it never hears of its lease again.
func (l *lab) rule(p *Partition, renew bool) *reignOf {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := p.Candidate()
	r := &reignOf{inbox: c.o.queue, cancel: cancel, ended: make(chan error, 1)}
	serving := make(chan struct{})
	var once sync.Once
	status := func(on bool) {
		if on {
			once.Do(func() { close(serving) })
		}
	}
	run := func() error { return p.Run(ctx, c, status) }
	if !renew {
		run = func() error {
			held, err := acquire(ctx, p.Leases, 0, p.Node, p.Logger)
			if err != nil {
				return err
			}
			c.o.reign = held
			return c.o.rule(ctx, status)
		}
	}
	go func() {
		for {
			err := run()
			if errors.Is(err, ErrHeld) && ctx.Err() == nil {
				<-time.After(20 * time.Millisecond)
				continue
			}
			r.ended <- err
			return
		}
	}()
	l.t.Cleanup(cancel)
	select {
	case <-serving:
	case err := <-r.ended:
		l.t.Fatalf("%s does not serve: %v", p.Node, err)
	case <-time.After(20 * time.Second):
		l.t.Fatalf("%s does not serve in time", p.Node)
	}
	return r
}

func (r *reignOf) stop() error {
	r.cancel()
	return <-r.ended
}

// answers is the node of all sessions of a test.
type answers struct {
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan *envelopev1.Frame // by connection: one request each
	epochs  link.Epochs
	lost    atomic.Int64
}

func (a *answers) Lost() { a.lost.Add(1) }

func (a *answers) LostTo(link.Users) { a.lost.Add(1) }

func (a *answers) Deliver(b *link.Batch) {
	a.epochs.Admit(b.Partition, b.Epoch)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range b.Deliveries {
		f := &envelopev1.Frame{}
		if err := f.UnmarshalVT(d.Frame); err != nil {
			panic(err)
		}
		if ch := a.waiting[d.Conn]; ch != nil && f.RequestId != 0 {
			delete(a.waiting, d.Conn)
			ch <- f
		}
	}
}

// allHeard is the stamp of a node that has heard of every owner there is.
const allHeard = math.MaxUint64

// ask queues a request and returns where its answer comes.
func (a *answers) ask(in link.Inbox, r link.Request) <-chan *envelopev1.Frame {
	ch := make(chan *envelopev1.Frame, 1)
	a.mu.Lock()
	a.next++
	conn := a.next
	a.waiting[conn] = ch
	a.mu.Unlock()
	r.Node, r.Conn, r.RequestID, r.App, r.Codec = "comet", conn, 1, "main", link.CodecProto
	if r.Epoch == 0 {
		r.Epoch = allHeard
	}
	if err := in.Enqueue(r); err != nil {
		a.mu.Lock()
		delete(a.waiting, conn)
		a.mu.Unlock()
		ch <- &envelopev1.Frame{Error: err.Wire()}
	}
	return ch
}

// send is a message of a user's only device.
func send(user, conversation, clientID, after string, since uint64) link.Request {
	return link.Request{
		User: user, Device: "phone", Command: envelopev1.Command_COMMAND_MESSAGE_SEND, Conversation: conversation,
		ClientID: clientID, After: after, Since: since, Body: words(len(clientID)),
	}
}

// words is the body of a text of so many bytes.
func words(n int) []byte {
	body, err := (&messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: strings.Repeat("x", n)}}}).MarshalVT()
	if err != nil {
		panic(err)
	}
	return body
}

func receive(t testing.TB, ch <-chan *envelopev1.Frame) *envelopev1.Frame {
	t.Helper()
	select {
	case f := <-ch:
		return f
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

func acked(t testing.TB, ch <-chan *envelopev1.Frame) *recordv1.Ack {
	t.Helper()
	f := receive(t, ch)
	if f.Error != nil {
		t.Fatalf("refused: %v", protocol.FromWire(f.Error))
	}
	ack := &recordv1.Ack{}
	if err := ack.UnmarshalVT(f.Body); err != nil {
		t.Fatal(err)
	}
	return ack
}

func refusedAs(t testing.TB, ch <-chan *envelopev1.Frame, want protocol.Code) {
	t.Helper()
	if f := receive(t, ch); f.Error == nil || protocol.Code(f.Error.Code) != want {
		t.Fatalf("answered %v, want the error %s", f, want)
	}
}

// audit reads the whole log and checks what holds of every log: epochs rise, records are numbered without a hole, times and
// ids rise, and no write stands there twice. It returns the records of each conversation.
func (l *lab) audit() map[string][]*logv1.Record {
	l.t.Helper()
	out := map[string][]*logv1.Record{}
	written := map[string]uint64{}
	var epoch uint64
	var timeUs int64
	var id uint64
	err := bustest.OpenLog(l.t, l.conn, 0).Scan(context.Background(), 0, func(m bus.Message) error {
		b := &logv1.Block{}
		if err := logblock.Decode(m.Data, b); err != nil {
			return err
		}
		if b.Epoch < epoch || b.Kind == logv1.Kind_KIND_FENCE && b.Epoch == epoch {
			return fmt.Errorf("block %d: epoch %d after %d", m.Seq, b.Epoch, epoch)
		}
		epoch = b.Epoch
		for _, r := range b.Records {
			have := out[r.Conversation]
			if r.Seq != uint64(len(have))+1 {
				return fmt.Errorf("%s: seq %d follows %d records", r.Conversation, r.Seq, len(have))
			}
			if r.TimeUs <= timeUs || r.Id <= id {
				return fmt.Errorf("%s: record %d does not rise", r.Conversation, r.Seq)
			}
			timeUs, id = r.TimeUs, r.Id
			key := r.Conversation + " " + r.Sender + " " + r.Device + " " + r.ClientId
			if first := written[key]; first != 0 {
				return fmt.Errorf("%s was written as %d and as %d", key, first, r.Seq)
			}
			written[key] = r.Seq
			out[r.Conversation] = append(have, r)
		}
		return nil
	})
	if err != nil {
		l.t.Fatalf("audit: %v", err)
	}
	return out
}
