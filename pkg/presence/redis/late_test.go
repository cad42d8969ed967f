package redis

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// wire is a way to Redis that can hold back what clients say. It reaches Redis in the end, though they have closed the connection long
// since: as a kernel sends on what is left of a closed socket once a cut has healed, or as it lies before a Redis that stands still.
type wire struct {
	net.Listener
	server string
	ending chan struct{}
	waits  sync.WaitGroup
	held   chan struct{} // takes one each time that something is held back
	done   chan struct{} // takes one each time that Redis has answered what was

	mu   sync.Mutex
	open chan struct{} // closed: nothing is held back
}

func newWire(t testing.TB, server string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{
		Listener: l, server: server, ending: make(chan struct{}), open: make(chan struct{}),
		held: make(chan struct{}, 100), done: make(chan struct{}, 100),
	}
	close(w.open)
	w.waits.Go(w.accept)
	t.Cleanup(func() {
		close(w.ending)
		_ = l.Close()
		w.waits.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		client, err := w.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		answers := make(chan struct{}, 1)
		w.waits.Go(func() { w.ask(client, server, answers) })
		w.waits.Go(func() { answer(client, server, answers) })
		w.waits.Go(func() {
			<-w.ending
			_, _ = client.Close(), server.Close()
		})
	}
}

// ask carries what the client says. That it closes the connection says nothing: it may be owed to Redis still.
func (w *wire) ask(client, server net.Conn, answers chan struct{}) {
	b := make([]byte, 1<<16)
	for {
		n, err := client.Read(b)
		if err != nil {
			return
		}
		w.mu.Lock()
		open := w.open
		w.mu.Unlock()
		late := false
		select {
		case <-open:
		default:
			late = true
			w.held <- struct{}{}
			select {
			case <-open:
			case <-w.ending:
				return
			}
		}
		select {
		case <-answers:
		default:
		}
		if _, err := server.Write(b[:n]); err != nil {
			return
		}
		if late {
			select {
			case <-answers:
				w.done <- struct{}{}
			case <-w.ending:
				return
			}
		}
	}
}

// answer carries what Redis says, to whoever is there to hear it.
func answer(client, server net.Conn, answers chan struct{}) {
	b := make([]byte, 1<<16)
	for {
		n, err := server.Read(b)
		if err != nil {
			return
		}
		_, _ = client.Write(b[:n])
		select {
		case answers <- struct{}{}:
		default:
		}
	}
}

func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = make(chan struct{})
}

// release lets go of what is held back, one piece, and returns when Redis has answered it.
func (w *wire) release(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	close(w.open)
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-time.After(10 * time.Second):
		t.Fatal("Redis does not answer what was held back")
	}
}

// lateness is a Redis, a node whose wire to it can be held up, and another whose wire cannot.
type lateness struct {
	*wire
	slow, fast           *Registry
	slowEpoch, fastEpoch uint64
}

func newLateness(t *testing.T, cfg Config) *lateness {
	t.Helper()
	w := newWire(t, cfg.Addresses[0])
	behind := cfg
	behind.Addresses = []string{w.Addr().String()}
	l := &lateness{wire: w, slow: open(t, behind, nil), fast: open(t, cfg, nil)}
	l.slowEpoch, l.fastEpoch = l.acquire(t, l.slow, "comet-slow"), l.acquire(t, l.fast, "comet-fast")
	readClock(t, l.slow)
	// Redis knows the scripts, and the wire has a connection.
	reg := l.register(t, l.slow, l.on("slow", 1))
	if err := l.slow.Unregister(t.Context(), []presence.Registration{reg}); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lateness) acquire(t *testing.T, r *Registry, node string) uint64 {
	t.Helper()
	epoch, err := r.Acquire(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

// readClock has the node know Redis's clock better than these tests wait.
func readClock(t *testing.T, r *Registry) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		start := time.Now()
		_, err := r.Incarnation(t.Context())
		if err == nil && time.Since(start) < 80*time.Millisecond {
			return
		} else if start.After(deadline) {
			t.Fatal("Redis does not answer in time: ", err)
		}
	}
}

