package logic_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// A group lives, members come and go, history falls behind and catches up: whatever anyone asks for, in either direction and
// wherever the border between memory and store is, the answer is what a list of all records and stretches says.
func TestHistoryIsWhatAListOfAllRecordsSays(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	w.cfg.Partition.WindowRecords = 7
	n := w.ready("n1")
	c := w.comet()
	devices := map[string]*device{}
	for _, user := range []string{"alice", "bob", "carol"} {
		devices[user] = c.connect(w, user, "d")
	}
	alice := devices["alice"]
	g := protocol.Group("main", "alice", "g")
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "g", body: &conversationv1.CreateRequest{}})
	head := uint64(1)
	may := map[string][]bool{} // by user and seq
	is := map[string]bool{"alice": true}
	note := func(also string) {
		for _, user := range []string{"alice", "bob", "carol"} {
			may[user] = append(may[user], is[user] || user == also)
		}
	}
	note("")
	for round := range 6 {
		for range 15 {
			id := fmt.Sprint("w", head)
			user := []string{"bob", "carol"}[random.IntN(2)]
			command, also := envelopev1.Command_COMMAND_MESSAGE_SEND, ""
			var body protocol.Message = text(id)
			if random.IntN(3) == 0 {
				if is[user] = !is[user]; is[user] {
					command, body = envelopev1.Command_COMMAND_CONVERSATION_ADD, &conversationv1.AddRequest{Members: []string{user}}
				} else {
					command, body, also = envelopev1.Command_COMMAND_CONVERSATION_REMOVE, &conversationv1.RemoveRequest{Members: []string{user}}, user
				}
			}
			ack := alice.ack(request{command: command, conversation: g, clientID: id, since: head, body: body})
			if head++; ack.Seq != head {
				t.Fatalf("acked as %v, want %d", ack, head)
			}
			note(also)
		}
		switch round {
		case 1, 3:
			w.storeLog()
		case 4:
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			n = w.ready("n2")
		}
		for range 40 {
			user := []string{"alice", "bob", "carol"}[random.IntN(3)]
			ask := &conversationv1.HistoryRequest{Limit: 1 + random.Uint32N(25)}
			if random.IntN(2) == 0 {
				ask.AfterSeq = random.Uint64N(head + 3)
			} else {
				ask.BeforeSeq = 1 + random.Uint64N(head+3)
			}
			compareHistory(t, devices[user], g, ask, may[user])
		}
	}
}

func compareHistory(t *testing.T, d *device, conversation string, ask *conversationv1.HistoryRequest, may []bool) {
	t.Helper()
	var want []uint64
	var head uint64
	for i, ok := range may {
		seq := uint64(i + 1)
		if ok {
			head = seq
		}
		if ok && (ask.BeforeSeq == 0 && seq > ask.AfterSeq || ask.BeforeSeq > 0 && seq < ask.BeforeSeq) {
			want = append(want, seq)
		}
	}
	more := len(want) > int(ask.Limit)
	if more && ask.BeforeSeq > 0 {
		want = want[len(want)-int(ask.Limit):]
	} else if more {
		want = want[:ask.Limit]
	}
	f := d.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: conversation, body: ask})
	if !slices.Contains(may, true) {
		if f.Error == nil || f.Error.Code != string(protocol.CodeNotFound) {
			t.Fatalf("%s was never a member and reads %v", d.user, f)
		}
		return
	}
	reply := &conversationv1.HistoryReply{}
	if f.Error != nil || reply.UnmarshalVT(f.Body) != nil {
		t.Fatalf("%s asks %v: %v", d.user, ask, f)
	}
	var got []uint64
	for _, r := range reply.Records {
		got = append(got, r.Seq)
	}
	if !slices.Equal(got, want) || reply.More != more || reply.HeadSeq != head {
		t.Fatalf("%s asks %v\n got %v, more %v, head %d\nwant %v, more %v, head %d", d.user, ask, got, reply.More, reply.HeadSeq, want, more, head)
	}
}

