package storetest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

const walkSteps = 400

// walker makes random calls on a store and on the model, in a world so small that calls meet.
type walker struct {
	t     *testing.T
	ctx   context.Context
	s     store.Store
	m     *model
	rng   *rand.Rand
	apps  []string
	convs []string
	users []string
}

func randomWalk(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	w := &walker{
		t: t, ctx: ctx, s: s, m: newModel(), rng: rng,
		apps:  []string{app, app + "\x00"},
		convs: []string{"g:a", "g:a\x00", "d:a:b", "u:a"},
		users: []string{"a", "b", "aa", "a\x00", "zoe"},
	}
	for step := range walkSteps {
		w.write()
		if step%20 == 19 {
			for range 4 {
				w.read()
			}
		}
	}
	for _, a := range w.apps {
		for _, id := range w.convs {
			w.compare(store.Conversation{App: a, ID: id})
		}
		for _, u := range w.users {
			same(t, "list of "+u, w.m.list(a, u), list(t, ctx, s, a, u))
		}
	}
}

func (w *walker) conversation() store.Conversation {
	return store.Conversation{App: pick(w.rng, w.apps), ID: pick(w.rng, w.convs)}
}

// seq prefers the neighbourhood of borders and of each other.
func (w *walker) seq() uint64 {
	return pick(w.rng, []uint64{1, 4090, 8186, 40000}) + w.rng.Uint64N(12)
}

func (w *walker) write() {
	var err error
	switch c := w.conversation(); w.rng.IntN(6) {
	case 0, 1, 2:
		var rs []*logv1.Record
		for range 1 + w.rng.IntN(12) {
			rs = append(rs, w.record(w.conversation(), w.seq()))
		}
		err = w.s.Append(w.ctx, rs)
		w.m.append(rs)
	case 3:
		var cursors []store.Cursor
		for range 1 + w.rng.IntN(4) {
			seq := w.rng.Uint64N(9000)
			cursors = append(cursors, store.Cursor{User: pick(w.rng, w.users), Seq: seq, Count: seq / 2})
		}
		err = w.s.SetCursors(w.ctx, c, cursors)
		w.m.setCursors(c, cursors)
	case 4:
		var standings []store.UserStanding
		for range 1 + w.rng.IntN(4) {
			seq := 1 + w.rng.Uint64N(50)
			standings = append(standings, of(pick(w.rng, w.users), store.Standing{
				Conversation: pick(w.rng, w.convs), Seq: seq, Member: seq%3 == 0, JoinedSeq: seq / 2, LeftSeq: seq / 3,
			})...)
			if w.rng.IntN(2) == 0 {
				standings[len(standings)-1].MinuteUs = (1 + w.rng.Int64N(100)) * minuteUs
			}
		}
		err = w.s.PutStandings(w.ctx, c.App, standings)
		w.m.put(c.App, standings)
	case 5:
		var touches []store.Touch
		for range 1 + w.rng.IntN(6) {
			touches = append(touches, store.Touch{User: pick(w.rng, w.users), Conversation: pick(w.rng, w.convs), MinuteUs: (1 + w.rng.Int64N(100)) * minuteUs})
		}
		err = w.s.Touch(w.ctx, c.App, touches)
		w.m.touch(c.App, touches)
	}
	if err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

// record depends on its arguments alone: the same seq always has the same record.
func (w *walker) record(c store.Conversation, seq uint64) *logv1.Record {
	r := record(c, seq)
	for i, u := range w.users {
		switch (seq*7 + uint64(i)*5 + uint64(len(c.ID))) % 9 {
		case 0:
			r.Joined = append(r.Joined, u)
		case 3:
			r.Left = append(r.Left, u)
		case 6:
			r.Joined, r.Left = append(r.Joined, u), append(r.Left, u)
		}
	}
	return r
}

func (w *walker) read() {
	c := w.conversation()
	from, to := w.seq(), w.seq()
	if w.rng.IntN(3) == 0 {
		to = math.MaxUint64
	}
	limit, newest := 1+w.rng.IntN(20), w.rng.IntN(2) == 0
	same(w.t, fmt.Sprintf("range of %v from %d to %d, limit %d, newest %v", c, from, to, limit, newest),
		seqsOf(w.m.rangeOf(c, from, to, limit, newest)), seqsOf(mustRange(w.t, w.ctx, w.s, c, from, to, limit, newest)))
	user := pick(w.rng, w.users)
	cursor, err := w.s.Cursor(w.ctx, c, user)
	if err != nil {
		w.t.Fatalf("cursor: %v", err)
	}
	same(w.t, "cursor", w.m.cursors[memberKey{c, user}], cursor)
	intervals, err := w.s.Intervals(w.ctx, c, user)
	if err != nil {
		w.t.Fatalf("intervals: %v", err)
	}
	same(w.t, "intervals", w.m.intervals(c, user), intervals)
}

// compare reads one conversation whole.
func (w *walker) compare(c store.Conversation) {
	same(w.t, fmt.Sprintf("records of %v", c), w.m.rangeOf(c, 0, math.MaxUint64, 1<<20, false), mustRange(w.t, w.ctx, w.s, c, 0, math.MaxUint64, 1<<20, false))
	head, err := w.s.Head(w.ctx, c)
	if err != nil {
		w.t.Fatalf("head of %v: %v", c, err)
	}
	same(w.t, fmt.Sprintf("head of %v", c), w.m.head(c), head)
	same(w.t, fmt.Sprintf("members of %v", c), w.m.members(c, w.users), mustMembers(w.t, w.s, c))
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }
