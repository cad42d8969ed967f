package comet_test

import (
	"strings"
	"testing"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func send(id uint64, conversation string) *envelopev1.Frame {
	return &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: id, Conversation: conversation,
		ClientId: "c-1", After: "c-0", Since: 41, Body: []byte(`{"text":"hi"}`),
	}
}

func TestARequestIsStampedAndPassedOnUnopened(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		c := n.Connect(t, w, "main/alice/phone")
		n.Comet.Deliver(&link.Batch{Partition: protocol.Partition("main", "d:alice:bob", n.Router.Partitions()), Epoch: 9})
		c.Send(send(7, "d:alice:bob"))
		if f := c.Recv(); f.RequestId != 7 || f.Conversation != "d:alice:bob" || string(f.Body) != `{"text":"hi"}` {
			t.Fatalf("answer: %v", f)
		}
		e, _ := n.Presence.Entry("main", "alice", "phone")
		got := n.Router.Seen()[0]
		got.Body = nil
		want := link.Request{
			Node: "comet-1", Conn: e.Conn, App: "main", User: "alice", Device: "phone", Codec: w.Codec,
			Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestID: 7, Conversation: "d:alice:bob", ClientID: "c-1", After: "c-0", Since: 41, Epoch: 9,
		}
		if got.Conn != want.Conn || got.Node != want.Node || got.App != want.App || got.User != want.User ||
			got.Device != want.Device || got.Codec != want.Codec || got.Command != want.Command ||
			got.RequestID != want.RequestID || got.Conversation != want.Conversation || got.ClientID != want.ClientID ||
			got.After != want.After || got.Since != want.Since || got.Epoch != want.Epoch || got.Server {
			t.Errorf("request:\n%+v\nwant\n%+v", got, want)
		}
	})
}

func TestNoConversationMeansTheUsersOwn(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	c := n.Connect(t, comettest.TCP(), "main/alice/phone")
	c.Send(send(1, ""))
	c.Send(&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, RequestId: 2, ClientId: "make-1", Conversation: "g:ignored"})
	for _, want := range []string{"u:alice", protocol.Group("main", "alice", "make-1")} {
		if f := c.Recv(); f.Conversation != want {
			t.Errorf("went to %q, want %q", f.Conversation, want)
		}
	}
}

func TestWhatCometRefusesItself(t *testing.T) {
	each(t, func(t *testing.T, w comettest.Wire) {
		n := comettest.Start(t, comettest.Config())
		c := n.Connect(t, w, "main/alice/phone")
		create := &envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, RequestId: 5}
		badID, badAfter := send(6, "g:x"), send(7, "g:x")
		badID.ClientId, badAfter.After = "two words", strings.Repeat("x", 65)
		for _, r := range []struct {
			frame *envelopev1.Frame
			code  protocol.Code
		}{
			{send(1, "d:bob:alice"), protocol.CodeInvalid},
			{send(2, "nonsense"), protocol.CodeInvalid},
			{send(3, "d:bob:carol"), protocol.CodeNotFound},
			{send(4, "u:bob"), protocol.CodeNotFound},
			{create, protocol.CodeInvalid},
			{badID, protocol.CodeInvalid},
			{badAfter, protocol.CodeInvalid},
			{&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RECORD, RequestId: 8}, protocol.CodeUnknownCommand},
			{&envelopev1.Frame{Command: envelopev1.Command_COMMAND_RESYNC, RequestId: 9}, protocol.CodeUnknownCommand},
			{&envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 10}, protocol.CodeConflict},
		} {
			c.Send(r.frame)
			if f := c.Recv(); f.RequestId != r.frame.RequestId || f.Error.GetCode() != string(r.code) || len(f.Body) > 0 {
				t.Errorf("%v\nanswered with %v, want %s", r.frame, f, r.code)
			}
		}
		if len(n.Router.Seen()) != 0 {
			t.Errorf("routed all the same: %v", n.Router.Seen())
		}
		c.Ping()
	})
}

func TestWhatTheRouterRefusesIsAnsweredAtOnce(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	c := n.Connect(t, comettest.WebSocket(link.CodecJSON), "main/alice/phone")
	n.Router.Refuse.Store(protocol.Errorf(protocol.CodeBusy, "the queue is full"))
	c.Send(send(1, "g:x"))
	if f := c.Recv(); f.Error.GetCode() != string(protocol.CodeBusy) || !f.Error.Retryable {
		t.Errorf("answer: %v", f)
	}
}

func TestABadJSONFrameIsExplainedAndTheSessionGoesOn(t *testing.T) {
	n := comettest.Start(t, comettest.Config())
	c := n.Connect(t, comettest.WebSocket(link.CodecJSON), "main/alice/phone")
	if _, err := c.Write(c.Encode([]byte(`{"command":"message.sned","request_id":3}`))); err != nil {
		t.Fatal(err)
	}
	if f := c.Recv(); f.RequestId != 3 || f.Error.GetCode() != string(protocol.CodeUnknownCommand) {
		t.Errorf("answer: %v", f)
	}
	c.Ping()
}

func TestFasterThanTheHelloAllows(t *testing.T) {
	cfg := comettest.Config()
	cfg.FramesPerSecond, cfg.FramesBurst = 20, 10
	n := comettest.Start(t, cfg)
	c := n.Connect(t, comettest.TCP(), "main/alice/phone")
	for id := range uint64(40) {
		c.Send(send(id, "g:x"))
	}
	refused := 0
	for range 40 {
		if f := c.Recv(); f.Error != nil {
			if f.Error.Code != string(protocol.CodeRateLimited) || f.Error.RetryAfterMs == 0 {
				t.Fatalf("refused with %v", f.Error)
			}
			refused++
		}
	}
	if refused < 20 || refused > 35 {
		t.Errorf("%d of 40 refused at a burst of 10", refused)
	}
	frame := c.Bytes(send(1, "g:x"))
	go func() {
		for range 5000 {
			if _, err := c.Write(frame); err != nil {
				return // closed, as it must be
			}
		}
	}()
	wantClose(t, c, protocol.CloseRateLimited)
}
