package comet_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/auth"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"
)

const aliceToken = "main/alice/phone"

// ticketOf opens a session, takes its ticket and ends it.
func ticketOf(t *testing.T, n *comettest.Node, token string) []byte {
	t.Helper()
	before := n.Metric(t, "halley_comet_connections")
	c := n.Dial(t, comettest.TCP())
	hello := c.Hello(token)
	if hello == nil || len(hello.Ticket) == 0 || hello.TicketMs == 0 {
		t.Fatalf("hello %v", hello)
	}
	_ = c.Close()
	comettest.Eventually(t, "the session is gone", func() bool { return n.Metric(t, "halley_comet_connections") == before })
	return hello.Ticket
}

// resume opens a session that must be let in by its ticket.
func resume(t *testing.T, n *comettest.Node, token string, ticket []byte) *comettest.Client {
	t.Helper()
	before := n.Metric(t, "halley_comet_resumed_total")
	c := n.Dial(t, comettest.TCP())
	if c.Resume(token, ticket) == nil {
		t.Fatal("no hello")
	}
	if n.Metric(t, "halley_comet_resumed_total") != before+1 {
		t.Fatal("not let in by the ticket")
	}
	return c
}

// asks has a device ask for its heads, with which the node asks for its rooms. Both are answered when it returns.
func asks(t *testing.T, c *comettest.Client) (resynced bool) {
	t.Helper()
	c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONVERSATION_HEADS, RequestId: 7})
	for {
		switch f := c.Recv(); {
		case f.Command == envelopev1.Command_COMMAND_RESYNC:
			resynced = true
		case f.RequestId == 7 && f.Error == nil:
			return resynced
		default:
			t.Fatalf("got %v", f)
		}
	}
}

// oneLoop is a comet on which a room that has a member has one for every session.
func oneLoop(t *testing.T) *comettest.Node {
	cfg := comettest.Config()
	cfg.Loops = 1
	n := comettest.Start(t, cfg)
	n.Router.SetRoom("bob", big, 1)
	n.Connect(t, comettest.TCP(), "main/bob/phone")
	return n
}

// A device that comes back with a ticket has its Hello though the owner of its user's log does not answer, and gets the room's records
// once that has confirmed it. It resyncs only if one passed meanwhile.
func TestATicketBringsTheHelloWithoutTheOwner(t *testing.T) {
	n := oneLoop(t)
	n.Router.SetRoom("alice", big, 1)
	ticket := ticketOf(t, n, aliceToken)
	n.Router.Unattached.Store(true)
	alice := resume(t, n, aliceToken, ticket)
	if n.Metric(t, "halley_comet_attach_late_total") != 0 {
		t.Error("it waited for the owner")
	}
	alice.Ping()
	n.Router.Unattached.Store(false)
	if asks(t, alice) {
		t.Error("told to resync without cause")
	}
	deliver(n, expand(t, 4, 0))
	gets(t, alice, 4)

	_ = alice.Close()
	comettest.Eventually(t, "alice is gone", func() bool { return n.Metric(t, "halley_comet_connections") == 1 })
	alice = resume(t, n, aliceToken, ticket)
	deliver(n, expand(t, 5, 0))
	alice.Ping() // 5 was not for a session that nobody has confirmed.
	if !asks(t, alice) {
		wantResync(t, alice)
	}
	deliver(n, expand(t, 6, 0))
	gets(t, alice, 6)
}

func TestATicketGivesNothingThatIsNotTheUsersAnyMore(t *testing.T) {
	n := oneLoop(t)
	n.Router.SetRoom("alice", big, 1)
	ticket := ticketOf(t, n, aliceToken)
	n.Router.SetRoom("alice", big, 0) // removed while she was away
	alice := resume(t, n, aliceToken, ticket)
	deliver(n, expand(t, 5, 0))
	alice.Ping()
	asks(t, alice)
	deliver(n, expand(t, 6, 0))
	alice.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING, RequestId: 9})
	for f := alice.Recv(); f.Command != envelopev1.Command_COMMAND_PONG; f = alice.Recv() {
		if f.Command != envelopev1.Command_COMMAND_RESYNC {
			t.Fatalf("got %v", f)
		}
	}
}

func TestARoomThatATicketLacksIsFoundSoon(t *testing.T) {
	n := oneLoop(t)
	ticket := ticketOf(t, n, aliceToken)
	n.Router.SetRoom("alice", big, 3) // joined while she was away
	alice := resume(t, n, aliceToken, ticket)
	deliver(n, expand(t, 5, 0))
	alice.Ping()
	wantResync(t, alice) // though she asks for nothing
	deliver(n, expand(t, 6, 0))
	gets(t, alice, 6)
}

