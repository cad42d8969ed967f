package history_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job/history"
	"github.com/halley-im/halley/job/internal/jobtest"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/observe/observetest"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// node is one job node's history of partition 0.
type node struct {
	t        testing.TB
	follower *bus.Follower
	stop     context.CancelFunc
	once     sync.Once
	done     chan error
	lines    observetest.Lines
	metrics  *prometheus.Registry
}

func start(t testing.TB, c *bus.Conn, s *jobtest.Store, change func(*history.Config)) *node {
	t.Helper()
	cfg := history.Default()
	cfg.AckWaitMs, cfg.LingerMs = 1000, 8
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, metrics: prometheus.NewRegistry(), done: make(chan error, 1)}
	h := history.New(cfg, history.Deps{Store: s, Log: n.lines.Logger(), Metrics: n.metrics})
	l := bustest.OpenLog(t, c, 0)
	f, err := h.Open(jobtest.Context(t), l)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.follower, n.stop = f, cancel
	go func() { n.done <- h.Run(ctx, 0, f) }()
	t.Cleanup(func() { _ = n.end() })
	return n
}

// end stops the node and returns what Run said.
func (n *node) end() (err error) {
	n.once.Do(func() {
		n.stop()
		err = <-n.done
		n.follower.Close()
	})
	return err
}

func (n *node) floorIs(floor, pending uint64) {
	n.t.Helper()
	bustest.Until(n.t, fmt.Sprintf("floor %d with %d pending", floor, pending), func() bool {
		f, p, err := n.follower.Floor(jobtest.Context(n.t))
		if err != nil {
			n.t.Fatal(err)
		}
		if f > floor {
			n.t.Fatalf("floor is %d, above %d", f, floor)
		}
		return f == floor && p == pending
	})
}

func stored(t testing.TB, s *jobtest.Store, conversation string, seqs ...uint64) {
	t.Helper()
	writes, _ := s.Writes()
	for _, seq := range seqs {
		if writes[jobtest.Key{Conversation: conversation, Seq: seq}] == 0 {
			t.Errorf("record %d of %s is below the floor and not in the store", seq, conversation)
		}
	}
}

func TestEveryRecordIsStoredBeforeTheFloorPassesIt(t *testing.T) {
	c := bustest.Logs(t, 1)
	w, s := jobtest.NewWriter(t, c, 0), jobtest.NewStore()
	w.Fence()
	for i := uint64(1); i <= 200; i++ {
		w.Block(jobtest.Message("d:alice:bob", 2*i-1), jobtest.Message("d:alice:bob", 2*i))
	}
	n := start(t, c, s, nil)
	n.floorIs(201, 0)
	writes, appends := s.Writes()
	if len(writes) != 400 {
		t.Fatalf("%d records are stored, want 400", len(writes))
	}
	if appends > 50 {
		t.Errorf("200 blocks took %d writes; they are to be merged", appends)
	}
	if err := n.end(); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v", err)
	}
}

func TestStoreDownAndUpAgain(t *testing.T) {
	c := bustest.Logs(t, 1)
	w, s := jobtest.NewWriter(t, c, 0), jobtest.NewStore()
	s.SetDown(true)
	var tries sync.WaitGroup
	tries.Add(3)
	var count int
	s.OnAppend = func() {
		if count++; count <= 3 {
			tries.Done()
		}
	}
	for i := uint64(1); i <= 20; i++ {
		w.Block(jobtest.Message("g:x", i))
	}
	n := start(t, c, s, nil)
	tries.Wait()
	for i := uint64(21); i <= 40; i++ {
		w.Block(jobtest.Message("g:x", i))
	}
	n.floorIs(0, 40)
	if observetest.Metric(t, n.metrics, "halley_job_history_store_errors_total") < 2 {
		t.Error("what the store refused is not counted")
	}
	if !n.lines.Have("level=WARN", "store refuses; trying again", jobtest.ErrDown.Error()) {
		t.Error("no log line names the cause")
	}
	s.SetDown(false)
	n.floorIs(40, 0)
	for i := uint64(1); i <= 40; i++ {
		stored(t, s, "g:x", i)
	}
}