func TestTheListComesInWindowsNewestFirst(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice, bob := c.connect(w, "alice", "a"), c.connect(w, "bob", "b")
	const minute = 60_000_000
	type row struct {
		id     string
		minute int64
	}
	var rows []row
	for i := range 23 {
		id := protocol.Direct("alice", fmt.Sprint("p", i))
		alice.say(id, "m", 0, fmt.Sprint("hello ", i))
		r := row{id, int64(1+i*7%11) * minute} // Some in the same minute.
		rows = append(rows, r)
		if err := w.store.Touch(t.Context(), "main", []store.Touch{{User: "alice", Conversation: id, MinuteUs: r.minute}}); err != nil {
			t.Fatal(err)
		}
	}
	// A row of what never was, or is not alice's, shows nothing.
	bob.say("d:bob:carol", "m", 0, "not for alice")
	if err := w.store.Touch(t.Context(), "main", []store.Touch{{User: "alice", Conversation: "d:bob:carol", MinuteUs: 5 * minute}}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(b.minute, a.minute), cmp.Compare(a.id, b.id)) })
	page := func(who *device, log string, r *conversationv1.ListRequest) *conversationv1.ListReply {
		t.Helper()
		reply := &conversationv1.ListReply{}
		f := who.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_LIST, conversation: log, body: r})
		if f.Error != nil || reply.UnmarshalVT(f.Body) != nil {
			t.Fatalf("list %v: %v", r, f)
		}
		return reply
	}
	var got []string
	cursor := ""
	for range 10 {
		reply := page(alice, "u:alice", &conversationv1.ListRequest{Limit: 5, Cursor: cursor})
		for _, h := range reply.Conversations {
			if h.Seq != 1 || h.Count != 1 || h.Last.GetMessage().GetText().GetText() == "" {
				t.Fatalf("head: %v", h)
			}
			got = append(got, h.Conversation)
		}
		if reply.CompleteUntilUs == 0 {
			t.Fatal("the answer does not say until when it is complete")
		}
		if cursor = reply.NextCursor; cursor == "" {
			break
		}
	}
	var want, recent []string
	for _, r := range rows {
		want = append(want, r.id)
		if r.minute >= 8*minute {
			recent = append(recent, r.id)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	got = nil
	for _, h := range page(alice, "u:alice", &conversationv1.ListRequest{ChangedSinceUs: 8*minute + 12_345}).Conversations {
		got = append(got, h.Conversation)
	}
	if !slices.Equal(got, recent) {
		t.Fatalf("changed since: got  %v\nwant %v", got, recent)
	}
	alice.refused(protocol.CodeInvalid, request{command: envelopev1.Command_COMMAND_CONVERSATION_LIST, body: &conversationv1.ListRequest{Cursor: "made up!"}})
	alice.refused(protocol.CodeInvalid, request{command: envelopev1.Command_COMMAND_CONVERSATION_LIST, body: &conversationv1.ListRequest{Limit: 201}})
	bob.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_CONVERSATION_LIST, conversation: "u:alice", body: &conversationv1.ListRequest{}})
}

func TestWhatWasWrittenBeforeOneJoinedIsNotUnread(t *testing.T) {
	w := newWorld(t)
	w.cfg.Partition.WindowRecords = 3
	st := w.faulty()
	n := w.ready("n1")
	c := w.comet()
	alice, bob := c.connect(w, "alice", "a"), c.connect(w, "bob", "b")
	g := protocol.Group("main", "alice", "g")
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "g", body: &conversationv1.CreateRequest{Name: "team"}})
	for i := range 10 {
		alice.say(g, fmt.Sprint("a", i), uint64(i+1), "before") // 2 to 11
	}
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: g, clientID: "add", since: 11, body: &conversationv1.AddRequest{Members: []string{"bob"}}}) // 12
	for i := range 4 {
		alice.say(g, fmt.Sprint("b", i), uint64(i+12), "after") // 13 to 16
	}
	check := func() {
		t.Helper()
		h := bob.heads(g, "g:nothing", "d:alice:carol")
		if len(h) != 1 || h[0].Seq != 16 || h[0].Count-h[0].ReadCount != 4 || h[0].JoinedSeq != 12 || h[0].Name != "team" || h[0].Members != 2 {
			t.Fatalf("bob's heads: %v; 4 are unread", h)
		}
	}
	check()
	// It does not take the store, though the record of the join is only there.
	w.standingsIn(g, protocol.Partition("main", "u:bob", partitions), "u:bob", 12)
	w.storeLog()
	st.set(func(context.Context, store.Conversation) error { return errDown })
	eventually(t, func() error {
		f := bob.ask(request{
			command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: g, body: &conversationv1.HistoryRequest{AfterSeq: 11, Limit: 1},
		})
		if f.Error == nil {
			return errors.New("the join is still in memory")
		}
		return nil
	})
	check()
	st.set(nil)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = w.ready("n2")
	check()                                                                                                                                                                                // From the store.
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_REMOVE, conversation: g, clientID: "rm", since: 16, body: &conversationv1.RemoveRequest{Members: []string{"bob"}}}) // 17
	alice.say(g, "secret", 17, "without bob")
	for _, restart := range []bool{false, true} {
		if restart {
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			w.storeLog()
			w.ready("n3")
		}
		h := bob.heads(g)
		if len(h) != 1 || h[0].Seq != 17 || h[0].LeftSeq != 17 || h[0].Count != 14 || h[0].Last.GetSeq() != 17 || h[0].Members != 0 {
			t.Fatalf("restarted %v: bob, who has left, sees %v", restart, h)
		}
		bob.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_CONVERSATION_MEMBERS, conversation: g, body: &conversationv1.MembersRequest{}})
		bob.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_RECEIPT_READ, conversation: g, body: nil})
	}
}

func TestTypingGoesToTheOthersOnly(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice, phone, bob, mallory := c.connect(w, "alice", "a"), c.connect(w, "alice", "phone"), c.connect(w, "bob", "b"), c.connect(w, "mallory", "m")
	d := protocol.Direct("alice", "bob")
	alice.say(d, "m", 0, "x")
	typing := request{command: envelopev1.Command_COMMAND_SIGNAL_TYPING, conversation: d, body: &signalv1.TypingRequest{}}
	if f := alice.ask(typing); f.Error != nil {
		t.Fatal(f.Error)
	}
	mallory.refused(protocol.CodeNotFound, typing)
	count := func(who *device) (n int) {
		who.mu.Lock()
		defer who.mu.Unlock()
		for _, f := range who.pushes {
			if f.Command == envelopev1.Command_COMMAND_TYPING {
				n++
			}
		}
		return n
	}
	eventually(t, func() error {
		if n := count(bob); n != 1 {
			return fmt.Errorf("bob was told %d times", n)
		}
		return nil
	})
	for _, who := range []*device{alice, phone, mallory} {
		if n := count(who); n != 0 {
			t.Errorf("%s on %s was told", who.user, who.device)
		}
	}
	if h := bob.history(d, 0); len(h.Records) != 1 {
		t.Errorf("typing was kept: %v", h)
	}
}

func TestPresenceIsForThoseWhoShareAConversation(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice, mallory := c.connect(w, "alice", "a"), c.connect(w, "mallory", "m")
	c.connect(w, "bob", "b")
	d := protocol.Direct("alice", "bob")
	alice.say(d, "m", 0, "x")
	watch := func(conversation string, users ...string) request {
		return request{command: envelopev1.Command_COMMAND_SIGNAL_WATCH, conversation: conversation, body: &signalv1.WatchRequest{Users: users}}
	}
	f := alice.ask(watch(d, "bob"))
	reply := &signalv1.WatchReply{}
	if f.Error != nil || reply.UnmarshalVT(f.Body) != nil || len(reply.Presences) != 1 || !reply.Presences[0].Online {
		t.Fatalf("bob is online: %v, %v", f, reply)
	}
	alice.refused(protocol.CodeNotFound, watch(d, "mallory"))
	mallory.refused(protocol.CodeNotFound, watch(d, "bob"))
	mallory.refused(protocol.CodeNotFound, watch(protocol.Direct("bob", "mallory"), "bob")) // They never spoke.
	alice.refused(protocol.CodeInvalid, watch(d))
}

func TestAnotherAppSeesNothing(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice := c.connect(w, "alice", "a")
	d := protocol.Direct("alice", "bob")
	g := protocol.Group("main", "alice", "g")
	alice.say(d, "m", 0, "x")
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "g", body: &conversationv1.CreateRequest{Members: []string{"bob"}}})
	// The same names in another app are other people.
	stranger := c.connect(w, "bob", "b")
	stranger.app = "other"
	if h := stranger.history(d, 0); len(h.Records) != 0 || h.HeadSeq != 0 {
		t.Fatalf("the other app's bob reads %v", h)
	}
	stranger.refused(protocol.CodeNotFound, request{command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: g, body: &conversationv1.HistoryRequest{}})
	if h := stranger.heads(d, g); len(h) != 0 {
		t.Fatalf("the other app's bob has the heads %v", h)
	}
	if ack := stranger.say(d, "m", 0, "x"); ack.Seq != 1 || ack.Duplicate {
		t.Fatalf("the other app's first message acked as %v", ack)
	}
	if n := len(alice.records(d)); n != 0 {
		t.Fatalf("alice was delivered %d records of another app", n)
	}
	if h := alice.history(d, 0); len(h.Records) != 1 {
		t.Fatalf("alice reads %v", h)
	}
}

func TestAServerKeyReadsAsTheUserItNames(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice := c.connect(w, "alice", "a")
	g := protocol.Group("main", "alice", "g")
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: g, clientID: "g", body: &conversationv1.CreateRequest{}})
	alice.say(g, "1", 1, "before bob")
	alice.ack(request{command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: g, clientID: "add", since: 2, body: &conversationv1.AddRequest{Members: []string{"bob"}}})
	for user, want := range map[string]int{"": 3, "alice": 3, "bob": 1, "mallory": 0} {
		d := c.connect(w, user, "api")
		f := d.ask(request{command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, conversation: g, server: true, body: &conversationv1.HistoryRequest{}})
		reply := &conversationv1.HistoryReply{}
		if f.Error != nil || reply.UnmarshalVT(f.Body) != nil || len(reply.Records) != want {
			t.Errorf("as %q: %v, want %d records", user, f, want)
		}
	}
}
