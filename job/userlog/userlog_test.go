package userlog_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job/internal/jobtest"
	"github.com/halley-im/halley/job/userlog"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

const partitions = 4

// fixture is a cluster with one log that is written to.
type fixture struct {
	*testing.T
	c *bus.Conn
	w *jobtest.Writer
	s *jobtest.Store
	m *prometheus.Registry
}

func setUp(t *testing.T) *fixture {
	c := bustest.Logs(t, partitions)
	return &fixture{T: t, c: c, w: jobtest.NewWriter(t, c, 0), s: jobtest.NewStore(), m: prometheus.NewRegistry()}
}

// start runs the follower on partition 0 until the test ends.
func (f *fixture) start() *bus.Follower {
	f.Helper()
	cfg := userlog.Default()
	cfg.RetryMs, cfg.RequestTimeoutMs, cfg.AckWaitMs = 20, 400, 1000
	if err := cfg.Validate(); err != nil {
		f.Fatal(err)
	}
	u := userlog.New(cfg, userlog.Deps{
		Conn: f.c, Partitions: partitions, Store: f.s, Log: bustest.Log(f.T), Metrics: f.m,
	})
	fo, err := u.Open(jobtest.Context(f.T), bustest.OpenLog(f.T, f.c, 0))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = u.Run(ctx, 0, fo) }) // ends with ctx's error
	f.Cleanup(func() { cancel(); wg.Wait(); fo.Close() })
	return fo
}

func (f *fixture) floorIs(fo *bus.Follower, floor uint64) {
	f.Helper()
	bustest.Until(f.T, fmt.Sprintf("floor %d", floor), func() bool {
		got, _, err := fo.Floor(jobtest.Context(f.T))
		if err != nil {
			f.Fatal(err)
		}
		if got > floor {
			f.Fatalf("floor is %d, above %d", got, floor)
		}
		return got == floor
	})
}

// ownersWrite does what the owners did who took the notices: each becomes a record of its user's log, here in the log that is followed.
func (f *fixture) ownersWrite(fo *bus.Follower, notices []jobtest.Notice) {
	f.Helper()
	for _, n := range notices {
		f.w.Standing(n)
	}
	f.floorIs(fo, f.w.Last)
}

func (f *fixture) standingIs(user, conversation string, want store.Standing) {
	f.Helper()
	want.Conversation = conversation
	if got, _ := f.s.Standing(user, conversation); got != want {
		f.Errorf("the list of %s has %+v, want %+v", user, got, want)
	}
}

