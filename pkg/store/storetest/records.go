package storetest

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

var recordStories = []story{
	{"an unknown conversation is empty", unknownConversationIsEmpty},
	{"a record comes back as it went in", recordComesBackWhole},
	{"records belong to whoever holds them", recordsBelongToTheirHolder},
	{"any order of the same appends ends the same", anyOrderEndsTheSame},
	{"range keeps its bounds, limit and direction", rangeKeepsBounds},
	{"range crosses the borders of buckets", rangeCrossesBuckets},
	{"range steps over holes", rangeStepsOverHoles},
	{"the head is the highest record without its body", headIsHighest},
	{"a thousand conversations in one append", manyConversationsInOneAppend},
	{"bodies of 32 KiB", bigBodies},
}

func unknownConversationIsEmpty(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:nobody"}
	for _, newest := range []bool{false, true} {
		if got := mustRange(t, ctx, s, c, 1, math.MaxUint64, 10, newest); len(got) != 0 {
			t.Fatalf("range of an unknown conversation: %v", got)
		}
	}
	head, err := s.Head(ctx, c)
	if err != nil || head != nil {
		t.Fatalf("head of an unknown conversation: %v, %v", head, err)
	}
	mustAppend(t, ctx, s, nil)
	if err := s.Ping(ctx); err != nil {
		t.Fatalf("ping: %v", err)
	}
}

func recordComesBackWhole(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "d:alice:bob"}
	full := record(c, 1)
	full.Joined, full.Left, full.Active = []string{"alice", "bob"}, []string{"carol"}, []string{"alice"}
	full.Since = &logv1.Since{Left: []uint64{9}, Active: []uint64{3}}
	full.Body = []byte{0, 1, 0xff, 0x80, 0}
	bare := &logv1.Record{App: app, Conversation: c.ID, Seq: 2}
	extreme := record(c, store.MaxSeq)
	extreme.Count, extreme.Id, extreme.Target = math.MaxUint64, math.MaxUint64, math.MaxUint64
	mustAppend(t, ctx, s, []*logv1.Record{full, bare, extreme})
	same(t, "first two", []*logv1.Record{full, bare}, mustRange(t, ctx, s, c, 1, 2, 10, false))
	same(t, "last", []*logv1.Record{extreme}, mustRange(t, ctx, s, c, store.MaxSeq, math.MaxUint64, 10, true))
}

// A backend that keeps the caller's memory, or hands out its own, corrupts history when either is reused.
func recordsBelongToTheirHolder(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:buffers"}
	in, want := records(c, 1, 2, 3), records(c, 1, 2, 3)
	mustAppend(t, ctx, s, in)
	for _, r := range in {
		for i := range r.Body {
			r.Body[i] = 'X'
		}
		r.Sender = "mallory"
	}
	first := mustRange(t, ctx, s, c, 1, 3, 10, false)
	same(t, "after the caller reused its records", want, first)
	for i := range first[1].Body {
		first[1].Body[i] = 'Y'
	}
	same(t, "neighbours of a changed record", []*logv1.Record{want[0], want[2]}, []*logv1.Record{first[0], first[2]})
	same(t, "after the reader changed its records", want, mustRange(t, ctx, s, c, 1, 3, 10, false))
}

func anyOrderEndsTheSame(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	ids := []string{"g:in-order", "g:shuffled", "g:twice"}
	want := make([][]*logv1.Record, len(ids))
	for i, id := range ids {
		c := store.Conversation{App: app, ID: id}
		rs := records(c, span(4000, 4300)...)
		for j, r := range rs {
			switch j % 50 {
			case 10:
				r.Joined = []string{"bob", "carol"}
			case 30:
				r.Left = []string{"bob"}
			}
		}
		want[i] = slices.Clone(rs)
		if i > 0 {
			rng.Shuffle(len(rs), func(a, b int) { rs[a], rs[b] = rs[b], rs[a] })
		}
		if i == 2 {
			rs = append(rs, rs[:150]...)
		}
		for chunk := range slices.Chunk(rs, 1+rng.IntN(120)) {
			mustAppend(t, ctx, s, chunk)
		}
	}
	var members [][]store.Member
	for i, id := range ids {
		c := store.Conversation{App: app, ID: id}
		same(t, id, want[i], mustRange(t, ctx, s, c, 1, math.MaxUint64, 1000, false))
		head, err := s.Head(ctx, c)
		if err != nil || head == nil || head.Seq != 4300 {
			t.Fatalf("head of %s: %v, %v", id, head, err)
		}
		ms, err := s.Members(ctx, c)
		if err != nil {
			t.Fatalf("members of %s: %v", id, err)
		}
		members = append(members, ms)
	}
	same(t, "members, shuffled", members[0], members[1])
	same(t, "members, twice", members[0], members[2])
	if len(members[0]) != 2 || len(members[0][0].Intervals) != 6 || len(members[0][1].Intervals) != 1 {
		t.Fatalf("members: %+v", members[0])
	}
}

