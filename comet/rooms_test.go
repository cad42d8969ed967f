package comet_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

const big = "g:big"

func word(op link.RoomOp, seq uint64, users ...string) *link.Room {
	return &link.Room{App: "main", Conversation: big, Op: op, Seq: seq, Users: users}
}

// expand is the record seq of the large conversation, for the sessions of both codecs.
func expand(t *testing.T, seq, except uint64) link.Delivery {
	w := word(link.RoomExpand, seq)
	w.JSON = record(t, comettest.WebSocket(link.CodecJSON), seq)
	return link.Delivery{Conn: except, Frame: record(t, comettest.TCP(), seq), Room: w}
}

func deliver(n *comettest.Node, ds ...link.Delivery) { n.Deliver(&link.Batch{Deliveries: ds}) }

func conn(t *testing.T, n *comettest.Node, user string) uint64 {
	t.Helper()
	e, ok := n.Presence.Entry("main", user, "phone")
	if !ok {
		t.Fatalf("%s is not in presence", user)
	}
	return e.Conn
}

// gets reads records and compares their seqs; a Ping proves that nothing else came before.
func gets(t *testing.T, c *comettest.Client, seqs ...uint64) {
	t.Helper()
	for _, want := range seqs {
		if f := c.Recv(); f.Since != want || f.Command == envelopev1.Command_COMMAND_RESYNC {
			t.Fatalf("got %v, want record %d", f, want)
		}
	}
	c.Ping()
}

func TestARoomIsExpandedToItsMembersOnly(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Router.SetRoom("alice", big, 1)
	n.Router.SetRoom("json", big, 1)
	n.Router.SetRoom("late", big, 12)
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	if !n.Presence.InRoom("main", big, "comet-1") {
		t.Fatal("the hello came before the node was in the room")
	}
	json := n.Connect(t, comettest.WebSocket(link.CodecJSON), "main/json/phone")
	late := n.Connect(t, comettest.TCP(), "main/late/phone")
	other := n.Connect(t, comettest.TCP(), "other/alice/phone") // A user of the same name in another app.
	n.Router.SetRoom("alice", big, 0)
	stranger := n.Connect(t, comettest.TCP(), "main/mallory/phone")

	deliver(n, expand(t, 10, 0), expand(t, 11, conn(t, n, "json")), expand(t, 12, 0))
	gets(t, alice, 10, 11, 12)
	gets(t, json, 10, 12)
	gets(t, late, 12)
	// Alice leaves with 13: she gets it and no 14, whatever comes first.
	deliver(n, link.Delivery{Room: word(link.RoomLeave, 13, "alice", "nobody")}, expand(t, 13, 0), expand(t, 14, 0))
	deliver(n, link.Delivery{Room: word(link.RoomLeave, 13, "alice")}, expand(t, 15, 0))
	gets(t, alice, 13)
	gets(t, late, 13, 14, 15)
	gets(t, json, 13, 14, 15)
	gets(t, stranger)
	gets(t, other)
	// She is back with 16, by the word of her own log.
	deliver(n, link.Delivery{Conn: conn(t, n, "alice"), Room: word(link.RoomJoin, 16)})
	wantResync(t, alice)
	deliver(n, expand(t, 15, 0), expand(t, 16, 0), expand(t, 17, 0))
	gets(t, alice, 16, 17)
}

func TestWhatARoomExpandedDoesNotComeTwice(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Router.SetRoom("alice", big, 1)
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	bob := n.Connect(t, comettest.TCP(), "main/bob/phone")
	also := func(user string, seq uint64) link.Delivery {
		return link.Delivery{Conn: conn(t, n, user), Frame: record(t, comettest.TCP(), seq), Room: word(link.RoomAlso, seq)}
	}
	deliver(n, also("alice", 4), also("bob", 4)) // The node was not in the room yet when 4 was sent.
	deliver(n, expand(t, 5, 0), also("alice", 5), also("bob", 5))
	gets(t, alice, 4, 5)
	gets(t, bob, 4, 5)
}