func TestWhoIsInManyRoomsGetsNoTicket(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	for i := range 17 {
		n.Router.SetRoom("alice", fmt.Sprintf("g:room%02d", i), 1)
	}
	if hello := n.Dial(t, comettest.TCP()).Hello(aliceToken); hello == nil || len(hello.Ticket) > 0 || hello.TicketMs > 0 {
		t.Errorf("hello %v", hello)
	}
}

func TestARefreshRenewsTheTicketAndTheTokensEndIsItsOwn(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	c := n.Dial(t, comettest.TCP())
	if hello := c.Hello(aliceToken + "/1m"); hello == nil || hello.TicketMs == 0 || hello.TicketMs > 60_000 {
		t.Fatalf("hello %v", hello)
	}
	token := aliceToken + "/1h"
	c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_REFRESH, RequestId: 2, Body: c.Body(&envelopev1.Refresh{Token: token})})
	var hello envelopev1.Hello
	c.OpenBody(c.Recv(), &hello)
	if hello.TicketMs != 600_000 {
		t.Errorf("the new ticket holds for %d ms", hello.TicketMs)
	}
	resume(t, n, token, hello.Ticket)
}

// A ticket that does not hold is passed over and counted: the session is let in as without one.
func TestTicketsThatDoNotHold(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	mine := ticketOf(t, n, aliceToken)
	data, ok := comettest.Tickets().Open(mine)
	if !ok {
		t.Fatal("a ticket that does not open")
	}
	// altered is a ticket as no node gives it, under the true key.
	altered := func(change func(*linkv1.Ticket)) []byte {
		ticket := &linkv1.Ticket{}
		if err := ticket.UnmarshalVT(data); err != nil {
			t.Fatal(err)
		}
		change(ticket)
		sealed, err := ticket.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return comettest.Tickets().Seal(sealed)
	}
	stranger, err := auth.NewKeyring(auth.Default(), auth.Key{ID: "test", Secret: bytes.Repeat([]byte("x"), auth.MinSecretLen)})
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(mine)
	flipped[len(flipped)-1] ^= 1
	cases := map[string][]byte{
		"forged":           stranger.Seal(data),
		"changed":          flipped,
		"cut off":          mine[:len(mine)-1],
		"not sealed":       data,
		"noise":            []byte(strings.Repeat("\xff", 300)),
		"too large":        comettest.Tickets().Seal(make([]byte, 20<<10)),
		"not a ticket":     comettest.Tickets().Seal([]byte("\xff\xff\xff")),
		"another user's":   ticketOf(t, n, "main/bob/phone"),
		"another device's": ticketOf(t, n, "main/alice/laptop"),
		"another app's":    ticketOf(t, n, "other/alice/phone"),
		"another token's":  ticketOf(t, n, aliceToken+"/1h"),
		"expired":          altered(func(t *linkv1.Ticket) { t.ExpiresUs = time.Now().UnixMicro() - 1 }),
		"without an end":   altered(func(t *linkv1.Ticket) { t.ExpiresUs = 0 }),
		"for any token":    altered(func(t *linkv1.Ticket) { t.TokenId = "" }),
		"of many rooms": altered(func(t *linkv1.Ticket) {
			t.Rooms = make([]*linkv1.AttachedRoom, 17)
			for i := range t.Rooms {
				t.Rooms[i] = &linkv1.AttachedRoom{Conversation: big, JoinedSeq: 1}
			}
		}),
	}
	for name, ticket := range cases {
		t.Run(name, func(t *testing.T) {
			refused := n.Metric(t, "halley_comet_tickets_refused_total")
			c := n.Dial(t, comettest.TCP())
			if c.Resume(aliceToken, ticket) == nil {
				t.Fatal("not let in")
			}
			if n.Metric(t, "halley_comet_tickets_refused_total") != refused+1 {
				t.Error("not counted")
			}
			if n.Metric(t, "halley_comet_resumed_total") != 0 {
				t.Error("let in by the ticket")
			}
		})
	}
	refused := n.Metric(t, "halley_comet_resumed_total")
	if n.Dial(t, comettest.TCP()).Resume("nobody", mine) != nil || n.Metric(t, "halley_comet_resumed_total") != refused {
		t.Error("a ticket let in who has no token")
	}
	resume(t, n, aliceToken, mine) // It holds still.
}