func (f *fixture) counter(name string) float64 {
	f.Helper()
	families, err := f.m.Gather()
	if err != nil {
		f.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func everyPartition() []int { return []int{0, 1, 2, 3} }

func joined(conversation string, seq uint64, users ...string) *logv1.Record {
	r := jobtest.Message(conversation, seq)
	r.Joined = users
	return r
}

func left(conversation string, seq uint64, users ...string) *logv1.Record {
	r := jobtest.Message(conversation, seq)
	r.Left = users
	return r
}

func TestFirstMessageTellsBothUsers(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	f.w.Block(joined("d:alice:bob", 1, "alice", "bob"), jobtest.Message("d:alice:bob", 2))
	f.w.Block(jobtest.Message("d:alice:bob", 3)) // nothing follows from it
	f.floorIs(fo, 2)

	got, _ := o.Got()
	if len(got) != 2 {
		t.Fatalf("%d notices, want one for each of two users", len(got))
	}
	ids := map[string]bool{}
	for _, n := range got {
		if s := n.Standing; s.Conversation != "d:alice:bob" || s.Seq != 1 || !s.Member || s.JoinedSeq != 1 || s.LeftSeq != 0 {
			t.Errorf("%s is told %v", n.User, s)
		}
		ids[n.User] = true
	}
	if !ids["alice"] || !ids["bob"] {
		t.Errorf("told: %v", ids)
	}
	if row, _ := f.s.Standing("alice", "d:alice:bob"); row.Seq != 0 {
		t.Errorf("alice's list has what her log does not tell yet: %+v", row)
	}
	f.ownersWrite(fo, got)
	for _, user := range []string{"alice", "bob"} {
		f.standingIs(user, "d:alice:bob", store.Standing{Seq: 1, Member: true, JoinedSeq: 1})
		want := jobtest.Start.Truncate(time.Minute).UnixMicro()
		if _, minute := f.s.Standing(user, "d:alice:bob"); minute != want {
			t.Errorf("%s's list has the activity at %d, want %d", user, minute, want)
		}
	}
}

// The log says since when who leaves was a member; the store, which may be behind, is not asked.
func TestWhoLeavesIsToldSinceWhen(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	f.s.SetIntervals("g:x", "alice", store.Interval{From: 2})
	r := left("g:x", 12, "alice", "bob")
	r.Since = &logv1.Since{Left: []uint64{9, 11}}
	f.w.Block(r)
	f.floorIs(fo, 1)
	got, _ := o.Got()
	f.ownersWrite(fo, got)
	f.standingIs("alice", "g:x", store.Standing{Seq: 12, JoinedSeq: 9, LeftSeq: 12})
	f.standingIs("bob", "g:x", store.Standing{Seq: 12, JoinedSeq: 11, LeftSeq: 12})
}

// Of a block in which the log does not say since when, the store knows it once history has stored the block. Its word of before means nothing,
// be it that nobody joined or a time as a member that has ended since.
func TestWhatTheStoreSaysBeforeHistoryIsWaitedFor(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	history, err := f.w.Log.Follow(jobtest.Context(t), "history", bus.FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(history.Close)
	fo := f.start()
	f.s.SetIntervals("g:x", "alice", store.Interval{From: 2})
	f.w.Block(left("g:x", 13, "alice", "bob", "carol"))
	bustest.Until(t, "the follower has tried many times", func() bool { return f.counter("halley_job_userlog_retries_total") > 5 })
	if got, _ := o.Got(); len(got) != 0 {
		t.Fatalf("told: %v", got)
	}
	f.s.SetIntervals("g:x", "alice", store.Interval{From: 2, To: 5}, store.Interval{From: 9, To: 13})
	f.s.SetIntervals("g:x", "bob", store.Interval{From: 10})
	ds, err := history.Fetch(jobtest.Context(t), 1, 1<<20, bustest.Wait)
	if err != nil || len(ds) != 1 || ds[0].Ack() != nil {
		t.Fatalf("%v, %v", ds, err)
	}
	f.floorIs(fo, 1)
	got, _ := o.Got()
	f.ownersWrite(fo, got)
	f.standingIs("alice", "g:x", store.Standing{Seq: 13, JoinedSeq: 9, LeftSeq: 13})
	f.standingIs("bob", "g:x", store.Standing{Seq: 13, JoinedSeq: 10, LeftSeq: 13})
	f.standingIs("carol", "g:x", store.Standing{Seq: 13, LeftSeq: 13})
}

// With the record that crosses the line all members are told, in either direction, and no list moves but those of who joined.
func TestWhoIsInAConversationThatCrossesTheLineIsTold(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	up := joined("g:x", 9, "carol")
	up.Large, up.Active, up.Since = true, []string{"alice", "bob", "carol"}, &logv1.Since{Active: []uint64{1, 5, 9}}
	f.w.Block(up)
	f.floorIs(fo, 1)
	got, _ := o.Got()
	f.ownersWrite(fo, got)
	f.standingIs("alice", "g:x", store.Standing{Seq: 9, Member: true, JoinedSeq: 1, Large: true})
	f.standingIs("bob", "g:x", store.Standing{Seq: 9, Member: true, JoinedSeq: 5, Large: true})
	f.standingIs("carol", "g:x", store.Standing{Seq: 9, Member: true, JoinedSeq: 9, Large: true})
	if _, minute := f.s.Standing("alice", "g:x"); minute != 0 {
		t.Errorf("alice's list has an activity at %d", minute)
	}
	if len(got) != 3 {
		t.Fatalf("%d notices, want one for each of three members", len(got))
	}
	for _, n := range got {
		if !n.Standing.Large || !n.Standing.Member {
			t.Errorf("%s is told %v", n.User, n.Standing)
		}
	}
	down := left("g:x", 12, "carol")
	down.Active, down.Since = []string{"alice", "bob"}, &logv1.Since{Left: []uint64{9}, Active: []uint64{1, 5}}
	f.floorIs(fo, f.w.Block(down))
	got, _ = o.Got()
	f.ownersWrite(fo, got[3:])
	f.standingIs("alice", "g:x", store.Standing{Seq: 12, Member: true, JoinedSeq: 1})
	f.standingIs("carol", "g:x", store.Standing{Seq: 12, JoinedSeq: 9, LeftSeq: 12})
}

// Users' logs are conversations too; what happens in them must not be told to them again.
func TestUsersOwnLogsTellNobody(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	r := joined("u:alice", 1, "alice")
	r.Active = []string{"alice"}
	f.w.Block(r)
	f.floorIs(fo, 1)
	if got, _ := o.Got(); len(got) != 0 {
		t.Fatalf("told: %v", got)
	}
	if row, minute := f.s.Standing("alice", "u:alice"); row.Seq != 0 || minute != 0 {
		t.Errorf("the list of alice has her own log: %+v at %d", row, minute)
	}
}

func TestActivityRaisesTheListsOfMembers(t *testing.T) {
	f := setUp(t)
	jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	r := jobtest.Message("g:x", 7)
	r.Active = []string{"alice", "bob"}
	f.w.Block(r)
	f.floorIs(fo, 1)
	want := jobtest.Start.Truncate(time.Minute).UnixMicro()
	for _, user := range r.Active {
		if _, minute := f.s.Standing(user, "g:x"); minute != want {
			t.Errorf("%s's list has the activity at %d, want %d", user, minute, want)
		}
	}
}

// No owner, then one that answers retry, then one that takes it: the block is not acknowledged before.
func TestNoticesWaitForTheirOwner(t *testing.T) {
	f := setUp(t)
	fo := f.start()
	f.w.Block(joined("g:x", 1, "alice", "bob", "carol", "dave", "erin"))
	retried := func() {
		t.Helper()
		bustest.Until(t, "the block is tried again", func() bool {
			floor, pending, err := fo.Floor(jobtest.Context(t))
			if err == nil && floor != 0 {
				t.Fatal("the block is acknowledged")
			}
			return err == nil && pending == 1
		})
	}
	retried()
	var mu sync.Mutex
	refusals := 0
	o := jobtest.NewOwner(t, f.c, func(n jobtest.Notice) *protocol.Error {
		mu.Lock()
		defer mu.Unlock()
		if n.User == "carol" && refusals < 3 {
			refusals++
			return protocol.Errorf(protocol.CodeRetry, "owner is changing")
		}
		return nil
	}, everyPartition()...)
	f.floorIs(fo, 1)
	got, repeated := o.Got()
	if len(got) != 5 || refusals != 3 {
		t.Fatalf("%d notices after %d refusals, want 5 after 3", len(got), refusals)
	}
	if repeated != 0 {
		t.Errorf("%d notices came again though their owner had taken them", repeated)
	}
}

// A refusal that stands is passed over: nobody else waits for a user whom nobody can tell anything.
func TestNoticeRefusedForGoodHoldsUpNobody(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, func(n jobtest.Notice) *protocol.Error {
		if n.User == "alice" {
			return protocol.Invalid("user", "is not welcome")
		}
		return nil
	}, everyPartition()...)
	fo := f.start()
	f.w.Block(joined("g:x", 1, "alice", "bob"))
	f.floorIs(fo, 1)
	if got, _ := o.Got(); len(got) != 1 || got[0].User != "bob" {
		t.Fatalf("told: %v", got)
	}
}

func TestLargeGroupComesInBoundedRequests(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	const members = 5000
	for seq := uint64(1); seq <= members/1000; seq++ {
		users := make([]string, 1000)
		for i := range users {
			users[i] = fmt.Sprintf("user-%d-%d", seq, i)
		}
		f.w.Block(joined("g:large", seq, users...))
	}
	f.floorIs(fo, members/1000)
	got, repeated := o.Got()
	if len(got) != members || repeated != 0 {
		t.Fatalf("%d notices, %d repeated, want %d", len(got), repeated, members)
	}
	if o.Largest() > 500 {
		t.Errorf("a request has %d notices", o.Largest())
	}
}

// An owner that is too slow for what it is asked at once is asked for less, and no user's record is asked for again that it has written.
func TestASlowOwnerIsAskedForLess(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	o.Bear(40)
	fo := f.start()
	users := make([]string, 1000)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d", i)
	}
	f.w.Block(joined("g:large", 1, users...))
	f.floorIs(fo, 1)
	if got, repeated := o.Got(); len(got) != len(users) || repeated != 0 {
		t.Fatalf("%d notices, %d repeated, want %d and 0", len(got), repeated, len(users))
	}
}

// While the store is down nothing is acknowledged; when it is back, all is done.
func TestStoreDownHoldsTheFloor(t *testing.T) {
	f := setUp(t)
	o := jobtest.NewOwner(t, f.c, nil, everyPartition()...)
	fo := f.start()
	f.w.Block(joined("g:x", 1, "alice"))
	f.floorIs(fo, 1)
	got, _ := o.Got()
	f.s.SetDown(true)
	f.w.Standing(got[0]) // A row of a list is all that follows from it.
	bustest.Until(t, "it is tried again", func() bool { return f.counter("halley_job_userlog_retries_total") >= 2 })
	f.w.Block(joined("g:x", 2, "bob"))
	bustest.Until(t, "the owner has bob's notice", func() bool { got, _ := o.Got(); return len(got) == 2 })
	bustest.Until(t, "the later block, of which the store gets nothing, is done, and the first waits", func() bool {
		_, pending, err := fo.Floor(jobtest.Context(t))
		return err == nil && pending == 1
	})
	f.floorIs(fo, 1)
	f.s.SetDown(false)
	f.floorIs(fo, 3)
	if got, _ := o.Got(); len(got) != 2 {
		t.Fatalf("%d different notices, want 2", len(got))
	}
	f.standingIs("alice", "g:x", store.Standing{Seq: 1, Member: true, JoinedSeq: 1})
}

// What one call of the store refuses is tried again, and what others took is not.
func TestARefusedCallConcernsItsOwnBlocks(t *testing.T) {
	f := setUp(t)
	var mu sync.Mutex
	calls := map[string]int{} // By the first user of a call.
	f.s.OnPut = func(rows []store.UserStanding) error {
		mu.Lock()
		defer mu.Unlock()
		calls[rows[0].User]++
		if rows[0].User != "refused" || calls["refused"] > 4 {
			return nil
		}
		return jobtest.ErrDown
	}
	notice := func(user string) jobtest.Notice {
		return jobtest.Notice{User: user, ClientID: "s-" + user, Standing: &recordv1.Standing{Conversation: "g:x", Seq: 1, Member: true, JoinedSeq: 1}}
	}
	full := make([]jobtest.Notice, 500) // As many as one call takes.
	for i := range full {
		full[i] = notice(fmt.Sprint("taken-", i))
	}
	f.w.Standings(full...)
	f.w.Standings(notice("refused"))
	f.floorIs(f.start(), 2)
	mu.Lock()
	defer mu.Unlock()
	if calls["taken-0"] != 1 || calls["refused"] != 5 {
		t.Errorf("calls: %v, want 1 of what is taken and 5 of what is refused four times", calls)
	}
}