func TestAJoinOfALiveSessionEntersTheRoomAndThenResyncs(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, func(c *comet.Comet) { c.SetLease(time.Minute, time.Minute) })
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	deliver(n, link.Delivery{Conn: conn(t, n, "alice"), Room: word(link.RoomJoin, 5)})
	wantResync(t, alice)
	if !p.InRoom("main", big, "comet-1") {
		t.Fatal("the resync came before the node was in the room")
	}
	deliver(n, link.Delivery{Conn: conn(t, n, "alice"), Room: word(link.RoomJoin, 5)}, expand(t, 4, 0), expand(t, 5, 0)) // Known already.
	gets(t, alice, 5)
	// Small again with 8: what was before still comes by the room.
	deliver(n, link.Delivery{Conn: conn(t, n, "alice"), Room: word(link.RoomClose, 8)}, expand(t, 6, 0), expand(t, 7, 0), expand(t, 8, 0))
	gets(t, alice, 6, 7)
}

func TestTheLastMemberThatGoesTakesTheNodeOutOfTheRoom(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Router.SetRoom("alice", big, 1)
	n.Router.SetRoom("bob", big, 1)
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	bob := n.Connect(t, comettest.TCP(), "main/bob/phone")
	_ = alice.Close()
	comettest.Eventually(t, "alice is gone", func() bool { return n.Metric(t, "halley_comet_connections") == 1 })
	deliver(n, expand(t, 3, 0))
	gets(t, bob, 3)
	if !n.Presence.InRoom("main", big, "comet-1") {
		t.Fatal("left with a member there")
	}
	_ = bob.Close()
	deadline := time.Now().Add(20 * time.Second)
	for n.Presence.InRoom("main", big, "comet-1") {
		if time.Now().After(deadline) {
			t.Fatal("the room is not left")
		}
		<-time.After(10 * time.Millisecond)
	}
	comettest.Eventually(t, "nothing is kept", func() bool { return n.Metric(t, "halley_comet_rooms") == 0 })
}

// Presence takes the node out of a room long after the node has given the call up, and a member is back by then.
func TestARoomThatIsLeftTooLateIsEnteredAgain(t *testing.T) {
	const late = 500 * time.Millisecond
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease, func(c *comet.Comet) {
		c.SetSettle(2 * late)
		c.SetLeaveAfter(late)
	})
	n.Router.SetRoom("alice", big, 1)
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	_ = alice.Close()
	comettest.Eventually(t, "alice is out of presence", func() bool { return p.Len() == 0 })
	p.SetLate(late)
	comettest.Eventually(t, "the room is to be left", func() bool { return p.Owes() == 1 })
	p.SetLate(0)
	n.Connect(t, comettest.TCP(), "main/alice/phone")
	comettest.Eventually(t, "it has been", func() bool { return p.Owes() == 0 })
	comettest.Eventually(t, "and entered again", func() bool { return p.InRoom("main", big, "comet-1") })
}

func TestAHelloDoesNotWaitForRoomsForLong(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Router.SetRoom("alice", big, 1)
	n.Router.Unattached.Store(true)
	start := time.Now()
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	if took := time.Since(start); took < time.Second || took > 8*time.Second {
		t.Fatalf("the hello came after %v; want about two seconds", took)
	}
	deliver(n, expand(t, 3, 0))
	gets(t, alice)
	n.Router.Unattached.Store(false)
	wantResync(t, alice)
	deliver(n, expand(t, 4, 0))
	gets(t, alice, 4)
	if n.Metric(t, "halley_comet_attach_late_total") != 1 {
		t.Error("not counted")
	}
}

func TestAnOwnerThatRefusesAnAttachIsAskedAgain(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	n.Router.SetRoom("alice", big, 1)
	n.Router.Refuse.Store(protocol.Errorf(protocol.CodeRetry, "no owner just now"))
	go func() {
		<-time.After(500 * time.Millisecond)
		n.Router.Refuse.Store(nil)
	}()
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	deliver(n, expand(t, 4, 0))
	gets(t, alice, 4)
}

