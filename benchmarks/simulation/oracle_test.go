package simulation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/halley-im/halley/pkg/link"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// question is one transmission of one session, and asked what it was.
type question struct{ conn, request uint64 }

type asked struct {
	conversation, user, device string
	clientID                   string // of a write
}

// checkSent holds what an owner sends to the log as it is at that moment: an ack and a push are of a record that is committed,
// and go to one who may know it.
func (w *world) checkSent(p *proc, n *node, d *link.Delivery) {
	f := &envelopev1.Frame{}
	if err := f.UnmarshalVT(d.Frame); err != nil {
		w.violated("frame", "%s sends one that cannot be decoded: %v", p.name, err)
		return
	}
	w.mu.Lock()
	q, to := w.asked[question{d.Conn, d.Answers}], w.online[d.Conn]
	w.mu.Unlock()
	switch {
	case d.Answers != 0 && f.Error == nil && q != nil && q.clientID != "":
		ack := &recordv1.Ack{}
		if err := ack.UnmarshalVT(f.Body); err != nil {
			w.violated("frame", "%s sends an ack that cannot be decoded: %v", p.name, err)
			return
		}
		w.step("ack: %s of %s %s as %d", p.name, q.conversation, q.clientID, ack.Seq)
		r := w.log.committed(q.conversation, ack.Seq)
		if r == nil || r.ClientId != q.clientID || r.Sender != q.user || r.Device != q.device {
			w.violated("acked is committed", "%s acks %s/%s %s in %s as %d, where the log has %q", p.name, q.user, q.device, q.clientID,
				q.conversation, ack.Seq, r.GetClientId())
		}
	case d.Answers == 0 && f.Command == envelopev1.Command_COMMAND_RECORD:
		r := &recordv1.Record{}
		if err := r.UnmarshalVT(f.Body); err != nil {
			w.violated("frame", "%s pushes a record that cannot be decoded: %v", p.name, err)
			return
		}
		w.step("push: %s of %s %d to %s", p.name, f.Conversation, r.Seq, to.name)
		if have := w.log.committed(f.Conversation, r.Seq); have == nil || have.ClientId != r.ClientId || have.Sender != r.Sender {
			w.violated("delivered is committed", "%s delivers %s %d %q, where the log has %q", p.name, f.Conversation, r.Seq, r.ClientId,
				have.GetClientId())
		} else if _, may := w.log.reach(f.Conversation, to.user); !within(may, r.Seq) {
			w.violated("members only", "%s delivers %s %d to %s", p.name, f.Conversation, r.Seq, to.user)
		}
	}
}

// isAcked holds what a device was told to the log.
func (w *world) isAcked(d *device, conversation, clientID string, seq uint64) {
	w.count(func(c *counts) { c.acked++ })
	r := w.log.committed(conversation, seq)
	if r == nil || r.ClientId != clientID || r.Sender != d.user || r.Device != d.dev {
		w.violated("acked is committed", "%s: %s in %s was acked as %d, where the log has %q", d.name, clientID, conversation, seq, r.GetClientId())
	}
}

// isRefused: what was refused for good is not in the log.
func (w *world) isRefused(d *device, conversation, clientID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = append(w.refused, asked{conversation, d.user, d.dev, clientID})
}

// isShown holds what the application sees to the log.
func (w *world) isShown(d *device, conversation string, r *recordv1.Record) {
	have := w.log.committed(conversation, r.Seq)
	_, may := w.log.reach(conversation, d.user)
	switch {
	case have == nil || have.ClientId != r.ClientId || have.Sender != r.Sender:
		w.violated("delivered is committed", "%s shows %s %d %q, where the log has %q", d.name, conversation, r.Seq, r.ClientId, have.GetClientId())
	case !within(may, r.Seq):
		w.violated("members only", "%s shows %s %d", d.name, conversation, r.Seq)
	}
}

// behind says what devices still lack; empty: every device is complete and every write has its answer.
func (w *world) behind() []string {
	var out []string
	for _, d := range w.devices {
		d.mu.Lock()
		for _, c := range d.chats {
			if n := len(c.queue); n > 0 {
				out = append(out, fmt.Sprintf("%s: %d writes in %s have no answer", d.name, n, c.id))
			}
			if want := w.expected(c.id, d.user); !slices.Equal(c.shown, want) {
				out = append(out, fmt.Sprintf("%s shows of %s %v, and not %v", d.name, c.id, c.shown, want))
			}
		}
		d.mu.Unlock()
	}
	if floor, last := w.follower.readFloor(), w.log.state().Last; floor < last {
		out = append(out, fmt.Sprintf("history has up to block %d of %d", floor, last))
	}
	return out
}

// expected is every record of a conversation that the user may read.
func (w *world) expected(conversation, user string) []uint64 {
	head, may := w.log.reach(conversation, user)
	var out []uint64
	for seq := uint64(1); seq <= head; seq++ {
		if within(may, seq) {
			out = append(out, seq)
		}
	}
	return out
}

// audit reads the log when all is over.
func (w *world) audit() {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	var epoch, id uint64
	var timeUs int64
	for i, b := range w.log.block {
		fence := b.Kind.String() == "KIND_FENCE"
		if b.Epoch < epoch || fence && b.Epoch == epoch {
			w.violated("epochs rise", "block %d: epoch %d after %d", i+1, b.Epoch, epoch)
		}
		epoch = b.Epoch
		for _, r := range b.Records {
			if r.TimeUs <= timeUs || r.Id <= id {
				w.violated("times rise", "%s %d: time %d after %d", r.Conversation, r.Seq, r.TimeUs, timeUs)
			}
			timeUs, id = r.TimeUs, r.Id
		}
	}
	order := map[string]int{}
	for conversation, t := range w.log.truth {
		for _, r := range t.records {
			key := conversation + " " + r.Sender + "/" + r.Device
			var n int
			if _, err := fmt.Sscanf(r.ClientId, "w%d", &n); err != nil {
				continue
			}
			if n < order[key] {
				w.violated("device order", "%s: w%d stands behind w%d", key, n, order[key])
			}
			order[key] = n
		}
	}
	for _, q := range w.refused {
		for _, r := range w.log.truth[q.conversation].all() {
			if r.ClientId == q.clientID && r.Sender == q.user && r.Device == q.device {
				w.violated("refused is not written", "%s/%s %s stands in %s at %d", q.user, q.device, q.clientID, q.conversation, r.Seq)
			}
		}
	}
}

// verdict is what a run says of itself.
func (w *world) verdict() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.failures, "\n")
}