// on is alice's phone on a connection to one of the nodes.
func (l *lateness) on(node string, conn uint64) presence.Registration {
	e := presence.Entry{Device: "phone", Node: "comet-" + node, Epoch: l.slowEpoch, Conn: conn, Codec: link.CodecProto}
	if node == "fast" {
		e.Epoch = l.fastEpoch
	}
	return presence.Registration{User: alice, Entry: e}
}

var alice = presence.User{App: "main", User: "alice"}

func (l *lateness) register(t *testing.T, r *Registry, reg presence.Registration) presence.Registration {
	t.Helper()
	regs := []presence.Registration{reg}
	if err := r.Register(t.Context(), regs); err != nil || regs[0].Stale {
		t.Fatalf("Register = %+v, %v", regs[0], err)
	}
	return regs[0]
}

// giveUp makes a call on the slow wire that has no answer in its time, does what is done meanwhile, and then has Redis receive the call.
func (l *lateness) giveUp(t *testing.T, call func(context.Context) error, meanwhile func()) {
	t.Helper()
	l.hold()
	// What Redis's clock may be ahead of what the node knows of it: the time of one answer.
	const patience, slack = 100 * time.Millisecond, 400 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := call(ctx); !errors.Is(err, presence.ErrUnavailable) {
		t.Fatalf("a call that Redis does not get = %v", err)
	}
	<-l.held
	<-time.After(slack)
	meanwhile()
	l.release(t)
}

func (l *lateness) expect(t *testing.T, want ...presence.Entry) {
	t.Helper()
	got, err := l.fast.Lookup(t.Context(), []presence.User{alice}, nil)
	if err != nil || !slices.Equal(got[0], want) {
		t.Fatalf("presence tells of %+v, %v\nwant %+v", got, err, want)
	}
}

// testLate tells what became of calls that Redis got when their callers had given up, or when others had been heard meanwhile.
func testLate(t *testing.T, fresh func(t *testing.T) Config) {
	tests := []struct {
		name string
		run  func(*testing.T, *lateness)
	}{
		{"RegistrationAfterItsRemoval", lateAfterRemoval},
		{"FirstRegistrationAfterItsRemoval", lateFirst},
		{"RegistrationAfterTheDeviceMoved", lateAfterMove},
		{"RegistrationInTimeAfterTheDeviceMoved", inTimeAfterMove},
		{"RoomEnteredAfterItWasLeft", lateEnter},
		{"RoomLeftAfterItWasEntered", lateLeave},
		{"LeaseTaken", lateAcquire},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newLateness(t, fresh(t))) })
	}
}

func TestWhatRedisGetsLateHasNoEffect(t *testing.T) {
	testLate(t, func(t *testing.T) Config { return config(miniredis.RunT(t).Addr()) })
}

// Redis's clock is stepped: forward, and a call is refused before it is known; back, and whoever comes later wins all the same.
func TestStepsOfTheClockOfRedis(t *testing.T) {
	m := miniredis.RunT(t)
	l := newLateness(t, config(m.Addr()))
	m.SetTime(time.Now().Add(time.Hour))
	if err := l.slow.Register(t.Context(), []presence.Registration{l.on("slow", 2)}); !errors.Is(err, presence.ErrUnavailable) {
		t.Fatalf("Register by another clock = %v", err)
	}
	ahead := l.register(t, l.slow, l.on("slow", 3))
	m.SetTime(time.Now())
	for conn := range uint64(3) {
		if moved := l.register(t, l.fast, l.on("fast", conn)); moved.Replaced == nil {
			t.Fatalf("after %+v: %+v", ahead, moved)
		}
		if _, err := l.fast.Incarnation(t.Context()); err != nil { // Now the node knows the clock.
			t.Fatal(err)
		}
	}
}

// A session is to register again, under the generation that it has, and leaves.
func lateAfterRemoval(t *testing.T, l *lateness) {
	reg := l.register(t, l.slow, l.on("slow", 2))
	l.giveUp(t, func(ctx context.Context) error { return l.slow.Register(ctx, []presence.Registration{reg}) }, func() {
		if err := l.fast.Unregister(t.Context(), []presence.Registration{reg}); err != nil {
			t.Fatal(err)
		}
	})
	l.expect(t)
}

