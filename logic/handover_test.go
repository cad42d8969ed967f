package logic_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// talker is two devices in a conversation of one partition. Alice sends as fast as she is acknowledged.
type talker struct {
	alice, bob   *device
	conversation string
	quiet        chan struct{}
	done         chan struct{}

	mu   sync.Mutex
	acks []time.Time
}

func (w *world) talk(c *comet, partition int) *talker {
	t := &talker{quiet: make(chan struct{}), done: make(chan struct{})}
	for n := 0; ; n++ {
		alice, bob := fmt.Sprintf("alice%d-%d", partition, n), fmt.Sprintf("bob%d-%d", partition, n)
		if t.conversation = protocol.Direct(alice, bob); protocol.Partition("main", t.conversation, partitions) == partition {
			t.alice, t.bob = c.connect(w, alice, "a"), c.connect(w, bob, "b")
			break
		}
	}
	go func() {
		defer close(t.done)
		for i := uint64(0); ; i++ {
			if !t.send(i) {
				return
			}
		}
	}()
	return t
}

// patience is how long the device of a test waits for an answer that a killed owner cannot give.
const patience = 100 * time.Millisecond

// send writes message i until it is acknowledged, and at once again where nobody serves: the time between two acks is the time for which
// nobody did. It ends the talk if the message has another place than its own.
func (t *talker) send(i uint64) (goOn bool) {
	for {
		select {
		case <-t.quiet:
			return false
		case f := <-t.alice.send(request{
			command: envelopev1.Command_COMMAND_MESSAGE_SEND, conversation: t.conversation, clientID: fmt.Sprint("c", i), since: i, body: text(fmt.Sprint(i)),
		}):
			switch {
			case f.Error != nil && f.Error.Retryable:
				<-time.After(time.Millisecond)
				continue
			case f.Error != nil:
				t.alice.w.t.Errorf("%s: message %d: %v", t.conversation, i, protocol.FromWire(f.Error))
				return false
			}
			if ack := decodeAck(t.alice.w.t, f); ack.Seq != i+1 {
				t.alice.w.t.Errorf("%s: message %d is record %d", t.conversation, i, ack.Seq)
				return false
			}
			t.mu.Lock()
			t.acks = append(t.acks, time.Now())
			t.mu.Unlock()
			return true
		case <-time.After(patience):
		}
	}
}

// longest is the longest time without an ack that ended after from; there is one after from.
func (t *talker) longest(from time.Time) (longest time.Duration) {
	eventually(t.alice.w.t, func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.acks) == 0 || !t.acks[len(t.acks)-1].After(from) {
			return fmt.Errorf("%s is silent", t.conversation)
		}
		for i := len(t.acks) - 1; i > 0 && t.acks[i].After(from); i-- {
			longest = max(longest, t.acks[i].Sub(t.acks[i-1]))
		}
		return nil
	})
	return longest
}

// end stops the talk, and sees that bob has all of it, once and in order.
func (t *talker) end() {
	tb := t.alice.w.t
	tb.Helper()
	close(t.quiet)
	<-t.done
	seqs := make([]uint64, len(t.acks)+1)
	for i := range seqs {
		seqs[i] = uint64(i + 1)
	}
	eventually(tb, func() error {
		err := t.bob.hasSeqs(t.conversation, seqs[:len(t.acks)]...)
		if err != nil && t.bob.hasSeqs(t.conversation, seqs...) == nil {
			return nil // The last was written without an ack, when the talk ended.
		}
		return err
	})
	for i, r := range t.bob.records(t.conversation) {
		if got := r.GetMessage().GetText().GetText(); got != fmt.Sprint(i) {
			tb.Errorf("%s: record %d says %q", t.conversation, r.Seq, got)
		}
	}
}

// handovers is how many partitions the node has handed to a successor that serves them.
func (n *node) handovers() (count uint64, seconds float64) {
	families, err := n.metrics.Gather()
	if err != nil {
		return 0, 0
	}
	for _, f := range families {
		if f.GetName() == "halley_logic_handover_seconds" {
			h := f.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum()
		}
	}
	return 0, 0
}

