package job_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job"
	"github.com/halley-im/halley/job/internal/jobtest"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/pebble"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// start runs a job node until stop is called.
func start(t testing.TB, c *bus.Conn, partitions int, s store.Store, reg *prometheus.Registry) (stop func()) {
	t.Helper()
	cfg := job.Default()
	cfg.History.AckWaitMs, cfg.History.LingerMs = 1000, 8
	cfg.Userlog.AckWaitMs, cfg.Userlog.RequestTimeoutMs, cfg.Userlog.RetryMs = 1000, 400, 20
	cfg.Trim.IntervalMs = 50
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	j := job.New(cfg, job.Deps{Conn: c, Partitions: partitions, Store: s, Log: bustest.Log(t), Metrics: reg})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := j.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	t.Cleanup(stop)
	return stop
}

func openStore(t testing.TB) store.Store {
	t.Helper()
	s, err := pebble.Open(t.TempDir(), pebble.Default(), bustest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func gauge(t testing.TB, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			match := family.GetName() == name && len(m.GetLabel()) == len(labels)
			for i, l := range m.GetLabel() {
				match = match && l.GetValue() == labels[i]
			}
			if match {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// Nodes come and go at random while blocks are written. In the end the store has every record, contiguous and once, and every
// member's list has the conversation.
func TestNodesComeAndGoWhileBlocksAreWritten(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const partitions, blocks = 3, 400
	c := bustest.Logs(t, partitions)
	s := openStore(t)
	o := jobtest.NewOwner(t, c, nil, 0, 1, 2)
	stops := []func(){start(t, c, partitions, s, prometheus.NewRegistry())}

	seqs := make([]uint64, partitions)
	var writers []*jobtest.Writer
	for p := range partitions {
		writers = append(writers, jobtest.NewWriter(t, c, p))
	}
	for range blocks {
		p := rnd.IntN(partitions)
		conversation := fmt.Sprintf("g:p%d", p)
		var records []*logv1.Record
		for range 1 + rnd.IntN(5) {
			seqs[p]++
			r := jobtest.Message(conversation, seqs[p])
			if seqs[p] == 1 {
				r.Joined = []string{"alice", "bob"}
			}
			records = append(records, r)
		}
		writers[p].Block(records...)
		switch rnd.IntN(40) {
		case 0:
			if len(stops) < 4 {
				stops = append(stops, start(t, c, partitions, s, prometheus.NewRegistry()))
			}
		case 1:
			i := rnd.IntN(len(stops))
			stops[i]()
			stops = append(stops[:i], stops[i+1:]...)
			if len(stops) == 0 {
				stops = append(stops, start(t, c, partitions, s, prometheus.NewRegistry()))
			}
		}
	}
	var notices []jobtest.Notice
	bustest.Until(t, "the owners have a notice for each join", func() bool { notices, _ = o.Got(); return len(notices) == 2*partitions })
	for i, n := range notices {
		writers[i%partitions].Standing(n)
	}
	ctx := jobtest.Context(t)
	for p, head := range seqs {
		conversation := store.Conversation{App: jobtest.App, ID: fmt.Sprintf("g:p%d", p)}
		bustest.Until(t, "all records are stored", func() bool {
			got, err := s.Range(ctx, conversation, 1, head, int(head)+1, false)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range got {
				if r.Seq != uint64(i+1) {
					return false
				}
			}
			return len(got) == int(head)
		})
		for _, user := range []string{"alice", "bob"} {
			bustest.Until(t, "the list has the conversation", func() bool {
				found := false
				err := s.List(ctx, jobtest.App, user, func(l store.Listing) error {
					found = found || l.Conversation == conversation.ID && l.Member && l.JoinedSeq == 1 && l.ActiveUs > 0
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return found
			})
		}
	}
}

func TestPoisonedPartitionRaisesTheAlarmAndOthersGoOn(t *testing.T) {
	c := bustest.Logs(t, 2)
	s := openStore(t)
	jobtest.NewOwner(t, c, nil, 0, 1)
	bad, good := jobtest.NewWriter(t, c, 0), jobtest.NewWriter(t, c, 1)
	bad.Raw([]byte("not a block"), true)
	reg := prometheus.NewRegistry()
	start(t, c, 2, s, reg)
	good.Block(jobtest.Message("g:x", 1))
	bustest.Until(t, "the other partition goes on", func() bool {
		r, err := s.Head(jobtest.Context(t), store.Conversation{App: jobtest.App, ID: "g:x"})
		return err == nil && r != nil
	})
	for _, follower := range []string{"history", "userlog"} {
		bustest.Until(t, follower+" alarms", func() bool { return gauge(t, reg, "halley_job_poisoned", follower, "0") == 1 })
		if got := gauge(t, reg, "halley_job_poisoned", follower, "1"); got != 0 {
			t.Errorf("partition 1 of %s: %v, want 0", follower, got)
		}
	}
	bustest.Until(t, "the lag is shown", func() bool { return gauge(t, reg, "halley_job_lag_blocks", "history", "0") == 1 })
}

// The server restarts under a running node, which goes on by itself.
func TestNodeSurvivesARestartOfTheServer(t *testing.T) {
	cl := bustest.StartCluster(t, 1)
	c := cl.Connect()
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: 1 << 20})
	s := openStore(t)
	start(t, c, 1, s, prometheus.NewRegistry())
	w := jobtest.NewWriter(t, c, 0)
	w.Block(jobtest.Message("g:x", 1))
	head := func(seq uint64) {
		t.Helper()
		bustest.Until(t, fmt.Sprintf("record %d is stored", seq), func() bool {
			r, err := s.Head(jobtest.Context(t), store.Conversation{App: jobtest.App, ID: "g:x"})
			return err == nil && r != nil && r.Seq == seq
		})
	}
	head(1)
	cl.Kill(0)
	cl.Start(0)
	bustest.Until(t, "the connection is back", func() bool {
		ctx, cancel := context.WithTimeout(jobtest.Context(t), time.Second) // What is asked while the server starts may be lost.
		defer cancel()
		_, err := w.Log.State(ctx)
		return err == nil
	})
	w.Block(jobtest.Message("g:x", 2))
	head(2)
}

// BenchmarkDrain is what a block of 25 records costs on its way from the log into Pebble: four partitions that have piled up.
func BenchmarkDrain(b *testing.B) {
	const partitions = 4
	c := bustest.Logs(b, partitions)
	s := openStore(b)
	seqs := make([]uint64, partitions)
	var writers []*jobtest.Writer
	for p := range partitions {
		writers = append(writers, jobtest.NewWriter(b, c, p))
	}
	for i := range b.N {
		p := i % partitions
		var records []*logv1.Record
		for range 25 {
			seqs[p]++
			records = append(records, jobtest.Message(fmt.Sprintf("g:p%d", p), seqs[p]))
		}
		writers[p].Block(records...)
	}
	b.ReportAllocs()
	b.ResetTimer()
	start(b, c, partitions, s, prometheus.NewRegistry())
	for p, head := range seqs {
		bustest.Until(b, "drained", func() bool {
			r, err := s.Head(jobtest.Context(b), store.Conversation{App: jobtest.App, ID: fmt.Sprintf("g:p%d", p)})
			return head == 0 || err == nil && r != nil && r.Seq == head
		})
	}
}
