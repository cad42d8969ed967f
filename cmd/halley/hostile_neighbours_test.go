package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// attempts are all requests that concern a conversation.
func attempts(c *comettest.Client, conversation string) []*envelopev1.Frame {
	frame := func(command envelopev1.Command, body protocol.Message) *envelopev1.Frame {
		return &envelopev1.Frame{Command: command, RequestId: uint64(command) + 1000, Conversation: conversation, ClientId: "theirs", Body: c.Body(body)}
	}
	all := []*envelopev1.Frame{
		frame(envelopev1.Command_COMMAND_MESSAGE_SEND, textMessage("hello")),
		frame(envelopev1.Command_COMMAND_CONVERSATION_HISTORY, &conversationv1.HistoryRequest{}),
		frame(envelopev1.Command_COMMAND_CONVERSATION_MEMBERS, &conversationv1.MembersRequest{}),
		frame(envelopev1.Command_COMMAND_RECEIPT_READ, &receiptv1.ReadRequest{Seq: 1}),
		frame(envelopev1.Command_COMMAND_SIGNAL_TYPING, &signalv1.TypingRequest{}),
		frame(envelopev1.Command_COMMAND_SIGNAL_WATCH, &signalv1.WatchRequest{Users: []string{"bob"}}),
	}
	if strings.HasPrefix(conversation, "g:") {
		all = append(all,
			frame(envelopev1.Command_COMMAND_CONVERSATION_ADD, &conversationv1.AddRequest{Members: []string{"mallory"}}),
			frame(envelopev1.Command_COMMAND_CONVERSATION_REMOVE, &conversationv1.RemoveRequest{Members: []string{"bob"}}),
			frame(envelopev1.Command_COMMAND_CONVERSATION_LEAVE, &conversationv1.LeaveRequest{}),
		)
	}
	return all
}

// talk has alice and bob of main say something, in a group and between them, and returns the group.
func (w *hostileWorld) talk(alice *comettest.Client) string {
	w.t.Helper()
	var made recordv1.Ack
	w.answered(alice, &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, RequestId: 2, ClientId: "make",
		Body: alice.Body(&conversationv1.CreateRequest{Name: "secret", Members: []string{"bob"}}),
	}, &made)
	for i, conversation := range []string{made.Conversation, "d:alice:bob"} {
		var ack recordv1.Ack
		w.answered(alice, &envelopev1.Frame{
			Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: uint64(i + 3), Conversation: conversation, ClientId: fmt.Sprint("say", i),
			Since: 1 << 40, Body: alice.Body(textMessage("a secret")),
		}, &ack)
	}
	return made.Conversation
}

// heads are those of the conversations that the caller is told of.
func (w *hostileWorld) heads(c *comettest.Client, conversations ...string) []*conversationv1.Head {
	w.t.Helper()
	var reply conversationv1.HeadsReply
	w.answered(c, &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_CONVERSATION_HEADS, RequestId: 7, Body: c.Body(&conversationv1.HeadsRequest{Conversations: conversations}),
	}, &reply)
	return reply.Heads
}

// What is somebody else's is not found: neither read nor written to, and nobody learns whether it exists.
func TestHostileNeighbours(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	alice := w.connect(comettest.TCP(), "alice", "phone")
	group := w.talk(alice)
	for name, wire := range comettest.Wires() {
		mallory := w.connect(wire, "mallory", "neighbour")
		for _, conversation := range []string{group, "d:alice:bob", "g:7v2c0ja6o1k3m", "d:nobody:noone"} {
			for _, f := range attempts(mallory, conversation) {
				w.refused(mallory, f, protocol.CodeNotFound)
			}
		}
		for _, f := range attempts(mallory, "u:alice")[1:2] {
			w.refused(mallory, f, protocol.CodeNotFound)
		}
		if heads := w.heads(mallory, group, "d:alice:bob", "u:alice", "g:7v2c0ja6o1k3m"); len(heads) > 0 {
			t.Errorf("%s: mallory is told of %v", name, heads)
		}
		_ = mallory.Close()
	}
	w.untouched(alice, group)
	_ = alice.Close()
	w.over()
}

