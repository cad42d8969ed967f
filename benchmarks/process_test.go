package benchmarks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/benchmarks/benchtest"
)

// serveUntilMeasured is a worker that dies a while after it was started.
func serveUntilMeasured(ctx context.Context, in io.Reader, out io.Writer) error {
	time.AfterFunc(2*time.Second, func() {
		fmt.Fprintln(os.Stderr, "the worker's tale of woe")
		os.Exit(3)
	})
	return benchmarks.ServeWorker(ctx, in, out)
}

// TestARunInProcessesIsOneRun has every verb's connections held by several processes, and one report of them all.
func TestARunInProcessesIsOneRun(t *testing.T) {
	start := func(t *testing.T) benchmarks.Config {
		s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
		cfg := config(t, "ws", s)
		cfg.Processes, cfg.Sources = 3, []string{"127.0.0.2-3"}
		cfg.Duration = 1500 * time.Millisecond
		return cfg
	}
	t.Run("p2p", func(t *testing.T) {
		t.Parallel()
		cfg := start(t)
		var terminal bytes.Buffer
		cfg.Progress = true
		r, err := benchmarks.RunP2P(t.Context(), benchmarks.P2PConfig{Config: cfg, Load: benchmarks.Load{Rate: 600}}, &terminal)
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, r, 1)
		if r.Connections != 20 || r.Config.Processes != 3 || r.ConnectMs.Count != 20 || r.Generator.LagMs.Count == 0 {
			t.Errorf("%d held in %d processes, %d connects, lag %+v", r.Connections, r.Config.Processes, r.ConnectMs.Count, r.Generator.LagMs)
		}
		// Each pair and thus each process sent what the schedule gave it.
		if r.Sent < 600 || r.Sent > 1400 || r.AckMs.Count != r.Acked || r.DeliverMs.Count != r.Delivered {
			t.Errorf("%d sent; %d acked, %d in the histogram; %d delivered, %d in the histogram",
				r.Sent, r.Acked, r.AckMs.Count, r.Delivered, r.DeliverMs.Count)
		}
		if len(r.Series) == 0 || r.Series[len(r.Series)-1].Connections != 20 {
			t.Errorf("series %+v", r.Series)
		}
		if !strings.Contains(terminal.String(), "measuring: 20 of 20 connected  ") || !strings.Contains(terminal.String(), "acked/s") {
			t.Errorf("the terminal shows %q", terminal.String())
		}
	})
	t.Run("group", func(t *testing.T) {
		t.Parallel()
		r, err := benchmarks.RunGroup(t.Context(), benchmarks.GroupConfig{
			Config: start(t), Load: benchmarks.Load{Outstanding: 2}, Groups: 4, Members: 5, Senders: 2,
		}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, r, 4)
		if r.Connections != 20 || r.Acked == 0 {
			t.Errorf("%d held, %d acked", r.Connections, r.Acked)
		}
	})
	t.Run("conn", func(t *testing.T) {
		t.Parallel()
		cfg := start(t)
		cfg.Settle, cfg.Connections = 0, 100
		r, err := benchmarks.RunConn(t.Context(), benchmarks.ConnConfig{Config: cfg}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if r.Connections != 100 || r.ConnectMs.Count != 100 || r.Generator.RSSBytes <= 0 {
			t.Errorf("%d held, %d connects, %.0f bytes", r.Connections, r.ConnectMs.Count, r.Generator.RSSBytes)
		}
	})
	t.Run("storm", func(t *testing.T) {
		t.Parallel()
		cfg := start(t)
		cfg.Duration = time.Minute // Ends with the last cut.
		r, err := benchmarks.RunStorm(t.Context(), benchmarks.StormConfig{Config: cfg, Load: benchmarks.Load{Rate: 300}, Cuts: 2}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed() || r.CompleteMs.Count != 40 || r.Reconnects != 40 {
			t.Errorf("%v, %d came back in %d sessions", r.Err(), r.CompleteMs.Count, r.Reconnects)
		}
	})
}

// TestABrokenPromiseIsSeenInEveryProcess has the verdicts of all processes in the one report.
func TestABrokenPromiseIsSeenInEveryProcess(t *testing.T) {
	s := benchtest.Start(t, "tcp", benchtest.Faults{Vanish: 1}, verify(t))
	cfg := config(t, "tcp", s)
	cfg.Processes, cfg.Wait = 2, time.Second
	r, err := benchmarks.RunP2P(t.Context(), benchmarks.P2PConfig{Config: cfg, Load: benchmarks.Load{Rate: 200}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost != r.Acked || r.Acked == 0 || r.Err() == nil {
		t.Errorf("%d of %d lost", r.Lost, r.Acked)
	}
}

func TestAWorkerThatDiesEndsTheRunWithItsLastWords(t *testing.T) {
	s := benchtest.Start(t, "tcp", benchtest.Faults{}, verify(t))
	cfg := config(t, "tcp", s)
	cfg.Processes, cfg.Duration, cfg.Worker = 2, time.Hour, []string{os.Args[0], "dying-worker"}
	_, err := benchmarks.RunP2P(t.Context(), benchmarks.P2PConfig{Config: cfg, Load: benchmarks.Load{Outstanding: 1}}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "tale of woe") {
		t.Errorf("error %v", err)
	}
}

func TestATokenThatDoesNotHoldEndsARunInProcesses(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
	cfg := benchmarks.ConnConfig{Config: config(t, "ws", s)}
	cfg.Processes = 2
	cfg.Key.Secret = []byte("another secret, of the same length")
	if _, err := benchmarks.RunConn(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "unauthenticated") {
		t.Errorf("error %v", err)
	}
}

func TestAnInterruptedRunInProcessesIsJudgedAllTheSame(t *testing.T) {
	s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
	cfg := config(t, "ws", s)
	cfg.Duration, cfg.Processes = time.Hour, 2
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(3*time.Second, cancel)
	r, err := benchmarks.RunP2P(ctx, benchmarks.P2PConfig{Config: cfg, Load: benchmarks.Load{Outstanding: 1}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, r, 1)
}

func TestAnAbandonedRunEndsWithoutAVerdict(t *testing.T) {
	for _, processes := range []int{1, 2} {
		s := benchtest.Start(t, "ws", benchtest.Faults{}, verify(t))
		cfg := config(t, "ws", s)
		cfg.Duration, cfg.Processes = time.Hour, processes
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(2*time.Second, func() { cancel(fmt.Errorf("%w: the server has gone", benchmarks.ErrAbandoned)) })
		r, err := benchmarks.RunP2P(ctx, benchmarks.P2PConfig{Config: cfg, Load: benchmarks.Load{Outstanding: 1}}, io.Discard)
		if !errors.Is(err, benchmarks.ErrAbandoned) {
			t.Errorf("%d processes: report %v, error %v", processes, r, err)
		}
	}
}
