package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// membersOf connects so many, in a group of theirs.
func (w *wireWorld) membersOf(name string, users int) []*wireDevice {
	w.t.Helper()
	names := make([]string, users)
	for i := range names {
		names[i] = fmt.Sprintf("user%03d", i)
	}
	w.group = protocol.Group("main", "owner", "w1")
	created := w.mustWrite(envelopev1.Command_COMMAND_CONVERSATION_CREATE, &conversationv1.CreateRequest{Name: name, Members: names})
	w.intervals["owner"] = memberIntervals{{created, 0}}
	devices := make([]*wireDevice, users)
	for i, user := range names {
		w.intervals[user] = memberIntervals{{created, 0}}
		devices[i] = &wireDevice{w: w, user: user, name: "phone", pushed: map[uint64]bool{}, have: map[uint64]bool{}}
		devices[i].connect()
	}
	return devices
}

// connections is how many the comets hold.
func (w *wireWorld) connections() (sum float64) {
	for _, c := range w.comets {
		sum += c.Metric(w.t, "halley_comet_connections")
	}
	return sum
}

// sendOnce transmits a message once and returns its ack, or the code with which it is refused.
func sendOnce(t *testing.T, c *comettest.Client, conversation, clientID string, since uint64) (*recordv1.Ack, protocol.Code) {
	t.Helper()
	id := uint64(time.Now().UnixNano())
	c.Send(&envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_MESSAGE_SEND, RequestId: id, Conversation: conversation, ClientId: clientID, Since: since,
		Body: c.Body(&messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: "hello"}}}),
	})
	for {
		f := c.Recv()
		switch {
		case f.RequestId != id:
			continue // A push, or the answer to a transmission that was given up.
		case f.Error != nil:
			return nil, protocol.Code(f.Error.Code)
		}
		ack := &recordv1.Ack{}
		c.OpenBody(f, ack)
		return ack, ""
	}
}

// NATS is gone: sessions stay, what they send is answered with retry at once, and when it is back they go on by themselves.
func TestWithoutNATSSessionsStayAndSendsAreAnsweredRetry(t *testing.T) {
	server := bustest.StartCluster(t, 1)
	lines, metrics := &observetest.Lines{}, prometheus.NewRegistry()
	conn, err := bus.Connect(t.Context(), bus.Config{Name: "halley", URLs: server.URLs(), NoReconnectBuffer: true}, lines.Logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	showConn(metrics, "bus", conn)
	connected := func() float64 { return observetest.Metric(t, metrics, "halley_nats_connected", "conn=bus") }
	w := startWire(t, uint64(time.Now().UnixNano()), func(s *wireSettings) { s.conn, s.log = conn, lines.Logger() })
	devices := w.membersOf("outage", 20)
	sender := w.comets[0].Connect(t, comettest.TCP(), "main/owner/phone")
	if err := sender.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	known := uint64(1)
	send := func(id string) (protocol.Code, bool) {
		ack, code := sendOnce(t, sender, w.group, id, known)
		if ack != nil {
			if ack.Seq != known+1 {
				t.Fatalf("%s acked as %v behind %d", id, ack, known)
			}
			known = ack.Seq
		}
		return code, ack != nil
	}
	if code, ok := send("before"); !ok {
		t.Fatalf("refused as %s while all is well", code)
	}
	before := w.connections()

	server.Kill(0)
	w.wait("the connection to NATS is lost", func() error {
		if connected() != 0 {
			return errors.New("it stands")
		}
		return nil
	})
	for i := range 50 {
		if code, _ := send("during"); code != protocol.CodeRetry {
			t.Fatalf("send %d is answered %q, want retry", i, code)
		}
		sender.Ping()
	}
	if got := w.connections(); got != before {
		t.Fatalf("%v of %v connections are left", got, before)
	}
	if observetest.Metric(t, w.links[1], "halley_link_refused_total", "code=retry") < 50 {
		t.Error("the refusals are not counted")
	}
	if !lines.Have("level=WARN", "nats: disconnected") {
		t.Error("no log line names the cause")
	}

	server.Start(0)
	for _, id := range []string{"during", "after"} {
		w.wait(id+" is written", func() error {
			if code, ok := send(id); !ok {
				return fmt.Errorf("refused as %s", code)
			}
			return nil
		})
	}
	if known != 4 {
		t.Fatalf("the head is %d", known)
	}
	if connected() != 1 || observetest.Metric(t, metrics, "halley_nats_reconnects_total") == 0 || !lines.Have("nats: reconnected") {
		t.Error("neither metrics nor log tell that NATS is back")
	}
	w.last = known
	for _, d := range devices {
		w.wait(d.user+" is complete", func() error { return d.lacks(known) })
	}
	if got := w.connections(); got != before {
		t.Errorf("%v of %v connections are left", got, before)
	}
	for _, d := range devices {
		d.disconnect()
	}
}

// One device of a large group does not read. It is closed with a code, counted and told of in the log; all others get every record pushed,
// in order, and none of them is told to resync.
func TestAReaderFarBehindInALargeGroupSlowsNobody(t *testing.T) {
	lines := &observetest.Lines{}
	w := startWire(t, uint64(time.Now().UnixNano()), func(s *wireSettings) {
		s.log = lines.Logger()
		s.comet.OutboxBytes = 128 << 10
		s.comet.LingerMs = 200
		s.logic.Partition.LargeMembers = 20
	})
	devices := w.membersOf("crowd", 40)
	slow := w.comets[0].Connect(t, comettest.TCP(), "main/user000/slow")
	if err := slow.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	closed := func() float64 {
		return w.comets[0].Metric(t, "halley_comet_disconnects_total", "code=slow_reader")
	}
	words := &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: strings.Repeat("x", 15_000)}}}
	// The group was made while devices attached, which may have one of them resync; from here on nobody has a reason to.
	before := make(map[*wireDevice]int, len(devices))
	for _, d := range devices {
		d.mu.Lock()
		before[d] = d.resyncs
		d.mu.Unlock()
	}
	var head, first uint64
	for deadline := time.Now().Add(60 * time.Second); closed() == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("the slow reader is not closed after %d records", head)
		}
		if head = w.mustWrite(envelopev1.Command_COMMAND_MESSAGE_SEND, words); first == 0 {
			first = head
		}
	}
	for range 10 { // It is gone, and the others go on.
		head = w.mustWrite(envelopev1.Command_COMMAND_MESSAGE_SEND, words)
	}
	for _, d := range devices {
		w.wait(d.user, func() error { return d.wasPushed(first, head, true) })
		d.mu.Lock()
		if d.wrong != "" || d.resyncs > before[d] {
			t.Errorf("%s: %s, %d resyncs", d.user, d.wrong, d.resyncs-before[d])
		}
		d.mu.Unlock()
	}
	if closed() != 1 || w.comets[0].Metric(t, "halley_comet_slow_sessions_total") != 1 {
		t.Errorf("%v sessions are closed", closed())
	}
	w.wait("the log names the cause", func() error {
		if !lines.Have("level=WARN", "slow readers", "sessions=1") {
			return errors.New("it does not")
		}
		return nil
	})
	w.wait("its connection is gone", func() error {
		if got := w.connections(); got != float64(len(devices)) {
			return fmt.Errorf("%v connections", got)
		}
		return nil
	})
	for _, d := range devices {
		d.disconnect()
	}
	t.Logf("%d records until the slow reader was closed", head-first)
}
