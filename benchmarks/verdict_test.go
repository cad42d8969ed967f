package benchmarks_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/benchtest"
	"github.com/halley-im/halley/pkg/auth"
)

// TestMain lets the test binary be its own floor server, and its own workers.
func TestMain(m *testing.M) {
	roles := map[string]func(context.Context, io.Reader, io.Writer) error{
		"floor-server": benchmarks.ServeFloor, "worker": benchmarks.ServeWorker, "dying-worker": serveUntilMeasured,
	}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](context.Background(), os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

var key = auth.Key{ID: "test", Secret: []byte("0123456789abcdef0123456789abcdef")}

func verify(t *testing.T) func(string) (string, error) {
	ring, err := auth.NewKeyring(auth.Default(), key)
	if err != nil {
		t.Fatal(err)
	}
	return func(token string) (string, error) {
		c, err := ring.Verify(token, time.Now())
		return c.User, err
	}
}

// config is a small, short run against a fake; its waits are short too, for some fakes never give what is waited for.
func config(t *testing.T, transport string, s *benchtest.Server) benchmarks.Config {
	c := benchmarks.Default()
	c.Connections, c.Duration, c.Warmup, c.Wait = 20, 300*time.Millisecond, 0, 2*time.Second
	if s.Faultless() {
		c.Wait = time.Minute // Ends as soon as all is there.
	}
	c.Transport, c.Targets, c.Key = transport, []string{s.Target()}, key
	c.AnswerTimeout = 300 * time.Millisecond
	c.Seed = rand.Uint64N(1 << 32)
	c.Workers = 2
	c.Worker = []string{os.Args[0], "worker"}
	t.Logf("seed %d", c.Seed)
	return c
}

func runP2P(t *testing.T, transport string, load benchmarks.Load, faults benchtest.Faults) *benchmarks.Report {
	t.Helper()
	s := benchtest.Start(t, transport, faults, verify(t))
	r, err := benchmarks.RunP2P(t.Context(), benchmarks.P2PConfig{Config: config(t, transport, s), Load: load}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent < 100 { // Faults come with about every fiftieth.
		t.Errorf("only %d messages were sent: the run shows little; closes %v", r.Sent, r.Closes)
	}
	return r
}

// mustHold asserts that a server which kept every promise is told so, and that the books balance.
func mustHold(t *testing.T, r *benchmarks.Report, perMessage int64) {
	t.Helper()
	if r.Failed() || r.Err() != nil {
		t.Errorf("a correct server failed: %v", r.Err())
	}
	if r.Unacked != 0 || r.Acked+r.Refused != r.Sent || r.Delivered != r.Acked*perMessage {
		t.Errorf("sent %d, acked %d, refused %d, unacked %d, delivered %d", r.Sent, r.Acked, r.Refused, r.Unacked, r.Delivered)
	}
}

func TestACorrectServerGetsZeros(t *testing.T) {
	loads := map[string]benchmarks.Load{
		"one outstanding": {Outstanding: 1}, "four outstanding": {Outstanding: 4}, "open loop": {Rate: 2000},
	}
	for name, load := range loads {
		for _, transport := range []string{"ws", "tcp"} {
			t.Run(name+" over "+transport, func(t *testing.T) {
				r := runP2P(t, transport, load, benchtest.Faults{})
				mustHold(t, r, 1)
				if r.Connections != 20 || r.Repaired+r.Hidden+r.Redelivered+r.Foreign+r.Resent != 0 {
					t.Errorf("%d held, %d repaired, %d hidden, %d redelivered, %d foreign, %d resent",
						r.Connections, r.Repaired, r.Hidden, r.Redelivered, r.Foreign, r.Resent)
				}
				if r.AckMs.Count == 0 || r.DeliverMs.P50 <= 0 || r.Rate <= 0 {
					t.Errorf("latencies or rate are missing: %+v %+v %f", r.AckMs, r.DeliverMs, r.Rate)
				}
			})
		}
	}
}

// TestBrokenPromisesAreSeen breaks one promise at a time. named is the count that must show it; the run must fail.
func TestBrokenPromisesAreSeen(t *testing.T) {
	tests := []struct {
		promise string
		faults  benchtest.Faults
		named   func(*benchmarks.Report) int64
	}{
		{"acknowledged is stored", benchtest.Faults{LoseAcked: 50}, func(r *benchmarks.Report) int64 { return r.Lost }},
		{"acknowledged reaches everybody", benchtest.Faults{Vanish: 50}, func(r *benchmarks.Report) int64 { return r.Lost }},
		{"whoever asks gets everything", benchtest.Faults{Vanish: 50}, func(r *benchmarks.Report) int64 { return r.Gaps }},
		{"seqs have no holes", benchtest.Faults{SkipSeq: 50}, func(r *benchmarks.Report) int64 { return r.Gaps }},
		{"a message has one seq", benchtest.Faults{StoreTwice: 50}, func(r *benchmarks.Report) int64 { return r.Duplicated }},
		{"a message is acknowledged under one seq", benchtest.Faults{AckTwice: 50}, func(r *benchmarks.Report) int64 { return r.Duplicated }},
		{"a sender's order is kept", benchtest.Faults{SwapSends: 50}, func(r *benchmarks.Report) int64 { return r.Reordered }},
		{"a device is pushed in order", benchtest.Faults{SwapPushes: 50}, func(r *benchmarks.Report) int64 { return r.Reordered }},
		{"the text is what was sent", benchtest.Faults{Corrupt: 50}, func(r *benchmarks.Report) int64 { return r.Corrupted }},
		{"the sender is who sent", benchtest.Faults{Forge: 50}, func(r *benchmarks.Report) int64 { return r.Corrupted }},
		{"nobody else hears", benchtest.Faults{Misroute: 50}, func(r *benchmarks.Report) int64 { return r.Strays }},
	}
	for _, test := range tests {
		t.Run(test.promise, func(t *testing.T) {
			t.Parallel()
			r := runP2P(t, "ws", benchmarks.Load{Outstanding: 4}, test.faults)
			if test.named(r) == 0 {
				t.Errorf("the count that should show it is 0: %v", &benchmarks.FailedError{Report: r})
			}
			var failed *benchmarks.FailedError
			if !r.Failed() || !errors.As(r.Err(), &failed) {
				t.Error("the run did not fail")
			}
		})
	}
}

// TestWhatDevicesRepairIsNoFailure lets things happen that the protocol has an answer to.
func TestWhatDevicesRepairIsNoFailure(t *testing.T) {
	tests := []struct {
		event  string
		faults benchtest.Faults
		seen   func(*benchmarks.Report) int64
	}{
		{"a push is lost", benchtest.Faults{DropPush: 50}, func(r *benchmarks.Report) int64 { return r.Repaired }},
		{"a push comes twice", benchtest.Faults{RepeatPush: 20}, func(r *benchmarks.Report) int64 { return r.Redelivered }},
		{"only heads are pushed", benchtest.Faults{Mute: true}, func(r *benchmarks.Report) int64 { return r.Repaired }},
		{"a connection dies before the ack", benchtest.Faults{Kill: 100}, func(r *benchmarks.Report) int64 { return min(r.Reconnects, r.Resent) }},
		{"a node drains", benchtest.Faults{Drain: 100}, func(r *benchmarks.Report) int64 { return r.Closes["draining"] }},
		{"a device is told to compare", benchtest.Faults{Resync: 50}, func(r *benchmarks.Report) int64 { return r.Repaired - r.Hidden }},
		{"a queue is full", benchtest.Faults{Busy: 50}, func(r *benchmarks.Report) int64 { return r.Refusals["busy"] }},
	}
	for _, test := range tests {
		t.Run(test.event, func(t *testing.T) {
			t.Parallel()
			r := runP2P(t, "tcp", benchmarks.Load{Outstanding: 4}, test.faults)
			mustHold(t, r, 1)
			if test.seen(r) == 0 {
				t.Errorf("it did not show: %d repaired, %d redelivered, %d reconnects, %d resent, closes %v, refusals %v",
					r.Repaired, r.Redelivered, r.Reconnects, r.Resent, r.Closes, r.Refusals)
			}
		})
	}
}

// TestASilentServerIsAskedAgain has one message in flight, so that no later one brings the ignored one to light.
func TestASilentServerIsAskedAgain(t *testing.T) {
	r := runP2P(t, "tcp", benchmarks.Load{Outstanding: 1}, benchtest.Faults{Ignore: 100})
	mustHold(t, r, 1)
	if r.Unanswered == 0 || r.Resent == 0 {
		t.Errorf("%d unanswered, %d resent", r.Unanswered, r.Resent)
	}
}

func TestRetriesKeepTheirOrder(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{Busy: 20}, verify(t))
	r, err := benchmarks.RunP2P(t.Context(), benchmarks.P2PConfig{
		Config: config(t, "ws", s), Load: benchmarks.Load{Outstanding: 16},
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, r, 1)
	if resends, _ := s.Stats(); resends == 0 {
		t.Error("no send that named a refused one was sent back: the case did not occur")
	}
}

func TestAMessageRefusedForGoodIsNotLost(t *testing.T) {
	r := runP2P(t, "tcp", benchmarks.Load{Rate: 2000}, benchtest.Faults{Refuse: 50})
	mustHold(t, r, 1)
	if r.Refused == 0 || !strings.Contains(strings.Join(r.Warnings, "\n"), "refused") {
		t.Errorf("%d refused, warnings %q", r.Refused, r.Warnings)
	}
}

func TestARunOnAServerWithAPastBeginsAtItsHead(t *testing.T) {
	s := benchtest.Start(t, "tcp", benchtest.Faults{}, verify(t))
	cfg := benchmarks.P2PConfig{Config: config(t, "tcp", s), Load: benchmarks.Load{Outstanding: 1}}
	for range 2 { // The second run finds what the first one left.
		r, err := benchmarks.RunP2P(t.Context(), cfg, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, r, 1)
		if r.Repaired+r.Foreign != 0 {
			t.Errorf("%d repaired, %d foreign: the past was taken for the present", r.Repaired, r.Foreign)
		}
	}
}

func TestGroups(t *testing.T) {
	for name, load := range map[string]benchmarks.Load{"closed": {Outstanding: 2}, "open": {Rate: 500}} {
		t.Run(name, func(t *testing.T) {
			s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
			r, err := benchmarks.RunGroup(t.Context(), benchmarks.GroupConfig{
				Config: config(t, "ws", s), Load: load, Groups: 3, Members: 12, Senders: 3,
			}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			mustHold(t, r, 11)
			if r.Connections != 36 || r.Acked == 0 {
				t.Errorf("%d held, %d acked", r.Connections, r.Acked)
			}
		})
	}
}

func TestALargeGroupIsFilledInSteps(t *testing.T) {
	s := benchtest.Start(t, "tcp", benchtest.Faults{}, verify(t))
	cfg := config(t, "tcp", s)
	cfg.AnswerTimeout = time.Minute // On a busy machine 2100 devices that ask again would keep the fake from ever answering.
	r, err := benchmarks.RunGroup(t.Context(), benchmarks.GroupConfig{
		Config: cfg, Load: benchmarks.Load{Rate: 20}, Groups: 1, Members: 2100, Senders: 1,
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, r, 2099)
}

func TestGroupsWithLostPushesAreJudgedPerDevice(t *testing.T) {
	s := benchtest.Start(t, "tcp", benchtest.Faults{Vanish: 97}, verify(t))
	r, err := benchmarks.RunGroup(t.Context(), benchmarks.GroupConfig{
		Config: config(t, "tcp", s), Load: benchmarks.Load{Rate: 500}, Groups: 2, Members: 10, Senders: 2,
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost == 0 || r.Gaps < r.Lost {
		t.Errorf("%d lost, %d gaps", r.Lost, r.Gaps)
	}
}

// TestWhatNobodyToldIsHidden has listeners that no push reaches: only the last comparison shows them what there is.
func TestWhatNobodyToldIsHidden(t *testing.T) {
	s := benchtest.Start(t, "tcp", benchtest.Faults{DropPush: 1}, verify(t))
	r, err := benchmarks.RunGroup(t.Context(), benchmarks.GroupConfig{
		Config: config(t, "tcp", s), Load: benchmarks.Load{Rate: 1000}, Groups: 2, Members: 5, Senders: 1,
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, r, 4)
	if r.Hidden == 0 || r.Hidden != r.Delivered || !strings.Contains(strings.Join(r.Warnings, "\n"), "nothing had told") {
		t.Errorf("%d of %d deliveries hidden, warnings %q", r.Hidden, r.Delivered, r.Warnings)
	}
}

func TestConnHoldsEverybody(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
	cfg := benchmarks.ConnConfig{Config: config(t, "ws", s)}
	cfg.Connections, cfg.Settle, cfg.Sources = 300, 10*time.Millisecond, []string{"127.0.0.2-4"}
	r, err := benchmarks.RunConn(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Connections != 300 || r.Failed() || r.ConnectRate <= 0 {
		t.Errorf("%d held, failed %v, %.0f connects/s", r.Connections, r.Failed(), r.ConnectRate)
	}
}

func TestATokenThatDoesNotHoldEndsTheRun(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
	cfg := benchmarks.ConnConfig{Config: config(t, "ws", s)}
	cfg.Key.Secret = []byte("another secret, of the same length")
	if _, err := benchmarks.RunConn(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "unauthenticated") {
		t.Errorf("error %v", err)
	}
}

func TestNobodyThereEndsTheRun(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
	cfg := benchmarks.ConnConfig{Config: config(t, "ws", s)}
	cfg.Targets = []string{"127.0.0.1:1"}
	if _, err := benchmarks.RunConn(t.Context(), cfg, io.Discard); err == nil {
		t.Error("no error")
	}
}

func TestAnInterruptedRunIsJudgedAllTheSame(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
	cfg := config(t, "ws", s)
	cfg.Duration = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r, err := benchmarks.RunP2P(ctx, benchmarks.P2PConfig{Config: cfg, Load: benchmarks.Load{Outstanding: 1}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, r, 1)
}

func TestTheFloorIsMeasuredInAProcessOfItsOwn(t *testing.T) {
	cfg := benchmarks.Default()
	cfg.Connections, cfg.Duration, cfg.Warmup = 20, time.Second, 0
	r, err := benchmarks.RunFloor(t.Context(), benchmarks.FloorConfig{
		Config: cfg, Outstanding: 1, Server: []string{os.Args[0], "floor-server"},
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Acked == 0 || r.Server.CPUUsPerMessage <= 0 || r.Server.RSSBytes <= 0 || r.Connections != 20 {
		t.Errorf("%d echoed at %.2f µs, %.0f bytes, %d held", r.Acked, r.Server.CPUUsPerMessage, r.Server.RSSBytes, r.Connections)
	}
	var text bytes.Buffer
	r.Summary(&text)
	if !strings.Contains(text.String(), "server CPU") {
		t.Errorf("summary:\n%s", text.String())
	}
}

func TestAStormIsOverWhenEveryDeviceIsComplete(t *testing.T) {
	for _, transport := range []string{"ws", "tcp"} {
		s := benchtest.Start(t, transport, benchtest.Faults{}, verify(t))
		cfg := config(t, transport, s)
		cfg.Duration = time.Minute // Ends with the last cut.
		r, err := benchmarks.RunStorm(t.Context(), benchmarks.StormConfig{Config: cfg, Load: benchmarks.Load{Rate: 300}, Cuts: 2}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		late := slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.HasPrefix(w, "cut ") })
		if r.Failed() || r.Away != 0 || late {
			t.Errorf("%v, %d away, %q", r.Err(), r.Away, r.Warnings)
		}
		if n := int64(2 * cfg.Connections); r.CompleteMs.Count != n || r.Reconnects != n || r.CompleteMs.Max <= 0 {
			t.Errorf("%d devices came back in %d sessions, within %v ms; want %d", r.CompleteMs.Count, r.Reconnects, r.CompleteMs.Max, n)
		}
	}
}