func TestAfterALossMembershipIsConfirmedBeforeARoomIsExpanded(t *testing.T) {
	cfg := comettest.Config()
	cfg.ResyncSpreadMs = 400
	n := comettest.Start(t, cfg)
	n.Router.SetRoom("alice", big, 1)
	n.Router.SetRoom("bob", big, 1)
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	bob := n.Connect(t, comettest.TCP(), "main/bob/phone")
	// The word that bob left with 7 is lost, and the node learns that something is.
	n.Router.SetRoom("bob", big, 0)
	n.Router.Unattached.Store(true)
	n.Lost()
	deliver(n, expand(t, 8, 0))
	n.Router.Unattached.Store(false)
	wantResync(t, alice)
	wantResync(t, bob)
	deliver(n, expand(t, 9, 0))
	gets(t, alice, 9) // 8 is below the head that she reads after the resync.
	gets(t, bob)
}

func TestUnderANewLeaseRoomsAreEnteredAgain(t *testing.T) {
	p := comettest.NewPresence()
	n := comettest.StartWith(t, comettest.Config(), p, comettest.Auth{}, shortLease)
	n.Router.SetRoom("alice", big, 1)
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	p.Wipe()
	wantResync(t, alice)
	if !p.InRoom("main", big, "comet-1") {
		t.Fatal("the resync came before the node was in the room again")
	}
	deliver(n, expand(t, 4, 0))
	gets(t, alice, 4)
}

// TestRoomsAgainstAModel joins, leaves, connects and disconnects at random and compares what everyone got.
func TestRoomsAgainstAModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	n := comettest.Start(t, comettest.Config())
	type user struct {
		client *comettest.Client
		joined uint64 // 0: no member
		want   []uint64
	}
	users := make([]*user, 12)
	for i := range users {
		users[i] = &user{}
	}
	check := func(i int) {
		gets(t, users[i].client, users[i].want...)
		users[i].want = nil
	}
	for seq := uint64(1); seq < 400; seq++ {
		i := rnd.IntN(len(users))
		u, name := users[i], fmt.Sprint("user", i)
		switch {
		case u.client == nil:
			u.client = n.Connect(t, comettest.TCP(), "main/"+name+"/phone")
		case rnd.IntN(4) == 0:
			check(i)
			_ = u.client.Close()
			u.client = nil
			comettest.Eventually(t, "the session is gone", func() bool { _, ok := n.Presence.Entry("main", name, "phone"); return !ok })
		case u.joined == 0:
			u.joined = seq
			n.Router.SetRoom(name, big, seq)
			check(i)
			deliver(n, link.Delivery{Conn: conn(t, n, name), Room: word(link.RoomJoin, seq)})
			wantResync(t, u.client)
		default:
			deliver(n, link.Delivery{Room: word(link.RoomLeave, seq-1, name)})
			n.Router.SetRoom(name, big, 0)
			u.joined = 0
		}
		deliver(n, expand(t, seq, 0))
		for _, u := range users {
			if u.client != nil && u.joined != 0 {
				u.want = append(u.want, seq)
			}
		}
	}
	for i, u := range users {
		if u.client != nil {
			check(i)
		}
	}
}

// A user of many large conversations is attached page by page, and what is told between two pages stays.
func TestRoomsAreAskedForInPages(t *testing.T) {
	const rooms = 2*protocol.MaxAttachedRooms + 7
	name := func(i int) string { return fmt.Sprintf("g:room%04d", i) }
	n := comettest.Start(t, comettest.Config())
	for i := range rooms {
		n.Router.SetRoom("alice", name(i), 1)
	}
	alice := n.Connect(t, comettest.TCP(), "main/alice/phone")
	for i := range rooms {
		if !n.Presence.InRoom("main", name(i), "comet-1") {
			t.Fatalf("the hello came before the node was in %s", name(i))
		}
	}
	each := func() {
		t.Helper()
		for _, i := range []int{0, protocol.MaxAttachedRooms - 1, protocol.MaxAttachedRooms, rooms - 1} {
			d := expand(t, uint64(10+i), 0)
			d.Room.Conversation = name(i)
			deliver(n, d)
			gets(t, alice, uint64(10+i))
		}
	}
	each()
	// Asked again, each page takes away what is not in it and nothing else.
	gone := []int{3, protocol.MaxAttachedRooms + 3, rooms - 2}
	for _, i := range gone {
		n.Router.SetRoom("alice", name(i), 0)
	}
	n.Lost()
	wantResync(t, alice)
	each()
	for _, i := range gone {
		d := expand(t, uint64(10+i), 0)
		d.Room.Conversation = name(i)
		deliver(n, d)
	}
	gets(t, alice)
}
