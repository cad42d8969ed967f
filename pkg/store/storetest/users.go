package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/halley-im/halley/pkg/store"
)

var userStories = []story{
	{"the newer standing wins", newerStandingWins},
	{"touches only rise and need no standing", touchesOnlyRise},
	{"a list of 5,000 conversations", longList},
	{"a list stops where its reader says", listStops},
}

const minuteUs = 60_000_000

// list returns a user's rows ordered by conversation.
func list(t *testing.T, ctx context.Context, s store.Store, app, user string) []store.Listing {
	t.Helper()
	var out []store.Listing
	err := s.List(ctx, app, user, func(l store.Listing) error {
		out = append(out, l)
		return nil
	})
	if err != nil {
		t.Fatalf("list of %s: %v", user, err)
	}
	slices.SortFunc(out, func(a, b store.Listing) int { return strings.Compare(a.Conversation, b.Conversation) })
	return out
}

func mustPut(t *testing.T, ctx context.Context, s store.Store, app, user string, standings ...store.Standing) {
	t.Helper()
	if err := s.PutStandings(ctx, app, of(user, standings...)); err != nil {
		t.Fatalf("put %d standings of %s: %v", len(standings), user, err)
	}
}

// of are standings of one user.
func of(user string, standings ...store.Standing) (list []store.UserStanding) {
	for _, st := range standings {
		list = append(list, store.UserStanding{User: user, Standing: st})
	}
	return list
}

func mustTouch(t *testing.T, ctx context.Context, s store.Store, app string, touches ...store.Touch) {
	t.Helper()
	if err := s.Touch(ctx, app, touches); err != nil {
		t.Fatalf("touch %d: %v", len(touches), err)
	}
}

func newerStandingWins(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	in := store.Standing{Conversation: "g:x", Seq: 5, Member: true, JoinedSeq: 5}
	out := store.Standing{Conversation: "g:x", Seq: 9, Member: false, JoinedSeq: 5, LeftSeq: 9}
	back := store.Standing{Conversation: "g:x", Seq: 4200, Member: true, JoinedSeq: 4200, LeftSeq: 9, Large: true}
	small := store.Standing{Conversation: "g:x", Seq: 4201, Member: true, JoinedSeq: 4200, LeftSeq: 9}
	want := store.Standing{}
	for _, st := range []store.Standing{{Conversation: "g:x"}, in, out, in, out, back, out, in, small, back, {Conversation: "g:x"}} {
		mustPut(t, ctx, s, app, "alice", st)
		if st.Seq > want.Seq {
			want = st
		}
		var rows []store.Listing
		if want.Seq > 0 {
			rows = []store.Listing{{Standing: want}}
		}
		same(t, fmt.Sprintf("list after seq %d", st.Seq), rows, list(t, ctx, s, app, "alice"))
	}
	// Several in one call, the newest in the middle.
	y := func(seq uint64) store.Standing {
		return store.Standing{Conversation: "g:y", Seq: seq, Member: seq%2 == 0, JoinedSeq: seq}
	}
	mustPut(t, ctx, s, app, "alice", y(3), y(8), y(5))
	same(t, "list", []store.Listing{{Standing: small}, {Standing: y(8)}}, list(t, ctx, s, app, "alice"))
	same(t, "list of another user", []store.Listing(nil), list(t, ctx, s, app, "alic"))
}

