package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// Beyond its limit of connections a node says so, with when to come back; who is connected notices nothing, and when the flood
// is over there is room again.
func TestHostileConnects(t *testing.T) {
	t.Parallel()
	const limit, flood = 100, 300
	w := startHostile(t, fmt.Sprint("comet.max_connections=", limit))
	for name, wire := range comettest.Wires() {
		opened := wire.Open
		wire.Open = comettest.TCP().Open // What the server answers the opening is the flood's to read.
		before := w.count("accepts_total", "result", "overloaded")
		all := make([]*comettest.Client, flood)
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { all[i] = w.dial(wire) })
		}
		wg.Wait()
		w.until("all but the limit are refused", func() error {
			if n := w.count("accepts_total", "result", "overloaded") - before; n < flood-limit {
				return fmt.Errorf("%.0f are refused", n)
			}
			return nil
		})
		w.friend.Ping()
		refused := 0
		for _, c := range all {
			if wire.Transport == "tcp" {
				c.Send(connectWith(c, w.token(map[string]any{"dev": fmt.Sprint("flood", refused)})))
				if f := c.Recv(); f.Command == envelopev1.Command_COMMAND_CLOSE {
					var closing envelopev1.Close
					c.OpenBody(f, &closing)
					if closing.Code != uint32(protocol.CloseOverloaded) || closing.RetryAfterMs == 0 {
						t.Errorf("%s: turned away with %v", name, &closing)
					}
					refused++
				}
			} else if err := c.Reopen(c.Conn, opened); err != nil {
				if !strings.Contains(err.Error(), "503 Service Unavailable") {
					t.Errorf("%s: turned away with %v", name, err)
				}
				refused++
			}
		}
		// The friend and the demo's device are of the limit.
		if refused != flood-(limit-demoDevices-1) {
			t.Errorf("%s: %d of %d are turned away, the limit is %d", name, refused, flood, limit)
		}
		for _, c := range all {
			_ = c.Close()
		}
		w.until("there is room again", func() error { return w.connections(demoDevices + 1) })
		wire.Open = opened
		c := w.connect(wire, "late", "phone")
		c.Ping()
		_ = c.Close()
		w.until("the late one is gone", func() error { return w.connections(demoDevices + 1) })
	}
	w.over()
}

// Beyond the rate of the hello a send is refused, and a session that goes on all the same is closed; others are served.
func TestHostileSends(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	for _, wire := range comettest.Wires() {
		w.counted(1, "disconnects_total", "code", "rate_limited", func() {
			c := w.connect(wire, "mallory", wire.Transport)
			frame := c.Bytes(&envelopev1.Frame{
				Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: 5, Conversation: "d:mallory:zoe", ClientId: "same",
				Since: 1 << 40, Body: c.Body(textMessage(strings.Repeat("x", 1000))),
			})
			var flooding sync.WaitGroup
			flooding.Go(func() {
				for range 100_000 {
					if _, err := c.Write(frame); err != nil {
						return // Closed, as it must be.
					}
				}
			})
			limited := 0
			for {
				f, err := c.TryRecv()
				if err != nil || f.Command == envelopev1.Command_COMMAND_CLOSE {
					break
				}
				if f.Error.GetCode() == string(protocol.CodeRateLimited) && f.Error.RetryAfterMs > 0 {
					limited++
				}
			}
			_ = c.Close()
			flooding.Wait()
			if limited == 0 {
				t.Error("nobody was told to wait")
			}
			w.friend.Ping()
		})
	}
	w.over()
}

// A session watches a bounded number of users, and none when it is gone.
func TestHostileWatches(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	maker := w.connect(comettest.TCP(), "mallory", "maker")
	var groups []string
	for g := range 3 {
		names := make([]string, 500)
		for i := range names {
			names[i] = fmt.Sprintf("victim%d-%03d", g, i)
		}
		var ack recordv1.Ack
		w.answered(maker, &envelopev1.Frame{
			Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, RequestId: uint64(g + 2), ClientId: fmt.Sprint("victims", g),
			Body: maker.Body(&conversationv1.CreateRequest{Name: "victims", Members: names}),
		}, &ack)
		groups = append(groups, ack.Conversation)
	}
	for _, wire := range comettest.Wires() {
		c := w.connect(wire, "mallory", wire.Transport)
		for id := range 15 {
			g := id / 5
			var users []string
			for i := range 100 {
				users = append(users, fmt.Sprintf("victim%d-%03d", g, id%5*100+i))
			}
			f := &envelopev1.Frame{
				Command: envelopev1.Command_COMMAND_SIGNAL_WATCH, RequestId: uint64(id + 2), Conversation: groups[g],
				Body: c.Body(&signalv1.WatchRequest{Users: users}),
			}
			if id < 10 {
				w.answered(c, f, &signalv1.WatchReply{})
			} else {
				w.refused(c, f, protocol.CodeBusy)
			}
		}
		if n := w.metrics().sum("halley_logic_watches"); n < 1000 {
			t.Errorf("%.0f users are watched", n)
		}
		_ = c.Close()
		w.until("the watches went with the session", func() error {
			if n := w.metrics().sum("halley_logic_watches"); n > 0 {
				return fmt.Errorf("%.0f users are watched", n)
			}
			return nil
		})
	}
	_ = maker.Close()
	w.over()
}

// A user makes a bounded number of groups in a minute, however often it connects; another user makes its own.
func TestHostileGroups(t *testing.T) {
	t.Parallel()
	const limit = 20
	w := startHostile(t, fmt.Sprint("comet.groups_per_minute=", limit))
	made := 0
	create := func(c *comettest.Client) *envelopev1.Frame {
		made++
		return w.ask(c, &envelopev1.Frame{
			Command: envelopev1.Command_COMMAND_CONVERSATION_CREATE, RequestId: uint64(made + 1), ClientId: fmt.Sprint("group", made),
			Body: c.Body(&conversationv1.CreateRequest{Name: "flood", Members: []string{"alice", "bob"}}),
		})
	}
	began := time.Now()
	granted, refused := 0, 0
	for name, wire := range comettest.Wires() {
		for range 3 {
			c := w.connect(wire, "mallory", "flood")
			for range limit {
				f := create(c)
				switch {
				case f.Error == nil:
					granted++
				case f.Error.Code != string(protocol.CodeRateLimited) || f.Error.RetryAfterMs == 0:
					t.Fatalf("%s: %v", name, f.Error)
				default:
					refused++
				}
			}
			_ = c.Close()
		}
	}
	if most := limit + int(time.Since(began)*limit/time.Minute) + 1; granted < limit || granted > most {
		t.Errorf("%d groups were made, at most %d may be", granted, most)
	}
	if n := w.metrics().sum("halley_comet_groups_refused_total"); n != float64(refused) || n == 0 {
		t.Errorf("%.0f refusals are counted, %d were made", n, refused)
	}
	other := w.connect(comettest.WebSocket(link.CodecProto), "alice", "phone")
	if f := create(other); f.Error != nil {
		t.Errorf("another user: %v", f.Error)
	}
	_ = other.Close()
	w.over()
}