// distribution is for reading.
func distribution(d []time.Duration) string {
	slices.Sort(d)
	at := func(of int) time.Duration { return d[(len(d)-1)*of/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d: min %v, median %v, p90 %v, p99 %v, max %v", len(d), at(0), at(50), at(90), at(99), at(100))
}

// synced is a world on a server that syncs before it answers, as serve's does.
func synced(t *testing.T) *world {
	server := bustest.Embedded(t, bus.EmbeddedConfig{Dir: t.TempDir(), MaxStore: 8 << 30, SyncAlways: true})
	t.Cleanup(server.Shutdown)
	return newWorldOn(t, 1, func() *bus.Conn { return bustest.Connect(t, server) })
}

// Partitions go to and fro between two nodes under load. Nothing is lost, and though leases last for half a minute nobody waits for one.
func TestHandOversUnderLoadLoseNothingAndWaitForNoLease(t *testing.T) {
	t.Run("one server", func(t *testing.T) { handOvers(t, synced(t)) })
	t.Run("three servers", func(t *testing.T) { handOvers(t, newWorldOn(t, 3, bustest.StartCluster(t, 3).Connect)) })
}

func handOvers(t *testing.T, w *world) {
	w.cfg.Partition.LeaseTTLMs = 30_000
	nodes := []*node{w.ready("n1"), w.start("n2")}
	c := w.comet()
	moved := func() (sum uint64) {
		for _, n := range nodes {
			count, _ := n.handovers()
			sum += count
		}
		return sum
	}
	const each = partitions / 2 // go to a node that joins, and from one that is drained
	want := uint64(each)
	all := func() error {
		if n := moved(); n != want {
			return fmt.Errorf("%d of %d partitions moved", n, want)
		}
		return nil
	}
	eventually(t, all)
	talkers := make([]*talker, partitions)
	for p := range talkers {
		talkers[p] = w.talk(c, p)
	}
	var silent []time.Duration
	for round := range 13 {
		n := nodes[round%2]
		for _, act := range []func(){n.Drain, n.Undrain} {
			for _, tk := range talkers {
				tk.longest(time.Now()) // Talks with the owner before.
			}
			from := time.Now()
			act()
			want += each
			eventually(t, all)
			gaps := make([]time.Duration, partitions)
			for p, tk := range talkers {
				gaps[p] = tk.longest(from)
			}
			slices.Sort(gaps)
			silent = append(silent, gaps[partitions-each:]...)
		}
	}
	for _, tk := range talkers {
		tk.end()
	}
	var count uint64
	var seconds float64
	for _, n := range nodes {
		k, s := n.handovers()
		count, seconds = count+k, seconds+s
	}
	t.Logf("without an ack: %s", distribution(silent))
	t.Logf("halley_logic_handover_seconds: %d, mean %.1f ms", count, seconds*1000/float64(count))
	if last := silent[len(silent)-1]; last > 10*time.Second {
		t.Errorf("nobody served for %v: that is to wait for a lease", last)
	}
	if median := silent[len(silent)/2]; median > time.Second {
		t.Errorf("the median hand-over took %v", median)
	}
}

// Nodes are killed under load, one after the other. KILLS asks for more than a few, with leases as shipped.
func TestPartitionsOfAKilledNodeAreTakenOver(t *testing.T) {
	w := synced(t)
	kills, ttl := 3, 1000
	if v := os.Getenv("KILLS"); v != "" {
		var err error
		if kills, err = strconv.Atoi(v); err != nil {
			t.Fatalf("KILLS: %v", err)
		}
		ttl = w.cfg.Partition.LeaseTTLMs
	}
	w.cfg.Partition.LeaseTTLMs, w.cfg.Partition.AppendTimeoutMs, w.cfg.Partition.AppendPatienceMs = ttl, 500, 1000
	w.cfg.DrainTimeoutMs = 200 // A killed one waits in vain for somebody to take its partitions.
	next := 0
	start := func() *node {
		next++
		n := w.startOn(fmt.Sprint("n", next), w.open())
		eventually(t, n.Ready)
		return n
	}
	nodes := []*node{start(), start()}
	c := w.comet()
	talkers := make([]*talker, partitions)
	for p := range talkers {
		talkers[p] = w.talk(c, p)
	}
	served := func() error {
		for _, n := range nodes {
			err := n.Ready()
			if err == nil && n.Partitions() != partitions/2 {
				err = errors.New("not its share")
			}
			if err != nil {
				return fmt.Errorf("%s has %d partitions: %w", n.name, n.Partitions(), err)
			}
		}
		return nil
	}
	var silent []time.Duration
	for range kills {
		eventually(t, served)
		for _, tk := range talkers {
			tk.longest(time.Now())
		}
		from := time.Now()
		nodes[0].kill()
		gone := time.Now().Add(time.Duration(ttl) * time.Millisecond) // its leases as well
		gaps := make([]time.Duration, partitions)
		for p, tk := range talkers {
			tk.longest(gone)
			gaps[p] = tk.longest(from)
		}
		slices.Sort(gaps)
		silent = append(silent, gaps[partitions/2:]...)
		nodes = []*node{nodes[1], start()}
	}
	eventually(t, served)
	for _, tk := range talkers {
		tk.end()
	}
	t.Logf("leases of %d ms, without an ack: %s", ttl, distribution(silent))
}