// A tenant with users of the same names, who hold good tokens of their own app, finds an empty world.
func TestHostileTenants(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	alice, bob := w.connect(comettest.TCP(), "alice", "phone"), w.connect(comettest.TCP(), "bob", "phone")
	group := w.talk(alice)
	for name, wire := range comettest.Wires() {
		rival := w.connectTo("rival", wire, "alice", "phone") // The same user and device: it replaces nobody.
		for _, f := range attempts(rival, group) {
			w.refused(rival, f, protocol.CodeNotFound)
		}
		if heads := w.heads(rival, group, "d:alice:bob"); len(heads) > 0 {
			t.Errorf("%s: the rival is told of %v", name, heads)
		}
		var history conversationv1.HistoryReply
		got := w.ask(rival, attempts(rival, "d:alice:bob")[1])
		if got.Error == nil {
			rival.OpenBody(got, &history)
		}
		if len(history.Records) > 0 || history.HeadSeq > 0 {
			t.Errorf("%s: the rival reads %v", name, &history)
		}
		var listed conversationv1.ListReply
		w.answered(rival, &envelopev1.Frame{
			Command: envelopev1.Command_COMMAND_CONVERSATION_LIST, RequestId: 8, Body: rival.Body(&conversationv1.ListRequest{}),
		}, &listed)
		if len(listed.Conversations) > 0 {
			t.Errorf("%s: the rival lists %v", name, listed.Conversations)
		}
		_ = rival.Close()
	}
	w.presenceIsApart(alice)
	for _, c := range []*comettest.Client{alice, bob} { // Nobody was replaced.
		w.ask(c, &envelopev1.Frame{Command: envelopev1.Command_COMMAND_PING, RequestId: 99})
	}
	w.untouched(alice, group)
	_, _ = alice.Close(), bob.Close()
	w.over()
}

// presenceIsApart has the rival's alice write to the rival's bob, so that she may ask for him. The bob of main is online, and alice of main
// knows; the rival's is not.
func (w *hostileWorld) presenceIsApart(alice *comettest.Client) {
	w.t.Helper()
	rival := w.connectTo("rival", comettest.TCP(), "alice", "tablet")
	var ack recordv1.Ack
	w.answered(rival, attempts(rival, "d:alice:bob")[0], &ack)
	if ack.Seq != 1 {
		w.t.Errorf("the rival's first message has seq %d: the apps share a conversation", ack.Seq)
	}
	for c, online := range map[*comettest.Client]bool{alice: true, rival: false} {
		var reply signalv1.WatchReply
		w.answered(c, attempts(c, "d:alice:bob")[5], &reply)
		if len(reply.Presences) != 1 || reply.Presences[0].Online != online {
			w.t.Errorf("bob is online: %v, want %v", reply.Presences, online)
		}
	}
	_ = rival.Close()
}

// untouched sees that alice's conversations hold what she said and nothing else.
func (w *hostileWorld) untouched(alice *comettest.Client, group string) {
	w.t.Helper()
	for conversation, want := range map[string]int{group: 2, "d:alice:bob": 1} {
		var reply conversationv1.HistoryReply
		w.answered(alice, attempts(alice, conversation)[1], &reply)
		if len(reply.Records) != want || reply.HeadSeq != uint64(want) {
			w.t.Errorf("%s has %v, want %d records", conversation, reply.Records, want)
		}
	}
}

// The HTTP API takes no word of who has no key of its own, and ends what is too large or no JSON.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	key := strings.TrimSpace(w.fetchFile(devAPIKeyName))
	var post func(tries int, key, body string) (int, string)
	post = func(tries int, key, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.endpoints().API+"/v1/messages", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(req)
		if tries > 0 && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			return post(tries-1, key, body) // The server does not wait for the rest of what is too large, and its answer may be lost over that.
		}
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	deep := string(bytes.Repeat([]byte(`{"a":`), 100_000))
	for _, c := range []struct {
		what, key, body string
		status          int
	}{
		{"no key", "", "{}", http.StatusUnauthorized},
		{"a device's token", w.token(nil), "{}", http.StatusUnauthorized},
		{"a key of nobody", key[:len(key)-20] + strings.Repeat("a", 20), "{}", http.StatusUnauthorized},
		{"half a key", key[:12], "{}", http.StatusUnauthorized},
		{"no JSON", key, "\xff\xfe", http.StatusBadRequest},
		{"half JSON", key, `{"sender":"alice"`, http.StatusBadRequest},
		{"a deep body", key, deep, http.StatusBadRequest},
		{"a body beyond the limit", key, `{"text":"` + strings.Repeat("x", 2<<20) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		if status, text := post(20, c.key, c.body); status != c.status || !strings.Contains(text, `"code"`) {
			t.Errorf("%s: %d %s, want %d with a code", c.what, status, text, c.status)
		}
	}
	w.over()
}
