package partition

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// modelDevice retries as the protocol tells it to: `after` is the previous write that has no answer yet, computed anew at each
// transmission; busy, retry and resend are no answers; and then it starts again from its oldest.
type modelDevice struct {
	user, conversation string
	total, deep        int
	random             *rand.Rand

	acks []uint64 // seq of each write
}

// route is where requests go while owners come and go. It refuses some of them by itself, as a link does.
type route struct {
	inbox atomic.Pointer[queue]
	node  *answers
}

func (m *modelDevice) run(t testing.TB, to *route) error {
	m.acks = make([]uint64, m.total)
	since := make([]uint64, m.total)
	sent := make([]bool, m.total)
	var known uint64 // The head that the device knows.
	deadline := time.Now().Add(60 * time.Second)
	for oldest := 0; oldest < m.total; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: only %d of %d written", m.user, oldest, m.total)
		}
		var waiting []<-chan *envelopev1.Frame
		last := min(m.total, oldest+1+m.random.IntN(m.deep))
		for i := oldest; i < last; i++ {
			if !sent[i] {
				sent[i], since[i] = true, known
			}
			after := ""
			if i > oldest {
				after = fmt.Sprint("c", i-1)
			}
			if m.random.IntN(20) == 0 { // Refused on the way: what follows must not overtake it.
				ch := make(chan *envelopev1.Frame, 1)
				ch <- &envelopev1.Frame{Error: protocol.Errorf(protocol.CodeBusy, "on the way").Wire()}
				waiting = append(waiting, ch)
				continue
			}
			waiting = append(waiting, to.node.ask(to.inbox.Load(), send(m.user, m.conversation, fmt.Sprint("c", i), after, since[i])))
		}
		answered := true
		for k, ch := range waiting {
			f := receive(t, ch)
			if f.Error != nil {
				if !f.Error.Retryable {
					return fmt.Errorf("%s: write %d refused for good: %w", m.user, oldest+k, protocol.FromWire(f.Error))
				}
				answered = false
				continue
			}
			ack := &recordv1.Ack{}
			if err := ack.UnmarshalVT(f.Body); err != nil {
				return err
			}
			i := oldest + k
			if m.acks[i] != 0 && m.acks[i] != ack.Seq {
				return fmt.Errorf("%s: write %d acked as %d and as %d", m.user, i, m.acks[i], ack.Seq)
			}
			m.acks[i] = ack.Seq
			known = max(known, ack.Seq)
		}
		for oldest < m.total && m.acks[oldest] != 0 {
			oldest++
		}
		if !answered {
			<-time.After(time.Duration(m.random.IntN(3)) * time.Millisecond)
		}
	}
	return nil
}

// Whatever is lost between devices, owners and the log, and however often the owner changes: each write stands in the log once,
// in its device's order, and every ack told the truth.
func TestDevicesThatRetryWriteOnceAndInOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := newLab(t, 256<<20)
	l.cfg.QueueRequests = 40 // So that busy is common.
	l.cfg.WindowRecords = 4
	var faultMu sync.Mutex
	faults := rand.New(rand.NewPCG(seed, 1))
	chance := func(n int) bool {
		faultMu.Lock()
		defer faultMu.Unlock()
		return faults.IntN(n) == 0
	}
	var calm atomic.Bool
	owner := func(name string) *Partition {
		p := l.partition(name)
		p.appendLog = func(ctx context.Context, block []byte, user bool, last uint64) (uint64, error) {
			switch {
			case calm.Load():
			case chance(15):
				return 0, errors.New("not sent")
			case chance(14):
				return 0, bus.ErrFull
			case chance(10):
				if _, err := p.Log.Append(ctx, block, user, last); err != nil {
					return 0, err
				}
				return 0, errors.New("the answer was lost")
			}
			return p.Log.Append(ctx, block, user, last)
		}
		return p
	}
	to := &route{node: l.node}
	// A takeover may meet a full log by chance; then it is tried again.
	rule := func(i int) *reignOf {
		calm.Store(true)
		defer calm.Store(false)
		return l.rule(owner(fmt.Sprint("n", i)), true)
	}
	reign := rule(0)
	to.inbox.Store(reign.inbox)

	var devices []*modelDevice
	var wg sync.WaitGroup
	failures := make(chan error, 16)
	for i := range 8 {
		m := &modelDevice{
			user: fmt.Sprint("u", i%4), conversation: protocol.Direct(fmt.Sprint("u", i%4), fmt.Sprint("u", (i+1+i/4)%4)),
			total: 60, deep: 1 + i, random: rand.New(rand.NewPCG(seed, uint64(i)+2)),
		}
		if i >= 4 { // Two users at a time in one conversation, from both sides.
			m.user = fmt.Sprint("u", (i+1)%4)
			m.conversation = devices[i-4].conversation
		}
		devices = append(devices, m)
		wg.Go(func() { failures <- m.run(t, to) })
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	for i, busy := 1, true; busy; i++ {
		select {
		case <-done:
			busy = false
		case <-reign.ended: // A block that was refused too long, say.
			reign = rule(i)
			to.inbox.Store(reign.inbox)
		case <-time.After(50 * time.Millisecond):
			if i > 12 {
				continue
			}
			reign.cancel()
			<-reign.ended
			reign = rule(i)
			to.inbox.Store(reign.inbox)
		}
	}
	for range devices {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	log := l.audit()
	for _, m := range devices {
		i := 0
		for _, r := range log[m.conversation] {
			if r.Sender != m.user {
				continue
			}
			if want := fmt.Sprint("c", i); r.ClientId != want {
				t.Fatalf("%s in %s: seq %d is %s, want %s", m.user, m.conversation, r.Seq, r.ClientId, want)
			}
			if r.Seq != m.acks[i] {
				t.Fatalf("%s: write %d acked as %d, stands at %d", m.user, i, m.acks[i], r.Seq)
			}
			i++
		}
		if i != m.total {
			t.Fatalf("%s in %s: %d of %d writes are in the log", m.user, m.conversation, i, m.total)
		}
	}
}
