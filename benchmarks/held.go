package benchmarks

import (
	"context"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// Held are idle connections that hold while something else is done.
type Held struct{ run *run }

// Up is how many are connected now.
func (h *Held) Up(ctx context.Context) (up int64, err error) {
	for _, p := range h.run.parts {
		m, err := p.look(ctx)
		if err != nil {
			return 0, err
		}
		up += m.Up
	}
	return up, nil
}

// Expect has the devices listen for a broadcast: what they heard before is forgotten.
func (h *Held) Expect(ctx context.Context, b Broadcast) error {
	if b.Messages < 1 || b.Messages > mostBroadcast {
		return fmt.Errorf("a broadcast of %d messages: want 1 to %d", b.Messages, mostBroadcast)
	}
	_, err := h.run.each(ctx, order{Step: stepExpect, Broadcast: &b})
	return err
}

// Heard tells what has arrived. With pull, devices that lack something ask for it first, as they would at their next comparison.
func (h *Held) Heard(ctx context.Context, pull bool) (Heard, error) {
	sum := NewHeard()
	answers, err := h.run.each(ctx, order{Step: stepHeard, Pull: pull})
	for _, a := range answers {
		if a.Heard != nil {
			sum.Add(*a.Heard)
		}
	}
	return sum, err
}

// User is the name of the run's n-th user.
func (c Config) User(n int) string { return c.user(n) }

func (c Config) user(n int) string { return c.prefix() + strconv.Itoa(n) }

// Broadcast is one run of messages to everybody: the same ones in each of some large groups. Device n is in group n / Members.
type Broadcast struct {
	Members  int
	Groups   []BroadcastGroup
	Messages int
}

// BroadcastGroup is a group, and the head that it had before.
type BroadcastGroup struct {
	Conversation string
	Head         uint64
}

const (
	mostBroadcast = 32 // A device remembers them in so many bits.
	broadcastMark = "broadcast"
)

// BroadcastText is the text of the n-th message, counted from 0: it tells receivers when it was due.
func BroadcastText(n int, due time.Time) string {
	return broadcastMark + " " + strconv.Itoa(n) + " " + strconv.FormatInt(due.UnixNano(), 10)
}

func parseBroadcast(text string) (n int, due time.Time, ok bool) {
	fields := strings.Fields(text)
	if len(fields) != 3 || fields[0] != broadcastMark {
		return 0, due, false
	}
	n, err1 := strconv.Atoi(fields[1])
	nanos, err2 := strconv.ParseInt(fields[2], 10, 64)
	return n, time.Unix(0, nanos), err1 == nil && err2 == nil && n >= 0 && n < mostBroadcast
}

// Heard is what devices got of a broadcast.
type Heard struct {
	Devices     int64 // Of the groups.
	Complete    int64 // Of these, who have every message.
	Records     int64
	Pulled      int64 // Of the records, those that were asked for.
	Redelivered int64 // Further copies, which a device drops.
	Strays      int64 // Frames of other conversations, or that are not to be understood.
	Resyncs     int64 // Devices that were told to compare.
	Deliver     generator.Histogram
	Last        time.Time // When the last new record came.
}

// NewHeard is nothing heard.
func NewHeard() Heard { return Heard{Deliver: generator.NewHistogram()} }

// Add sums.
func (h *Heard) Add(o Heard) {
	h.Devices += o.Devices
	h.Complete += o.Complete
	h.Records += o.Records
	h.Pulled += o.Pulled
	h.Redelivered += o.Redelivered
	h.Strays += o.Strays
	h.Resyncs += o.Resyncs
	h.Deliver.Add(o.Deliver)
	if o.Last.After(h.Last) {
		h.Last = o.Last
	}
}

// ear is what the devices of one worker hear; it belongs to its loop.
type ear struct {
	expected *Broadcast
	heard    Heard
	record   recordv1.Record
	reply    conversationv1.HistoryReply
}

// askBroadcast is the request id of a device that pulls.
const askBroadcast = generator.FirstRequestID

// ear is that of the worker on which device n of the share lives.
func (w *idlers) ear(n int) *ear { return &w.ears[n%len(w.ears)] }

// hear takes a frame in, on the loop.
func (w *idlers) hear(d *idler, f *envelopev1.Frame) {
	e := w.ear(int(d.number) - w.first)
	if e.expected == nil {
		return
	}
	switch {
	case f.Command == envelopev1.Command_COMMAND_RESYNC:
		e.heard.Resyncs++
	case f.Command == envelopev1.Command_COMMAND_RECORD:
		e.record.Reset()
		if f.Conversation != d.group(e.expected).Conversation || e.record.UnmarshalVTUnsafe(f.Body) != nil {
			if !strings.HasPrefix(f.Conversation, "u:") { // Its user's own log may move.
				e.heard.Strays++
			}
			return
		}
		e.take(d, &e.record, false)
	case f.RequestId == askBroadcast && f.Error == nil:
		e.reply.Reset()
		if e.reply.UnmarshalVTUnsafe(f.Body) != nil {
			e.heard.Strays++
			return
		}
		for _, r := range e.reply.Records {
			e.take(d, r, true)
		}
	}
}

func (d *idler) group(b *Broadcast) BroadcastGroup {
	if g := int(d.number) / b.Members; g < len(b.Groups) {
		return b.Groups[g]
	}
	return BroadcastGroup{}
}

func (e *ear) take(d *idler, r *recordv1.Record, pulled bool) {
	if r.Seq <= d.group(e.expected).Head {
		return // Written before the broadcast, and on its way still when devices were told of it.
	}
	n, due, ok := parseBroadcast(r.GetMessage().GetText().GetText())
	if !ok || n >= e.expected.Messages {
		if !pulled { // History has other records too.
			e.heard.Strays++
		}
		return
	}
	if d.got&(1<<n) != 0 {
		if !pulled {
			e.heard.Redelivered++
		}
		return
	}
	d.got |= 1 << n
	now := time.Now()
	e.heard.Records++
	e.heard.Last = now
	if pulled {
		e.heard.Pulled++
		return
	}
	generator.Record(e.heard.Deliver, int64(now.Sub(due)))
}

// eachWorker has f run on every loop that there is, with the numbers of its devices in the share.
func (w *idlers) eachWorker(ctx context.Context, f func(e *ear, devices func(func(d *idler)))) {
	workers := w.fleet.Workers()
	for i, worker := range workers {
		worker.Ask(ctx, func() {
			f(&w.ears[i], func(do func(d *idler)) {
				for n := i; n < len(w.devices); n += len(workers) {
					do(&w.devices[n])
				}
			})
		})
	}
}

func (w *idlers) expect(ctx context.Context, b *Broadcast) *Heard {
	w.eachWorker(ctx, func(e *ear, devices func(func(d *idler))) {
		e.expected, e.heard = b, NewHeard()
		devices(func(d *idler) { d.got = 0 })
	})
	return nil
}

func (w *idlers) heard(ctx context.Context, pull bool) *Heard {
	if pull {
		w.eachWorker(ctx, func(e *ear, devices func(func(d *idler))) {
			devices(func(d *idler) { d.pull(e) })
		})
		pause(ctx, pullPatience)
	}
	sum := NewHeard()
	w.eachWorker(ctx, func(e *ear, devices func(func(d *idler))) {
		if e.expected == nil {
			return
		}
		e.heard.Devices, e.heard.Complete = 0, 0
		devices(func(d *idler) {
			if d.group(e.expected).Conversation == "" {
				return
			}
			e.heard.Devices++
			if bits.OnesCount32(d.got) == e.expected.Messages {
				e.heard.Complete++
			}
		})
		sum.Add(e.heard)
	})
	return &sum
}

// pullPatience is how long devices that asked are waited for.
const pullPatience = 3 * time.Second

// pull asks for what the device lacks.
func (d *idler) pull(e *ear) {
	if e.expected == nil || !d.session.IsUp() || bits.OnesCount32(d.got) == e.expected.Messages {
		return
	}
	group := d.group(e.expected)
	if group.Conversation == "" {
		return
	}
	body, err := (&conversationv1.HistoryRequest{AfterSeq: group.Head, Limit: mostBroadcast}).MarshalVT()
	if err != nil {
		return
	}
	d.session.SendFrame(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, RequestId: askBroadcast, Conversation: group.Conversation, Body: body,
	})
}

// Groups cuts n devices into groups of at most most members, of nearly one size, and returns that size.
func Groups(n, most int) (count, members int) {
	count = max(1, (n+most-1)/most)
	return count, (n + count - 1) / count
}