func rangeKeepsBounds(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:range"}
	mustAppend(t, ctx, s, records(c, span(10, 60)...))
	for _, tc := range []struct {
		from, to uint64
		limit    int
		newest   bool
		want     []uint64
	}{
		{10, 60, 100, false, span(10, 60)},
		{10, 60, 100, true, span(10, 60)},
		{0, math.MaxUint64, 3, false, span(10, 12)},
		{0, math.MaxUint64, 3, true, span(58, 60)},
		{20, 30, 100, false, span(20, 30)},
		{20, 30, 100, true, span(20, 30)},
		{20, 30, 4, false, span(20, 23)},
		{20, 30, 4, true, span(27, 30)},
		{20, 20, 5, false, span(20, 20)},
		{20, 20, 5, true, span(20, 20)},
		{60, 70, 5, false, span(60, 60)},
		{1, 10, 5, true, span(10, 10)},
		{1, 9, 5, true, nil},
		{61, math.MaxUint64, 5, false, nil},
		{30, 20, 5, false, nil},
		{30, 20, 5, true, nil},
		{10, 60, 0, false, nil},
		{10, 60, -1, true, nil},
		{0, 0, 5, false, nil},
		{math.MaxUint64, math.MaxUint64, 5, true, nil},
		{10, 60, math.MaxInt, false, span(10, 60)},
	} {
		got := mustRange(t, ctx, s, c, tc.from, tc.to, tc.limit, tc.newest)
		if !slices.Equal(tc.want, seqsOf(got)) {
			t.Errorf("range %d to %d, limit %d, newest %v: %v, want %v", tc.from, tc.to, tc.limit, tc.newest, seqsOf(got), tc.want)
		}
	}
}

func rangeCrossesBuckets(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:buckets"}
	mustAppend(t, ctx, s, records(c, slices.Concat(span(4090, 4100), span(8190, 8194), []uint64{12288})...))
	for _, tc := range []struct {
		from, to uint64
		limit    int
		newest   bool
		want     []uint64
	}{
		{4095, 4097, 10, false, span(4095, 4097)},
		{4095, 4097, 10, true, span(4095, 4097)},
		{4096, 4096, 10, false, span(4096, 4096)},
		{1, 4095, 3, true, span(4093, 4095)},
		{4095, math.MaxUint64, 2, false, span(4095, 4096)},
		{4098, 8191, 10, false, []uint64{4098, 4099, 4100, 8190, 8191}},
		{1, 8192, 4, true, []uint64{4100, 8190, 8191, 8192}},
		{1, math.MaxUint64, 4, true, []uint64{8192, 8193, 8194, 12288}},
		{8194, 12288, 10, false, []uint64{8194, 12288}},
		{8195, 12287, 10, true, nil},
	} {
		got := mustRange(t, ctx, s, c, tc.from, tc.to, tc.limit, tc.newest)
		if !slices.Equal(tc.want, seqsOf(got)) {
			t.Errorf("range %d to %d, limit %d, newest %v: %v, want %v", tc.from, tc.to, tc.limit, tc.newest, seqsOf(got), tc.want)
		}
	}
}

func rangeStepsOverHoles(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:holes"}
	all := []uint64{2, 3, 7, 4095, 4097, 20000, 100000}
	mustAppend(t, ctx, s, records(c, all...))
	for limit := 1; limit <= len(all)+1; limit++ {
		n := min(limit, len(all))
		for newest, want := range map[bool][]uint64{false: all[:n], true: all[len(all)-n:]} {
			got := mustRange(t, ctx, s, c, 1, math.MaxUint64, limit, newest)
			if !slices.Equal(want, seqsOf(got)) {
				t.Errorf("limit %d, newest %v: %v, want %v", limit, newest, seqsOf(got), want)
			}
		}
	}
}

func headIsHighest(t *testing.T, s store.Store) {
	ctx, app, _ := begin(t)
	c := store.Conversation{App: app, ID: "g:head"}
	highest := uint64(0)
	for _, seq := range []uint64{5, 4, 7, 4095, 6, 4096, 4095, 4097, 1, 70000, 4098} {
		r := record(c, seq)
		r.Joined = []string{"bob"}
		mustAppend(t, ctx, s, []*logv1.Record{r})
		highest = max(highest, seq)
		want := record(c, highest)
		want.Joined, want.Body = r.Joined, nil
		got, err := s.Head(ctx, c)
		if err != nil {
			t.Fatalf("head after %d: %v", seq, err)
		}
		same(t, "head", want, got)
	}
}

func manyConversationsInOneAppend(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	var rs []*logv1.Record
	conversations := make([]store.Conversation, 1000)
	for i := range conversations {
		conversations[i] = store.Conversation{App: app, ID: "d:" + string(rune('a'+i%26)) + ":" + bytesName(i)}
		rs = append(rs, records(conversations[i], 1, 2)...)
	}
	rng.Shuffle(len(rs), func(a, b int) { rs[a], rs[b] = rs[b], rs[a] })
	mustAppend(t, ctx, s, rs)
	for range 50 {
		c := conversations[rng.IntN(len(conversations))]
		same(t, c.ID, records(c, 1, 2), mustRange(t, ctx, s, c, 1, 10, 10, false))
	}
}

func bytesName(i int) string {
	return string([]byte{'u', byte('a' + i/26%26), byte('a' + i/676%26), byte('a' + i%26)})
}

func bigBodies(t *testing.T, s store.Store) {
	ctx, app, rng := begin(t)
	c := store.Conversation{App: app, ID: "g:big"}
	rs := records(c, span(4050, 4149)...)
	want := make([]*logv1.Record, len(rs))
	for i, r := range rs {
		// Not compressible, each different.
		r.Body = make([]byte, 32<<10)
		for j := range r.Body {
			r.Body[j] = byte(rng.Uint32())
		}
		want[i] = proto.CloneOf(r)
	}
	mustAppend(t, ctx, s, rs)
	got := mustRange(t, ctx, s, c, 1, math.MaxUint64, 200, false)
	if !slices.Equal(span(4050, 4149), seqsOf(got)) {
		t.Fatalf("seqs: %v", seqsOf(got))
	}
	for i := range got {
		if !bytes.Equal(want[i].Body, got[i].Body) {
			t.Fatalf("body of %d differs", got[i].Seq)
		}
	}
}
