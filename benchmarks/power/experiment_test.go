package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks/benchtest"
	"github.com/halley-im/halley/pkg/overlay"
)

// wall is a machine whose server outlives it: a cut closes every connection to it and refuses new ones until the next start.
type wall struct {
	target, address string

	mu       sync.Mutex
	listener net.Listener // nil: no power
	conns    []net.Conn
	copying  sync.WaitGroup
}

func (w *wall) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", w.address)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.listener, w.address = l, l.Addr().String()
	w.mu.Unlock()
	w.copying.Go(func() {
		for {
			outside, err := l.Accept()
			if err != nil {
				return
			}
			inside, err := net.Dial("tcp", w.target)
			if err != nil || !w.holds(l, outside, inside) {
				outside.Close()
				continue
			}
			w.copying.Go(func() { io.Copy(inside, outside); inside.Close() })
			w.copying.Go(func() { io.Copy(outside, inside); outside.Close() })
		}
	})
	return nil
}

// holds keeps the pair for the next cut, unless that has come.
func (w *wall) holds(l net.Listener, pair ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, pair...)
	if w.listener == l {
		return true
	}
	for _, c := range pair {
		c.Close()
	}
	return false
}

func (w *wall) Cut(context.Context) error {
	w.mu.Lock()
	if w.listener != nil {
		w.listener.Close()
	}
	w.listener = nil
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
	w.mu.Unlock()
	w.copying.Wait()
	return nil
}

func (w *wall) Console() string { return "" }

func (w *wall) Running(context.Context) bool { return true }

// grave is a machine whose server does not come back after a cut.
type grave struct {
	*wall
	dead bool
}

func (g *grave) Start(ctx context.Context) error {
	if g.dead {
		return nil
	}
	return g.wall.Start(ctx)
}

func (g *grave) Cut(ctx context.Context) error {
	g.dead = true
	return g.wall.Cut(ctx)
}

func (g *grave) Running(context.Context) bool { return !g.dead }

// rehearse runs the experiment on a server in memory.
func rehearse(t *testing.T, faults benchtest.Faults, untilLost bool) (result, string) {
	t.Helper()
	got, out, err := rehearseOn(t, faults, untilLost, func(w *wall) machine { return w })
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return got, out
}

// rehearseOn has the machine be what other makes of one whose server outlives it.
func rehearseOn(t *testing.T, faults benchtest.Faults, untilLost bool, other func(*wall) machine) (result, string, error) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	server := benchtest.Start(t, "tcp", faults, func(token string) (string, error) { return token, nil })
	w := &wall{target: server.Target(), address: "127.0.0.1:0"}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Cut(t.Context()) // Its address stays.
	t.Cleanup(func() { w.Cut(context.Background()) })
	var out bytes.Buffer
	e := experiment{
		machine: other(w), out: &out,
		load: func(ctx context.Context, name string) (load, error) {
			return launch(ctx, "tcp://"+w.address, name, func(user string) (string, error) { return user, nil })
		},
		random: rand.New(rand.NewPCG(seed, 1)), seed: seed, cuts: 3, untilLost: untilLost,
		within: 5 * time.Minute, grace: 10 * time.Millisecond, again: 20 * time.Millisecond,
	}
	got, err := e.run(t.Context())
	return got, out.String(), err
}

func TestAServerThatDoesNotComeBackIsNotWaitedFor(t *testing.T) {
	got, out, err := rehearseOn(t, benchtest.Faults{}, false, func(w *wall) machine { return &grave{wall: w} })
	if !errors.Is(err, errGone) || got.acked < fewestAcks {
		t.Errorf("%v, %v\n%s", got, err, out)
	}
}

func TestAServerThatKeepsItsWordPasses(t *testing.T) {
	got, out := rehearse(t, benchtest.Faults{}, false)
	if !got.kept() || got.cuts < 3 || got.acked < 3*fewestAcks {
		t.Errorf("%v\n%s", got, out)
	}
}

func TestALossIsFoundAndEndsTheControl(t *testing.T) {
	got, out := rehearse(t, benchtest.Faults{LoseAcked: 50}, true)
	if got.lost == 0 || got.kept() {
		t.Errorf("%v\n%s", got, out)
	}
}

func TestAMessageStoredTwiceIsAViolation(t *testing.T) {
	got, out := rehearse(t, benchtest.Faults{StoreTwice: 40}, false)
	if got.violations == 0 || got.kept() {
		t.Errorf("%v\n%s", got, out)
	}
}

// The control is the product but for one word. Where the product changes, so must the control, or it would prove nothing.
func TestTheControlFitsTheProduct(t *testing.T) {
	if _, err := overlay.Write("../..", t.TempDir(), controlPatch); err != nil {
		t.Error(err)
	}
}
