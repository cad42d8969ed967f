package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

var boundaryStories = []story{
	{"two apps do not see each other", appsAreApart},
	{"names that look like keys stay apart", hostileNames},
	{"what cannot be held is refused whole", invalidIsRefused},
	{"concurrent writers", concurrentWriters},
	{"an ended context ends the call", endedContext},
}

// everything is all that a store says of one conversation and user.
type everything struct {
	Records   []*logv1.Record
	Head      *logv1.Record
	Members   []store.Member
	Intervals []store.Interval
	Cursor    store.Cursor
	List      []store.Listing
}

func readAll(t *testing.T, ctx context.Context, s store.Store, c store.Conversation, user string) everything {
	t.Helper()
	e := everything{Records: mustRange(t, ctx, s, c, 0, math.MaxUint64, 1000, false), Members: mustMembers(t, s, c)}
	var errs [3]error
	e.Head, errs[0] = s.Head(ctx, c)
	e.Intervals, errs[1] = s.Intervals(ctx, c, user)
	e.Cursor, errs[2] = s.Cursor(ctx, c, user)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatalf("read %v: %v", c, err)
	}
	e.List = list(t, ctx, s, c.App, user)
	return e
}

// fill writes something of every kind and returns what must be read back. n tells one filling from another.
func fill(t *testing.T, ctx context.Context, s store.Store, c store.Conversation, user string, n uint64) everything {
	t.Helper()
	rs := records(c, n, n+1)
	rs[0].Joined = []string{user}
	mustAppend(t, ctx, s, rs)
	cursor := store.Cursor{User: user, Seq: n, Count: n}
	if err := s.SetCursors(ctx, c, []store.Cursor{cursor}); err != nil {
		t.Fatalf("set cursor: %v", err)
	}
	row := store.Listing{Standing: store.Standing{Conversation: c.ID, Seq: n, Member: true, JoinedSeq: n}, ActiveUs: int64(n) * minuteUs}
	mustPut(t, ctx, s, c.App, user, row.Standing)
	mustTouch(t, ctx, s, c.App, store.Touch{User: user, Conversation: c.ID, MinuteUs: row.ActiveUs})
	head := record(c, n+1)
	head.Body = nil
	in := []store.Interval{{From: n}}
	return everything{rs, head, []store.Member{{User: user, Intervals: in, Cursor: cursor}}, in, cursor, []store.Listing{row}}
}

func appsAreApart(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	// One app's name is the beginning of the other's.
	a, b := store.Conversation{App: app, ID: "g:x"}, store.Conversation{App: app + "x", ID: "g:x"}
	wantA := fill(t, ctx, s, a, "alice", 10)
	same(t, "the other app, before it wrote anything", everything{}, readAll(t, ctx, s, b, "alice"))
	wantB := fill(t, ctx, s, b, "alice", 500)
	same(t, "one app", wantA, readAll(t, ctx, s, a, "alice"))
	same(t, "the other app", wantB, readAll(t, ctx, s, b, "alice"))
}

func hostileNames(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	names := []string{"a", "a:", "a:b", ":", "::", "a/b", "a'b", `a"b`, "a;b", "a b", "ä", "日本", "%00", "\x00", "a\x00", "a\x00b", "\x01", "\x7f"}
	names = append(names, "a\x00\x00\x00\x00\x00\x00\x00\x01", fmt.Sprintf("%0255d", 7))
	want := make([]everything, len(names))
	for i, name := range names {
		// The name is the conversation, the user and the end of the app; each keeps its own.
		want[i] = fill(t, ctx, s, store.Conversation{App: app + name[:min(len(name), 200)], ID: name}, name, uint64(100*(i+1)))
	}
	for i, name := range names {
		same(t, fmt.Sprintf("%q", name), want[i], readAll(t, ctx, s, store.Conversation{App: app + name[:min(len(name), 200)], ID: name}, name))
	}
	// All of them in one app: neighbours in key order.
	for i, name := range names {
		want[i] = fill(t, ctx, s, store.Conversation{App: app, ID: name}, name, uint64(100*(i+1)))
	}
	for i, name := range names {
		same(t, fmt.Sprintf("%q in one app", name), want[i], readAll(t, ctx, s, store.Conversation{App: app, ID: name}, name))
	}
}

