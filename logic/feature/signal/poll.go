package signal

import (
	"context"
	"slices"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

const (
	pollEvery = 2 * time.Second
	// lookups are asked of presence at once, and compared under the lock at once.
	lookups = 512
	// After so many polls in a row that failed, those who watch are told that nobody knows: one slow answer is no news.
	failedPolls = 2
)

// Run tells sessions who comes and goes until ctx ends. It fails at nothing.
func (w *Watches) Run(ctx context.Context) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.poll(ctx)
		}
	}
}

// poll looks everybody up, and only then tells: where presence fails in the middle, nothing is known of anyone, and nobody is
// told of some what the next poll takes back.
func (w *Watches) poll(ctx context.Context) {
	began := time.Now()
	w.snapshot()
	known := w.lookUp(ctx)
	if ctx.Err() != nil {
		return
	}
	for from := 0; from < len(w.users); from += lookups {
		to := min(from+lookups, len(w.users))
		t := teller{began: began, tell: known || w.failed >= failedPolls}
		w.mu.Lock()
		for i := from; i < to; i++ {
			s := w.subjects[w.users[i]]
			if s == nil { // Nobody's any more.
				continue
			}
			if known {
				w.sight(s, w.found[i], began)
			}
			w.compare(&t, s, known, len(w.found[i]) > 0)
		}
		w.mu.Unlock()
		for _, b := range t.batches {
			w.sender.Send(b.node, &b.batch)
		}
		if t.err != nil {
			w.log.Error("presence cannot be encoded", "err", t.err)
		}
	}
	clear(w.found) // They are the registry's.
}

// snapshot notes whom the poll asks for.
func (w *Watches) snapshot() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.subjects)
	if cap(w.users) > 4*(n+lookups) { // What a busy hour took is given back.
		w.users, w.found = nil, nil
	}
	clear(w.users)
	w.users = slices.Grow(w.users[:0], n)
	for user := range w.subjects {
		w.users = append(w.users, user)
	}
	w.found = slices.Grow(w.found[:0], n)[:n]
}

// lookUp fills found, and reports whether it is the truth about everyone.
func (w *Watches) lookUp(ctx context.Context) bool {
	for from := 0; from < len(w.users); from += lookups {
		to := min(from+lookups, len(w.users))
		entries, err := w.presence.Lookup(ctx, w.users[from:to], w.found[from:from:to])
		if err != nil {
			if w.failed++; w.failed == failedPolls {
				w.log.Warn("presence is not known; sessions that watch are told so", "err", err)
			}
			return false
		}
		copy(w.found[from:to], entries)
	}
	if w.failed >= failedPolls {
		w.log.Info("presence is known again")
	}
	w.failed = 0
	return true
}

// sight ends the sessions of a user that are not among its entries any more.
func (w *Watches) sight(owner *subject, entries []presence.Entry, began time.Time) {
	for s := range owner.sessions {
		i := slices.IndexFunc(entries, func(e presence.Entry) bool { return e.Conn == s.conn && e.Node == s.node })
		switch {
		case i >= 0:
			s.generation = entries[i].Generation
		case s.generation != 0 || began.After(s.asked.Add(arriving)):
			w.end(s) // Before that, it may be on its way into presence.
		}
	}
}

// compare ends what has expired, and tells those who were told something else last.
func (w *Watches) compare(t *teller, target *subject, known, online bool) {
	t.turn(target.User.User)
	for s, one := range target.watchers {
		w.withdraw(s, target, func(g grant) bool { return !t.began.Before(g.until) })
		if len(one.grants) == 0 || !t.tell || s.generation == 0 || t.began.Before(one.settled) {
			continue
		}
		now := told{something: true, online: online}
		if !known {
			now.online, now.degraded = one.told.online, true
		}
		if now != one.told && t.add(s, now) {
			one.told = now
		}
	}
}

// teller gathers the frames of one part of a poll by node.
type teller struct {
	began   time.Time
	tell    bool
	batches []nodeBatch
	err     error

	// The frames about one user, encoded once for each codec.
	user   string
	frames map[variant][]byte
}

type nodeBatch struct {
	node  string
	batch link.Batch
}

type variant struct {
	told
	codec link.Codec
}

func (t *teller) turn(user string) {
	t.user = user
	clear(t.frames)
}

// add reports whether the session will be told.
func (t *teller) add(s *session, now told) bool {
	v := variant{now, s.codec}
	frame := t.frames[v]
	if frame == nil {
		var err error
		if frame, err = encode(t.user, v); err != nil {
			t.err = err
			return false
		}
		if t.frames == nil {
			t.frames = map[variant][]byte{}
		}
		t.frames[v] = frame
	}
	d := link.Delivery{Conn: s.conn, Frame: frame, Generation: s.generation}
	for i := range t.batches {
		if t.batches[i].node == s.node {
			t.batches[i].batch.Deliveries = append(t.batches[i].batch.Deliveries, d)
			return true
		}
	}
	// Epoch 0: this is no partition's word.
	t.batches = append(t.batches, nodeBatch{s.node, link.Batch{Deliveries: []link.Delivery{d}}})
	return true
}

// encode makes the frame of a push. It names no conversation: presence is a user's, a session that watches the user in several
// is told once, and all who watch share one frame.
func encode(user string, v variant) ([]byte, error) {
	json := v.codec == link.CodecJSON
	body, err := protocol.EncodeBody(json, v.presence(user))
	if err != nil {
		return nil, err
	}
	return protocol.EncodeFrame(json, &envelopev1.Frame{Command: envelopev1.Command_COMMAND_PRESENCE, Body: body})
}