// A session connects, and leaves before it has a generation.
func lateFirst(t *testing.T, l *lateness) {
	reg := l.on("slow", 2)
	l.giveUp(t, func(ctx context.Context) error { return l.slow.Register(ctx, []presence.Registration{reg}) }, func() {
		if err := l.fast.Unregister(t.Context(), []presence.Registration{reg}); err != nil {
			t.Fatal(err)
		}
	})
	l.expect(t)
}

// A device connects, hears nothing, and connects elsewhere.
func lateAfterMove(t *testing.T, l *lateness) {
	var moved presence.Registration
	l.giveUp(t, func(ctx context.Context) error { return l.slow.Register(ctx, []presence.Registration{l.on("slow", 2)}) }, func() {
		moved = l.register(t, l.fast, l.on("fast", 1))
	})
	l.expect(t, moved.Entry)
}

// The same, and Redis gets the earlier one in time.
func inTimeAfterMove(t *testing.T, l *lateness) {
	l.hold()
	regs := []presence.Registration{l.on("slow", 2)}
	ended := make(chan error, 1)
	go func() { ended <- l.slow.Register(context.WithoutCancel(t.Context()), regs) }()
	<-l.held
	// The order of two registrations that are asked for within the time of one answer is nobody's.
	<-time.After(100 * time.Millisecond)
	moved := l.register(t, l.fast, l.on("fast", 1))
	l.release(t)
	if err := <-ended; err != nil || !regs[0].Stale || regs[0].Replaced != nil {
		t.Errorf("the earlier one: %+v, %v; want it stale", regs[0], err)
	}
	l.expect(t, moved.Entry)
	if later := l.register(t, l.slow, l.on("slow", 3)); later.Replaced == nil || *later.Replaced != moved.Entry {
		t.Errorf("one after both: %+v", later)
	}
}

var large = presence.RoomID{App: "main", Conversation: "g:x"}

func (l *lateness) expectIn(t *testing.T, want ...presence.RoomNode) {
	t.Helper()
	got, err := l.fast.RoomNodes(t.Context(), []presence.RoomID{large}, nil)
	if err != nil || !slices.Equal(got[0], want) {
		t.Fatalf("the room has %+v, %v, want %+v", got, err, want)
	}
}

func (l *lateness) rooms(t *testing.T) []presence.Room {
	t.Helper()
	rooms := []presence.Room{{RoomID: large, Node: "comet-slow", Epoch: l.slowEpoch}}
	if err := l.slow.EnterRoom(t.Context(), rooms); err != nil {
		t.Fatal(err)
	}
	return rooms
}

func lateEnter(t *testing.T, l *lateness) {
	rooms := l.rooms(t)
	l.giveUp(t, func(ctx context.Context) error { return l.slow.EnterRoom(ctx, rooms) }, func() {
		if err := l.fast.LeaveRoom(t.Context(), rooms); err != nil {
			t.Fatal(err)
		}
	})
	l.expectIn(t)
}

func lateLeave(t *testing.T, l *lateness) {
	rooms := l.rooms(t)
	l.giveUp(t, func(ctx context.Context) error { return l.slow.LeaveRoom(ctx, rooms) }, func() {
		if err := l.fast.EnterRoom(t.Context(), rooms); err != nil {
			t.Fatal(err)
		}
	})
	l.expectIn(t, presence.RoomNode{Node: "comet-slow", Epoch: l.slowEpoch})
}

func lateAcquire(t *testing.T, l *lateness) {
	var epoch uint64
	l.giveUp(t, func(ctx context.Context) error { _, err := l.slow.Acquire(ctx, "comet-slow"); return err }, func() {
		epoch = l.acquire(t, l.fast, "comet-slow")
	})
	if err := l.fast.Renew(t.Context(), "comet-slow", epoch); err != nil {
		t.Fatal(err)
	}
}