func invalidIsRefused(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:x"}
	nowhere := store.Conversation{App: app}
	bad := record(c, 2)
	bad.Seq = 0
	_, rangeErr := s.Range(ctx, nowhere, 1, 2, 3, false)
	_, headErr := s.Head(ctx, nowhere)
	_, membersErr := s.Members(ctx, nowhere)
	_, intervalsErr := s.Intervals(ctx, c, "")
	_, cursorErr := s.Cursor(ctx, c, "")
	for what, err := range map[string]error{
		"append":        s.Append(ctx, []*logv1.Record{record(c, 1), bad, record(c, 3)}),
		"set cursors":   s.SetCursors(ctx, c, []store.Cursor{{User: "alice", Seq: 1}, {Seq: 1}}),
		"put standings": s.PutStandings(ctx, app, append(of("alice", store.Standing{Conversation: "g:x", Seq: 1}), of("", store.Standing{Conversation: "g:x", Seq: 1})...)),
		"touch":         s.Touch(ctx, app, []store.Touch{{User: "alice", Conversation: "g:x", MinuteUs: minuteUs}, {User: "alice"}}),
		"list":          s.List(ctx, app, "", func(store.Listing) error { return nil }),
		"range":         rangeErr, "head": headErr, "members": membersErr, "intervals": intervalsErr, "cursor": cursorErr,
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	same(t, "what was written", everything{}, readAll(t, ctx, s, c, "alice"))
}

func concurrentWriters(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	const writers, conversations, perWriter = 8, 5, 30
	conv := func(i int) store.Conversation { return store.Conversation{App: app, ID: fmt.Sprintf("g:%d", i)} }
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range perWriter {
				var rs []*logv1.Record
				for k := range conversations {
					// Every second record is written by two writers.
					seq := uint64(4096 - writers*perWriter/2 + i*writers + w - w%2*(i%2))
					rs = append(rs, record(conv(k), seq))
				}
				if err := s.Append(ctx, rs); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				// What this writer was told is durable must be readable at once.
				got, err := s.Range(ctx, conv(w%conversations), rs[0].Seq, rs[0].Seq, 1, true)
				if err != nil || len(got) != 1 {
					t.Errorf("writer %d does not read its own record %d: %v, %v", w, rs[0].Seq, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for k := range conversations {
		got := mustRange(t, ctx, s, conv(k), 0, math.MaxUint64, 1000, false)
		want := map[uint64]bool{}
		for w := range writers {
			for i := range perWriter {
				want[uint64(4096-writers*perWriter/2+i*writers+w-w%2*(i%2))] = true
			}
		}
		if len(got) != len(want) {
			t.Fatalf("conversation %d holds %d records, want %d", k, len(got), len(want))
		}
		for _, r := range got {
			if !want[r.Seq] {
				t.Fatalf("conversation %d holds seq %d, which nobody wrote", k, r.Seq)
			}
			same(t, "record", record(conv(k), r.Seq), r)
		}
	}
}

func endedContext(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:x"}
	fill(t, ctx, s, c, "alice", 1)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancelLate := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancelLate()
	for ended, want := range map[context.Context]error{cancelled: context.Canceled, late: context.DeadlineExceeded} {
		_, rangeErr := s.Range(ended, c, 1, 2, 3, false)
		_, headErr := s.Head(ended, c)
		_, membersErr := s.Members(ended, c)
		_, intervalsErr := s.Intervals(ended, c, "alice")
		_, cursorErr := s.Cursor(ended, c, "alice")
		for what, err := range map[string]error{
			"append":        s.Append(ended, records(c, 9)),
			"set cursors":   s.SetCursors(ended, c, []store.Cursor{{User: "alice", Seq: 9}}),
			"put standings": s.PutStandings(ended, app, of("alice", store.Standing{Conversation: "g:y", Seq: 1})),
			"touch":         s.Touch(ended, app, []store.Touch{{User: "alice", Conversation: "g:y", MinuteUs: minuteUs}}),
			"list":          s.List(ended, app, "alice", func(store.Listing) error { return nil }),
			"ping":          s.Ping(ended),
			"range":         rangeErr, "head": headErr, "members": membersErr, "intervals": intervalsErr, "cursor": cursorErr,
		} {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
	}
	var standings []store.Standing
	for i := range 3000 {
		standings = append(standings, store.Standing{Conversation: fmt.Sprintf("g:%d", i), Seq: 1})
	}
	mustPut(t, ctx, s, app, "bob", standings...)
	walking, stop := context.WithCancel(ctx)
	defer stop()
	err := s.List(walking, app, "bob", func(store.Listing) error {
		stop()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a list cancelled while it is read: %v, want context.Canceled", err)
	}
}

func closedStoreSaysSo(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:x"}
	fill(t, ctx, s, c, "alice", 1)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("a second close: %v", err)
	}
	_, rangeErr := s.Range(ctx, c, 1, 2, 3, false)
	_, headErr := s.Head(ctx, c)
	for what, err := range map[string]error{
		"append":      s.Append(ctx, records(c, 2)),
		"set cursors": s.SetCursors(ctx, c, []store.Cursor{{User: "alice", Seq: 9}}),
		"list":        s.List(ctx, app, "alice", func(store.Listing) error { return nil }),
		"ping":        s.Ping(ctx),
		"range":       rangeErr,
		"head":        headErr,
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
}