func touchesOnlyRise(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	const base = 28_000_000
	touch := func(user, conversation string, minute int64) store.Touch {
		return store.Touch{User: user, Conversation: conversation, MinuteUs: (base + minute) * minuteUs}
	}
	mustTouch(t, ctx, s, app, touch("alice", "g:x", 3), touch("alice", "g:y", 1), touch("bob", "g:x", 2))
	mustTouch(t, ctx, s, app, touch("alice", "g:x", 1), touch("alice", "g:y", 7), touch("alice", "g:y", 5))
	mustTouch(t, ctx, s, app)
	want := []store.Listing{
		{Standing: store.Standing{Conversation: "g:x"}, ActiveUs: (base + 3) * minuteUs},
		{Standing: store.Standing{Conversation: "g:y"}, ActiveUs: (base + 7) * minuteUs},
	}
	same(t, "list of alice", want, list(t, ctx, s, app, "alice"))
	same(t, "list of bob", []store.Listing{{Standing: store.Standing{Conversation: "g:x"}, ActiveUs: (base + 2) * minuteUs}}, list(t, ctx, s, app, "bob"))

	// A standing and a touch live in one row and do not disturb each other.
	st := store.Standing{Conversation: "g:x", Seq: 4, Member: true, JoinedSeq: 4}
	mustPut(t, ctx, s, app, "alice", st)
	want[0].Standing = st
	same(t, "list with a standing", want, list(t, ctx, s, app, "alice"))
	mustTouch(t, ctx, s, app, touch("alice", "g:x", 9))
	want[0].ActiveUs = (base + 9) * minuteUs
	same(t, "list after one more touch", want, list(t, ctx, s, app, "alice"))

	// They may come together; the one counts whether or not the other does.
	for _, with := range []struct {
		seq    uint64
		minute int64
	}{{6, 11}, {5, 12}, {7, 10}, {0, 13}} {
		put := store.UserStanding{User: "alice", Standing: store.Standing{Conversation: "g:x", Seq: with.seq, JoinedSeq: 4}, MinuteUs: (base + with.minute) * minuteUs}
		if err := s.PutStandings(ctx, app, []store.UserStanding{put}); err != nil {
			t.Fatal(err)
		}
		if with.seq > want[0].Seq {
			want[0].Standing = put.Standing
		}
		want[0].ActiveUs = max(want[0].ActiveUs, put.MinuteUs)
		same(t, fmt.Sprintf("list after standing %d with minute %d", with.seq, with.minute), want, list(t, ctx, s, app, "alice"))
	}
}

func longList(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	var want []store.Listing
	var standings []store.Standing
	var touches []store.Touch
	for i := range 5000 {
		l := store.Listing{Standing: store.Standing{Conversation: fmt.Sprintf("g:%05d", i), Seq: uint64(i + 1), Member: i%7 != 0, JoinedSeq: uint64(i%3 + 1)}}
		if i%2 == 0 {
			l.ActiveUs = int64(28_000_000+i) * minuteUs
			touches = append(touches, store.Touch{User: "alice", Conversation: l.Conversation, MinuteUs: l.ActiveUs})
		}
		want = append(want, l)
		standings = append(standings, l.Standing)
	}
	rng.Shuffle(len(standings), func(a, b int) { standings[a], standings[b] = standings[b], standings[a] })
	mustPut(t, ctx, s, app, "alice", standings...)
	mustTouch(t, ctx, s, app, touches...)
	mustPut(t, ctx, s, app, "alice2", store.Standing{Conversation: "g:other", Seq: 1})
	same(t, "list", want, list(t, ctx, s, app, "alice"))
}

func listStops(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	for i := range 20 {
		mustPut(t, ctx, s, app, "alice", store.Standing{Conversation: fmt.Sprintf("g:%d", i), Seq: 1, Member: true})
	}
	enough := errors.New("enough")
	rows := 0
	err := s.List(ctx, app, "alice", func(l store.Listing) error {
		// The reader may ask the store meanwhile.
		if _, err := s.Head(ctx, store.Conversation{App: app, ID: l.Conversation}); err != nil {
			return err
		}
		if rows++; rows == 3 {
			return enough
		}
		return nil
	})
	if err != enough || rows != 3 { //nolint:errorlint // As it is, not wrapped: that is the contract.
		t.Fatalf("list stopped after %d rows with %v, want 3 and the reader's own error", rows, err)
	}
}
