package logic_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// take returns the words about rooms so far, and forgets them.
func (c *comet) take() []link.Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	words := c.words
	c.words = nil
	return words
}

// heard waits until the words that pass are these, in order.
func (c *comet) heard(t *testing.T, pass func(link.Delivery) bool, want ...string) {
	t.Helper()
	var got []string
	eventually(t, func() error {
		for _, d := range c.take() {
			if pass(d) {
				got = append(got, fmt.Sprintf("%d:%d%v", d.Room.Op, d.Room.Seq, d.Room.Users))
			}
		}
		if !slices.Equal(got, want) && len(got) < len(want) {
			return fmt.Errorf("heard %v, want %v", got, want)
		}
		return nil
	})
	if !slices.Equal(got, want) {
		t.Fatalf("heard %v, want %v", got, want)
	}
}

func toRoom(d link.Delivery) bool {
	return d.Room.Op == link.RoomExpand || d.Room.Op == link.RoomLeave && len(d.Room.Users) > 0
}

// userlogsTell does what job's follower does to its place: what is in the logs so far counts as told.
func (w *world) userlogsTell() {
	w.t.Helper()
	for p := range partitions {
		log := bustest.OpenLog(w.t, w.conn, p)
		f, err := log.Follow(w.t.Context(), "userlog", bus.FollowOptions{UserOnly: true})
		if err != nil {
			w.t.Fatal(err)
		}
		for {
			blocks, err := f.Fetch(w.t.Context(), 100, 1<<20, 50*time.Millisecond)
			if err != nil {
				w.t.Fatal(err)
			}
			if len(blocks) == 0 {
				break
			}
			for _, m := range blocks {
				if err := m.Ack(); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		f.Close()
	}
}

// largeGroup is a group of alice and nine others, large from nine members on; the comet is in its room.
func largeGroup(t *testing.T) (w *world, n *node, c *comet, alice *device, group string, names []string) {
	t.Helper()
	w = newWorld(t)
	w.cfg.Partition.LargeMembers = 8
	n = w.ready("n1")
	c = w.comet()
	alice = c.connect(w, "alice", "a")
	for i := range 9 {
		names = append(names, fmt.Sprint("user", i))
	}
	group = protocol.Group("main", "alice", "create")
	if err := w.presence.EnterRoom(t.Context(), []presence.Room{
		{RoomID: presence.RoomID{App: "main", Conversation: group}, Node: "comet", Epoch: w.epoch},
	}); err != nil {
		t.Fatal(err)
	}
	alice.ack(request{
		command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, conversation: group, clientID: "create",
		body: &conversationv1.CreateRequest{Name: "large", Members: names},
	})
	return w, n, c, alice, group, names
}

func remove(id string, group string, since uint64, users ...string) request {
	return request{
		command: envelopev1.Command_COMMAND_CONVERSATION_REMOVE, conversation: group, clientID: id, since: since,
		body: &conversationv1.RemoveRequest{Members: users},
	}
}

// Until users' logs tell that a member left, any node may let the member's session in: it is told with each block, by every owner.
func TestWhoLeftALargeGroupIsNamedToItsNodes(t *testing.T) {
	w, n, c, alice, group, names := largeGroup(t)
	c.heard(t, toRoom, "1:1[]")
	alice.say(group, "m2", 1, "two")
	c.heard(t, toRoom, "1:2[]")
	alice.ack(remove("rm", group, 2, names[0]))
	c.heard(t, toRoom, "4:3[user0]", "1:3[]")
	alice.say(group, "m4", 3, "four")
	c.heard(t, toRoom, "4:3[user0]", "1:4[]")
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	w.ready("n2")
	alice.say(group, "m5", 4, "five")
	var last []link.Delivery
	eventually(t, func() error {
		for _, d := range c.take() {
			if toRoom(d) {
				last = append(last, d)
			}
		}
		if len(last) < 2 || last[len(last)-1].Room.Seq != 5 {
			return errors.New("5 is not delivered")
		}
		return nil
	})
	if before := last[len(last)-2].Room; before.Op != link.RoomLeave || before.Seq != 3 || !slices.Equal(before.Users, names[:1]) {
		t.Fatalf("the new owner delivers 5 after %+v", before)
	}
}

// Who joined is delivered to one by one until the users' logs tell of it, and then no more.
func TestMembersOfALargeGroupAreDeliveredToOneByOneUntilTheirLogsTell(t *testing.T) {
	w, n, c, alice, group, names := largeGroup(t)
	bob := c.connect(w, names[0], "b")
	alice.say(group, "m2", 1, "two")
	eventually(t, func() error { return bob.hasAtLeast(group, 1) })
	// A new owner does not know of it from memory.
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	w.ready("n2")
	alice.say(group, "m3", 2, "three")
	eventually(t, func() error { return bob.hasAtLeast(group, 2) })

	w.userlogsTell()
	seq := uint64(3)
	eventually(t, func() error { // The owner asks once a second.
		had := len(bob.records(group))
		seq++
		alice.say(group, fmt.Sprint("m", seq), seq-1, "more")
		var expanded bool
		eventually(t, func() error {
			for _, d := range c.take() {
				expanded = expanded || d.Room.Op == link.RoomExpand && d.Room.Seq == seq
			}
			if !expanded {
				return errors.New("not expanded")
			}
			return nil
		})
		if len(bob.records(group)) > had {
			return fmt.Errorf("record %d came to bob himself", seq)
		}
		return nil
	})
	// Small again: everything comes to bob himself, at once.
	alice.ack(remove("rm", group, seq, names[4:]...))
	alice.say(group, "small", seq+1, "small")
	eventually(t, func() error {
		records := bob.records(group)
		if n := len(records); n < 2 || records[n-1].Seq != seq+2 || records[n-2].Seq != seq+1 {
			return fmt.Errorf("bob has %v", records)
		}
		return nil
	})
}

// While users' logs tell nothing, what the nodes of a large group must be told with each block does not grow without end.
func TestALargeGroupWithManyChangesUntoldIsDeliveredToOneByOne(t *testing.T) {
	w, _, c, alice, group, names := largeGroup(t)
	bob := c.connect(w, names[0], "b")
	seq := uint64(1)
	for range 130 {
		alice.ack(remove(fmt.Sprint("rm", seq), group, seq, names[8]))
		alice.ack(request{
			command: envelopev1.Command_COMMAND_CONVERSATION_ADD, conversation: group, clientID: fmt.Sprint("add", seq), since: seq + 1,
			body: &conversationv1.AddRequest{Members: names[8:]},
		})
		seq += 2
	}
	eventually(t, func() error { return bob.hasAtLeast(group, int(seq)-1) })
	c.take()
	say := func() (expanded bool) {
		t.Helper()
		alice.say(group, fmt.Sprint("m", seq), seq, "hello")
		seq++
		eventually(t, func() error {
			for _, d := range c.take() {
				expanded = expanded || toRoom(d)
			}
			if records := bob.records(group); !expanded && (len(records) == 0 || records[len(records)-1].Seq != seq) {
				return fmt.Errorf("%d reached nobody", seq)
			}
			return nil
		})
		return expanded
	}
	if say() {
		t.Fatal("it went to a room, with all that nobody was told yet")
	}
	w.userlogsTell()
	eventually(t, func() error { // The joins are told; of the leaves there are fewer than the bound.
		if !say() {
			return errors.New("nothing goes to the room")
		}
		return nil
	})
}

// The owner of a user's log tells of the user's large groups: to who asks, and to the nodes of who is there.
func TestAUsersLogTellsOfLargeGroups(t *testing.T) {
	w := newWorld(t)
	w.ready("n1")
	c := w.comet()
	alice := c.connect(w, "alice", "a")
	standing := func(s *recordv1.Standing) {
		t.Helper()
		alice.ack(request{
			command: protocol.CommandStanding, clientID: fmt.Sprint(s.Conversation, s.Seq), body: s, since: 1 << 62, server: true,
		})
	}
	rooms := func() (out []string) {
		t.Helper()
		f := alice.ask(request{command: protocol.CommandAttach, server: true})
		reply := &linkv1.AttachReply{}
		if err := reply.UnmarshalVT(f.Body); err != nil || f.Error != nil {
			t.Fatal(err, f.Error)
		}
		for _, r := range reply.Rooms {
			out = append(out, fmt.Sprint(r.Conversation, "@", r.JoinedSeq))
		}
		return out
	}
	standing(&recordv1.Standing{Conversation: "g:small", Seq: 4, Member: true, JoinedSeq: 4})
	standing(&recordv1.Standing{Conversation: "g:a", Seq: 9, Member: true, JoinedSeq: 5, Large: true})
	standing(&recordv1.Standing{Conversation: "g:b", Seq: 7, Member: true, JoinedSeq: 7, Large: true})
	if got := rooms(); !slices.Equal(got, []string{"g:a@5", "g:b@7"}) {
		t.Fatalf("alice is in %v", got)
	}
	standing(&recordv1.Standing{Conversation: "g:a", Seq: 20, Member: true, JoinedSeq: 5})
	standing(&recordv1.Standing{Conversation: "g:b", Seq: 21, JoinedSeq: 7, LeftSeq: 21})
	if got := rooms(); len(got) != 0 {
		t.Fatalf("alice is in %v", got)
	}
	c.heard(t, func(d link.Delivery) bool { return d.Conn == alice.conn }, "3:5[]", "3:7[]", "5:20[]", "4:21[]")
	// Of many, an answer holds one page.
	const many = protocol.MaxAttachedRooms + 1
	for i := range many {
		standing(&recordv1.Standing{Conversation: fmt.Sprintf("g:m%04d", i), Seq: 3, Member: true, JoinedSeq: 3, Large: true})
	}
	page := func(after string) *linkv1.AttachReply {
		t.Helper()
		f := alice.ask(request{command: protocol.CommandAttach, server: true, body: &linkv1.AttachRequest{After: after}})
		reply := &linkv1.AttachReply{}
		if err := reply.UnmarshalVT(f.Body); err != nil || f.Error != nil {
			t.Fatal(err, f.Error)
		}
		return reply
	}
	first := page("")
	if len(first.Rooms) != protocol.MaxAttachedRooms || !first.More || first.Rooms[0].Conversation != "g:m0000" {
		t.Fatalf("%d rooms, more: %v", len(first.Rooms), first.More)
	}
	last := page(first.Rooms[len(first.Rooms)-1].Conversation)
	if len(last.Rooms) != 1 || last.More || last.Rooms[0].Conversation != fmt.Sprintf("g:m%04d", many-1) {
		t.Fatalf("then %v", last)
	}
	mallory := c.connect(w, "mallory", "m")
	mallory.refused(protocol.CodeNotFound, request{command: protocol.CommandAttach, conversation: "u:alice", server: true})
	alice.refused(protocol.CodeUnknownCommand, request{command: protocol.CommandAttach})
}