// A node dies with a block in hand while another acknowledges later ones: the floor waits for the block, and gets it.
func TestNodeDiesMidBlock(t *testing.T) {
	c := bustest.Logs(t, 1)
	w, s := jobtest.NewWriter(t, c, 0), jobtest.NewStore()
	w.Block(jobtest.Message("g:x", 1))

	dies, err := bustest.OpenLog(t, c, 0).Follow(jobtest.Context(t), history.Name, bus.FollowOptions{AckWait: time.Second, MaxAckPending: 2048})
	if err != nil {
		t.Fatal(err)
	}
	if ds, err := dies.Fetch(jobtest.Context(t), 1, 1<<20, bustest.Wait); err != nil || len(ds) != 1 {
		t.Fatalf("%d blocks, %v", len(ds), err)
	}
	dies.Close() // never heard of again

	for i := uint64(2); i <= 10; i++ {
		w.Block(jobtest.Message("g:x", i))
	}
	n := start(t, c, s, nil)
	n.floorIs(0, 1)
	stored(t, s, "g:x", 2, 3, 4, 5, 6, 7, 8, 9, 10)
	n.floorIs(10, 0)
	stored(t, s, "g:x", 1)
}

// Two nodes share the work; one is stopped in the midst of it. Everything is stored, some of it perhaps twice.
func TestTwoNodesAndOneLeaves(t *testing.T) {
	c := bustest.Logs(t, 1)
	w, s := jobtest.NewWriter(t, c, 0), jobtest.NewStore()
	small := func(cfg *history.Config) { cfg.BatchBlocks, cfg.LingerMs = 4, 0 }
	a, b := start(t, c, s, small), start(t, c, s, small)
	for i := uint64(1); i <= 300; i++ {
		w.Block(jobtest.Message("g:x", i))
		if i == 150 {
			if err := a.end(); !errors.Is(err, context.Canceled) {
				t.Fatalf("Run: %v", err)
			}
		}
	}
	b.floorIs(300, 0)
	for i := uint64(1); i <= 300; i++ {
		stored(t, s, "g:x", i)
	}
}

func TestPoisonStopsThePartitionAndIsNeverPassed(t *testing.T) {
	for name, poison := range map[string]func(w *jobtest.Writer) uint64{
		"not a block": func(w *jobtest.Writer) uint64 { return w.Raw([]byte("not a block"), false) },
		"empty":       func(w *jobtest.Writer) uint64 { return w.Raw(nil, false) },
		"record that no store can hold": func(w *jobtest.Writer) uint64 {
			return w.Block(jobtest.Message("g:x", 3), &logv1.Record{Conversation: "g:x"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := bustest.Logs(t, 1)
			w, s := jobtest.NewWriter(t, c, 0), jobtest.NewStore()
			w.Block(jobtest.Message("g:x", 1))
			w.Block(jobtest.Message("g:x", 2))
			bad := poison(w)
			w.Block(jobtest.Message("g:x", 4))
			n := start(t, c, s, nil)
			select {
			case err := <-n.done:
				n.done <- err
				if !errors.Is(err, history.ErrPoisoned) {
					t.Fatalf("Run: %v, want ErrPoisoned", err)
				}
			case <-time.After(bustest.Wait):
				t.Fatal("Run goes on")
			}
			n.floorIs(bad-1, 2)
			stored(t, s, "g:x", 1, 2)
			writes, _ := s.Writes()
			if len(writes) != 2 {
				t.Fatalf("%d records are stored, want the 2 before the poison", len(writes))
			}
		})
	}
}

// While one partition's writes are refused, another's go on, even with a single writer.
func TestRefusedPartitionLeavesTheWriterToOthers(t *testing.T) {
	c := bustest.Logs(t, 2)
	s := jobtest.NewStore()
	cfg := history.Default()
	cfg.Writers, cfg.AckWaitMs, cfg.LingerMs = 1, 1000, 8
	h := history.New(cfg, history.Deps{Store: refusing{s}, Log: bustest.Log(t), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for p, conversation := range []string{"g:refused", "g:fine"} {
		w := jobtest.NewWriter(t, c, p)
		w.Block(jobtest.Message(conversation, 1))
		f, err := h.Open(jobtest.Context(t), w.Log)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = h.Run(ctx, p, f) })
	}
	bustest.Until(t, "the other partition's record is stored", func() bool {
		writes, _ := s.Writes()
		return writes[jobtest.Key{Conversation: "g:fine", Seq: 1}] > 0
	})
	cancel()
	wg.Wait()
}

type refusing struct{ *jobtest.Store }

func (r refusing) Append(ctx context.Context, records []*logv1.Record) error {
	if records[0].Conversation == "g:refused" {
		return jobtest.ErrDown
	}
	return r.Store.Append(ctx, records)
}
