package history_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job/history"
	"github.com/halley-im/halley/job/internal/jobtest"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// arriving are blocks that come to the node by themselves.
type arriving chan bus.Delivery

func (a arriving) Fetch(ctx context.Context, most, maxBytes int, wait time.Duration) (out []bus.Delivery, err error) {
	if wait > 0 {
		select {
		case d := <-a:
			out = append(out, d)
			maxBytes -= len(d.Data)
		case <-time.After(wait):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for len(out) < most && maxBytes > 0 {
		select {
		case d := <-a:
			out = append(out, d)
			maxBytes -= len(d.Data)
		default:
			return out, nil
		}
	}
	return out, nil
}

// noting is a store that notes when it is written to, and how many records.
type noting struct {
	store.Records
	start time.Time
	at    []time.Duration
	sizes []int
}

func (n *noting) Append(_ context.Context, records []*logv1.Record) error {
	n.at, n.sizes = append(n.at, time.Since(n.start)), append(n.sizes, len(records))
	return nil
}

// slow is a store that takes each record so long, and has nothing of a write that was given up.
type slow struct {
	store.Records
	each    time.Duration
	written int
	wasted  time.Duration
}

func (s *slow) Append(ctx context.Context, records []*logv1.Record) error {
	start := time.Now()
	select {
	case <-time.After(time.Duration(len(records)) * s.each):
		s.written += len(records)
		return nil
	case <-ctx.Done():
		s.wasted += time.Since(start)
		return fmt.Errorf("slow: %w", ctx.Err())
	}
}

// slowly has blocks of so many records written to a slow store, each block by itself or all together, and sees that none is in hand for longer than
// it may be without a word to the server.
func slowly(t *testing.T, s *slow, count, records int, change func(*history.Config)) {
	cfg := history.Default()
	change(&cfg)
	var lines observetest.Lines
	h := history.New(cfg, history.Deps{Store: s, Log: lines.Logger(), Metrics: prometheus.NewRegistry()})
	blocks, acked := make(arriving, count), make(chan struct{}, count)
	for i := range uint64(count) {
		b := &logv1.Block{Kind: logv1.Kind_KIND_DATA, Epoch: 1, Owner: "logic-1", Nonce: make([]byte, 16)}
		for n := range uint64(records) {
			record := jobtest.Message("d:alice:bob", i*uint64(records)+n+1)
			record.App = "main"
			b.Records = append(b.Records, record)
		}
		data, err := logblock.Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		heard := time.Now()
		blocks <- bus.NewDelivery(bus.Message{Seq: i + 1, Data: data}, 0, func(word string) error {
			if since := time.Since(heard); since > time.Duration(cfg.AckWaitMs)*time.Millisecond {
				t.Errorf("block %d was in hand for %v without a word: another node has it by now", i+1, since)
			}
			if heard = time.Now(); word == "+ACK" {
				acked <- struct{}{}
			}
			return nil
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = h.Run(ctx, 0, blocks) // Ends with ctx.
	}()
	for range count {
		select {
		case <-acked:
		case <-ctx.Done():
			t.Errorf("%d of %d records written, %v for nothing", s.written, count*records, s.wasted)
		}
	}
	if s.written != count*records {
		t.Errorf("%d records written, want %d", s.written, count*records)
	}
	cancel()
	<-ended
}

// A store that could take what there is in a minute must not be asked for the same in vain for ever.
func TestAStoreThatIsSlowGetsLessAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{each: 5 * time.Millisecond}
		slowly(t, s, 3, 4000, func(*history.Config) {})
		if s.wasted > 30*time.Second {
			t.Errorf("%v for nothing", s.wasted)
		}
	})
}

// Blocks that wait behind others are spoken for as long as these take, though no write of them fails.
func TestBlocksBehindASlowWriteAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slowly(t, &slow{each: 5 * time.Millisecond}, 6, 1800, func(cfg *history.Config) { cfg.WriteBytes = 4 << 10 })
	})
}

// pace has count blocks of one record come to a follower, one each interval, and returns when they were written.
func pace(t *testing.T, change func(*history.Config), count int, interval time.Duration) *noting {
	cfg := history.Default()
	cfg.LingerMs = 800
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := &noting{start: time.Now()}
	var lines observetest.Lines
	h := history.New(cfg, history.Deps{Store: s, Log: lines.Logger(), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(t.Context())
	blocks, ended := make(arriving, count), make(chan struct{})
	go func() {
		defer close(ended)
		if err := h.Run(ctx, 0, blocks); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	for i := range uint64(count) {
		record := jobtest.Message("d:alice:bob", i+1)
		record.App = "main"
		data, err := logblock.Encode(&logv1.Block{
			Kind: logv1.Kind_KIND_DATA, Epoch: 1, Owner: "logic-1", Nonce: make([]byte, 16), Records: []*logv1.Record{record},
		})
		if err != nil {
			t.Fatal(err)
		}
		blocks <- bus.NewDelivery(bus.Message{Seq: i + 1, Data: data}, 0, func(string) error { return nil })
		<-time.After(interval)
	}
	<-time.After(time.Minute)
	cancel()
	<-ended
	return s
}

func TestBlocksOfOneLingerAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pace(t, func(*history.Config) {}, 41, 50*time.Millisecond)
		// The first at once; then what came in each 800 ms.
		want, sizes := []time.Duration{0, 800 * time.Millisecond, 1600 * time.Millisecond, 2400 * time.Millisecond}, 0
		if len(s.at) != len(want) || s.sizes[0] != 1 {
			t.Fatalf("written at %v, %v records", s.at, s.sizes)
		}
		for i, at := range s.at {
			sizes += s.sizes[i]
			if at < want[i] || at > want[i]+50*time.Millisecond {
				t.Errorf("write %d at %v, want %v", i+1, at, want[i])
			}
		}
		if sizes != 41 {
			t.Errorf("%d records written, want 41: %v", sizes, s.sizes)
		}
	})
}

func TestALoneBlockDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pace(t, func(*history.Config) {}, 4, time.Second)
		want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}
		if !slices.Equal(s.at, want) {
			t.Errorf("written at %v, want %v", s.at, want)
		}
	})
}

func TestAFullBatchDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pace(t, func(cfg *history.Config) { cfg.BatchBlocks = 10 }, 100, 5*time.Millisecond)
		// 10 blocks come in 50 ms, and it is looked every 100. After the last full batch, what is left waits for more.
		if n := len(s.at); n != 11 || s.at[n-2] > 600*time.Millisecond {
			t.Errorf("written at %v, %v records", s.at, s.sizes)
		}
		for i, n := range s.sizes {
			if n > 10 {
				t.Errorf("write %d has %d records, at most 10", i+1, n)
			}
		}
	})
}
