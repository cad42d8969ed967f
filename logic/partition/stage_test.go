package partition

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/lastknown"
	"github.com/halley-im/halley/pkg/presence/memory"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// flaky is presence that can be taken away.
type flaky struct {
	presence.Registry
	mu   sync.Mutex
	down bool
}

func (f *flaky) set(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *flaky) Lookup(ctx context.Context, users []presence.User, dst [][]presence.Entry) ([][]presence.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, presence.ErrUnavailable
	}
	return f.Registry.Lookup(ctx, users, dst)
}

// counted is a sender that counts.
type counted struct {
	mu         sync.Mutex
	deliveries int
	skips      int
	users      []link.Users
}

func (c *counted) Send(_ string, b *link.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deliveries += len(b.Deliveries)
}

func (c *counted) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skips++
}

func (c *counted) SkipUsers(users link.Users) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users = append(c.users, users)
}

// told is for how many of the users nodes were asked to find them, and what names none of them.
func (c *counted) told(users ...string) (times, others int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, set := range c.users {
		for _, user := range users {
			if set.Has("a", user) {
				times++
			}
		}
		others += len(set)
	}
	return times, others - times
}

func (c *counted) want(t *testing.T, deliveries, skips int, when string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deliveries != deliveries || c.skips != skips {
		t.Fatalf("%s: %d deliveries and %d skips, want %d and %d", when, c.deliveries, c.skips, deliveries, skips)
	}
}

// While presence does not answer, who was known gets pushes as before; all are told every few seconds to compare heads, and when it is back
// those who got something since.
func TestDeliveriesGoOnWithoutPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := &flaky{Registry: memory.New(time.Now)}
		ctx := t.Context()
		epoch, err := behind.Acquire(ctx, "comet-1")
		if err != nil {
			t.Fatal(err)
		}
		err = behind.Register(ctx, []presence.Registration{{
			User:  presence.User{App: "a", User: "alice"},
			Entry: presence.Entry{Device: "phone", Node: "comet-1", Epoch: epoch, Conn: 1, Codec: link.CodecProto},
		}})
		if err != nil {
			t.Fatal(err)
		}
		sender := &counted{}
		metrics, lines := prometheus.NewRegistry(), &observetest.Lines{}
		s := newStage(New(0, 1, Default(), Deps{
			Presence: lastknown.New(behind, 10), Sender: sender, Logger: lines.Logger(), Metrics: NewMetrics(metrics),
		}))
		seq := uint64(0)
		deliver := func() {
			seq++
			s.deliver(&parcel{deliveries: []delivery{{
				app: "a", conversation: "d:alice:bob", users: []string{"alice", "bob"},
				record: &logv1.Record{App: "a", Conversation: "d:alice:bob", Seq: seq},
			}}})
		}
		deliver()
		sender.want(t, 1, 0, "while presence answers")
		behind.down = true
		deliver()
		deliver()
		sender.want(t, 3, 0, "when it has stopped")
		time.Sleep(pollEvery)
		deliver()
		sender.want(t, 4, 0, "a while later")
		if times, others := sender.told("alice", "bob"); times != 2 || others != 0 {
			t.Errorf("a while later nodes look for the two %d times, and for %d others", times, others)
		}
		deliver()
		s.settle()
		sender.want(t, 5, 0, "nobody is told where nobody is known to be")
		if n := observetest.Metric(t, metrics, "halley_logic_presence_failures_total"); n != 5 {
			t.Errorf("%v failures are counted, want 5", n)
		}
		if !lines.Have("level=WARN", "presence look-up failed", presence.ErrUnavailable.Error()) || !lines.Have("level=WARN", "presence does not answer; nodes resync") {
			t.Error("no log line names the cause")
		}
		behind.down = false
		deliver()
		s.settle()
		sender.want(t, 7, 0, "when it is back")
		if s.owed.any() {
			t.Errorf("still owed: %v", s.owed)
		}
		if !lines.Have("presence answers again") {
			t.Error("the log does not say that presence is back")
		}
	})
}

// Who has moved while presence does not answer gets nothing, and no later message shows it: nodes are told all the same.
func TestTheLastMessageWithoutPresenceIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := &flaky{Registry: memory.New(time.Now), down: true}
		sender := &counted{}
		s := newStage(New(0, 1, Default(), Deps{
			Presence: lastknown.New(behind, 10), Sender: sender, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
		}))
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.run()
		}()
		for seq := range uint64(2) {
			s.put(parcel{deliveries: []delivery{{
				app: "a", conversation: "d:alice:bob", users: []string{"alice"},
				record: &logv1.Record{App: "a", Conversation: "d:alice:bob", Seq: seq + 1},
			}}})
		}
		synctest.Wait()
		sender.want(t, 0, 0, "at the first failure")
		time.Sleep(10 * pollEvery)
		synctest.Wait()
		sender.want(t, 0, 0, "after the last message")
		if times, others := sender.told("alice"); times != 1 || others != 0 {
			t.Errorf("after the last message nodes look for her %d times, and for %d others", times, others)
		}
		close(s.parcels)
		<-done
	})
}

