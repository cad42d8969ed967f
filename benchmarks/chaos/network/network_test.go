package network

import (
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a device in memory: what its member sends, and what arrives at it.
type wire struct {
	out, in chan []byte
	closed  chan struct{}
}

func newWire() *wire {
	return &wire{out: make(chan []byte), in: make(chan []byte, 8192), closed: make(chan struct{})}
}

func (w *wire) Read(p []byte) (int, error) {
	select {
	case data := <-w.out:
		return copy(p, data), nil
	case <-w.closed:
		return 0, io.EOF
	}
}

func (w *wire) Write(p []byte) (int, error) {
	w.in <- append([]byte(nil), p...)
	return len(p), nil
}

func (w *wire) Close() error {
	close(w.closed)
	return nil
}

// three members, with wires in memory.
func three(t *testing.T) (n *Network, wires map[string]*wire) {
	n = &Network{members: map[string]*member{}, byIP: map[netip.Addr]*member{}, links: map[Link]*link{}, closing: make(chan struct{})}
	wires = map[string]*wire{}
	for i, name := range []string{"a", "b", "c"} {
		wires[name] = newWire()
		n.join(&member{name: name, ip: addressOf(i), device: wires[name]})
	}
	t.Cleanup(n.Close)
	return n, wires
}

// send has one member send another a packet that bears a number, and waits until it is on its way or lost.
func send(n *Network, wires map[string]*wire, from, to string, number byte) {
	p := make([]byte, 21)
	p[0] = 4 << 4
	ip := n.members[to].ip.As4()
	copy(p[16:], ip[:])
	p[20] = number
	wires[from].out <- p
	synctest.Wait()
}

// arrived are the numbers of what came and was not asked for yet.
func arrived(w *wire) (numbers []byte) {
	for {
		select {
		case p := <-w.in:
			numbers = append(numbers, p[20])
		default:
			return numbers
		}
	}
}

func TestACutIsOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, wires := three(t)
		restore := n.Impair([]Link{{"a", "b"}}, Condition{Lost: 1})
		for _, l := range Links([]string{"a", "b", "c"}, []string{"a", "b", "c"}) {
			send(n, wires, l.From, l.To, 1)
		}
		if a, b, c := len(arrived(wires["a"])), len(arrived(wires["b"])), len(arrived(wires["c"])); a != 2 || b != 1 || c != 2 {
			t.Errorf("a heard %d, b %d, c %d", a, b, c)
		}
		restore()
		send(n, wires, "a", "b", 2)
		if got := arrived(wires["b"]); len(got) != 1 || got[0] != 2 {
			t.Errorf("after the cut: %v", got)
		}
	})
}

// Of two conditions on one link the end of one leaves the other.
func TestConditionsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, wires := three(t)
		cut := n.Impair(Both([]string{"a"}, []string{"b", "c"}), Condition{Lost: 1})
		other := n.Impair(Both([]string{"b"}, []string{"a"}), Condition{Lost: 1})
		cut()
		send(n, wires, "a", "b", 1)
		send(n, wires, "a", "c", 1)
		if b, c := len(arrived(wires["b"])), len(arrived(wires["c"])); b != 0 || c != 1 {
			t.Errorf("b heard %d, c %d", b, c)
		}
		other()
		send(n, wires, "a", "b", 1)
		if len(arrived(wires["b"])) != 1 {
			t.Error("the link was not restored")
		}
	})
}

func TestASlowLinkKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, wires := three(t)
		n.Impair([]Link{{"a", "b"}}, Condition{Delay: 200 * time.Millisecond})
		for i := range byte(5) {
			send(n, wires, "a", "b", i)
			time.Sleep(10 * time.Millisecond)
		}
		send(n, wires, "b", "a", 9)
		if got := arrived(wires["b"]); len(got) != 0 || len(arrived(wires["a"])) != 1 {
			t.Errorf("%v came at once", got)
		}
		time.Sleep(165 * time.Millisecond) // 215 ms after the first.
		synctest.Wait()
		if got := arrived(wires["b"]); string(got) != "\x00\x01" {
			t.Errorf("%v came by then", got)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if got := arrived(wires["b"]); string(got) != "\x02\x03\x04" {
			t.Errorf("%v came by then", got)
		}
	})
}

func TestASlowLinkHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, wires := three(t)
		n.Impair([]Link{{"a", "b"}}, Condition{Delay: time.Second})
		for range lateMost + 100 {
			send(n, wires, "a", "b", 1)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		// One more is in the hand of who delivers.
		if got := len(arrived(wires["b"])); got < lateMost || got > lateMost+1 {
			t.Errorf("%d arrived", got)
		}
	})
}

func TestALossyLinkLosesItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, wires := three(t)
		n.Impair([]Link{{"a", "b"}}, Condition{Lost: 0.3})
		for range 2000 {
			send(n, wires, "a", "b", 1)
		}
		if got := len(arrived(wires["b"])); got < 1250 || got > 1550 {
			t.Errorf("%d of 2000 arrived", got)
		}
	})
}

func TestWhatIsNoPacketForAMemberIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, wires := three(t)
		six := make([]byte, 40)
		six[0] = 6 << 4
		stranger := make([]byte, 20)
		stranger[0] = 4 << 4
		for _, p := range [][]byte{{}, {4 << 4}, six, stranger} {
			wires["a"].out <- p
		}
		synctest.Wait()
		for name, w := range wires {
			if got := len(w.in); got != 0 {
				t.Errorf("%s heard %d", name, got)
			}
		}
	})
}