// A look-up that fails for a moment concerns those who were looked up: nobody else is told anything.
func TestAMomentWithoutPresenceConcernsOnlyThoseLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := &flaky{Registry: memory.New(time.Now)}
		epoch, err := behind.Acquire(t.Context(), "comet-1")
		if err != nil {
			t.Fatal(err)
		}
		const users = 2 * owedParcel
		var present []presence.Registration
		var looked []string
		for i := range users {
			u := fmt.Sprint("u", i)
			present = append(present, presence.Registration{
				User:  presence.User{App: "a", User: u},
				Entry: presence.Entry{Device: "phone", Node: "comet-1", Epoch: epoch, Conn: uint64(i + 1), Codec: link.CodecProto},
			})
			looked = append(looked, u)
		}
		if err := behind.Register(t.Context(), present); err != nil {
			t.Fatal(err)
		}
		sender := &counted{}
		s := newStage(New(0, 1, Default(), Deps{
			Presence: behind, Sender: sender, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
		}))
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.run()
		}()
		say := func(seq uint64, to []string) parcel {
			return parcel{deliveries: []delivery{{
				app: "a", conversation: "g:a:b:c", users: to, record: &logv1.Record{App: "a", Conversation: "g:a:b:c", Seq: seq},
			}}}
		}
		s.put(say(1, looked[:owedParcel+10]))
		synctest.Wait()
		sender.want(t, owedParcel+10, 0, "while presence answers")
		behind.set(true)
		s.put(say(2, looked[:owedParcel+10]))
		synctest.Wait()
		sender.want(t, owedParcel+10, 0, "when it does not")
		behind.set(false)
		time.Sleep(2 * owedEvery)
		synctest.Wait()
		sender.want(t, 2*(owedParcel+10), 0, "those are told who were looked up")

		// More of them than are remembered are everybody, and so are those of a room, which only nodes know.
		for i, p := range []parcel{
			{deliveries: []delivery{{app: "a", users: make([]string, maxOwed+1)}}},
			{deliveries: []delivery{{app: "a", users: []string{"u1"}, large: true, record: &logv1.Record{App: "a", Conversation: "g:a:b:c", Seq: 3}}}},
		} {
			behind.set(true)
			s.put(p)
			time.Sleep(2 * time.Second) // Longer than one is patient.
			synctest.Wait()
			behind.set(false)
			s.put(say(4, nil))
			s.put(say(5, looked[:1]))
			synctest.Wait()
			sender.want(t, 2*(owedParcel+10)+i+1, i+1, "all are told")
		}

		// Away for longer, nodes are asked for those whom it concerns, who are told no more when it is back.
		behind.set(true)
		s.put(say(6, looked[:owedParcel+10]))
		time.Sleep(2 * pollEvery)
		behind.set(false)
		time.Sleep(2 * owedEvery)
		synctest.Wait()
		sender.want(t, 2*(owedParcel+10)+2, 2, "nodes find those who are owed")
		if times, others := sender.told(looked[:owedParcel+10]...); times != owedParcel+10 || others != 0 {
			t.Errorf("nodes look for %d of them, and for %d others", times, others)
		}

		// Nobody knows who is in a room but its nodes: everybody is asked, again and again.
		behind.set(true)
		s.put(parcel{deliveries: []delivery{{app: "a", users: []string{"u1"}, large: true, record: &logv1.Record{App: "a", Conversation: "g:a:b:c", Seq: 7}}}})
		time.Sleep(2 * pollEvery)
		synctest.Wait()
		sender.want(t, 2*(owedParcel+10)+2, 3, "all are told")
		close(s.parcels)
		<-done
	})
}

// blinking is presence whose look-ups of rooms fail so many times.
type blinking struct {
	presence.Registry
	fail, asked int
}

func (b *blinking) RoomNodes(ctx context.Context, rooms []presence.RoomID, dst [][]presence.RoomNode) ([][]presence.RoomNode, error) {
	if b.asked++; b.fail > 0 {
		b.fail--
		return nil, presence.ErrUnavailable
	}
	return b.Registry.RoomNodes(ctx, rooms, dst)
}

// What a large conversation is owed is owed to every session there is: a time-out of a moment, on a machine that is busy with the same
// conversation, must not have a million of them come.
func TestAMomentWithoutPresenceDoesNotCostARoom(t *testing.T) {
	for fail, want := range map[int]struct{ deliveries, skips, asked int }{
		0: {1, 0, 1}, 1: {1, 0, 2}, len(roomPauses): {1, 0, 1 + len(roomPauses)},
		// Then it is away, and that is not tried for long, nor again with each delivery.
		len(roomPauses) + 1: {1, 1, 2 + len(roomPauses)},
		len(roomPauses) + 3: {1, 1, 4 + len(roomPauses)},
	} {
		t.Run(fmt.Sprint(fail), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				registry := &blinking{Registry: memory.New(time.Now), fail: fail}
				epoch, err := registry.Acquire(t.Context(), "comet-1")
				if err != nil {
					t.Fatal(err)
				}
				room := presence.RoomID{App: "a", Conversation: "g:a:b:c"}
				if err := registry.EnterRoom(t.Context(), []presence.Room{{RoomID: room, Node: "comet-1", Epoch: epoch}}); err != nil {
					t.Fatal(err)
				}
				sender := &counted{}
				var lines observetest.Lines
				s := newStage(New(0, 1, Default(), Deps{
					Presence: registry, Sender: sender, Logger: lines.Logger(), Metrics: NewMetrics(prometheus.NewRegistry()),
				}))
				// That users could not be looked up just before has nobody give up a room any sooner.
				s.failing, s.since = true, time.Now()
				deliver := func(seq uint64) {
					s.deliver(&parcel{deliveries: []delivery{{
						app: "a", conversation: room.Conversation, large: true, record: &logv1.Record{App: "a", Conversation: room.Conversation, Seq: seq},
					}}})
				}
				deliver(1)
				for away := len(roomPauses) + 1; away <= fail; away++ {
					sender.want(t, 0, 0, "while presence is away")
					deliver(2)
				}
				if fail > len(roomPauses) {
					s.settle()
				}
				sender.want(t, want.deliveries, want.skips, "in the end")
				if registry.asked != want.asked {
					t.Errorf("asked %d times, want %d", registry.asked, want.asked)
				}
			})
		})
	}
}
