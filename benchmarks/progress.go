package benchmarks

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
)

// watch looks at all parts once a second: for the report's series, and for a line on a terminal.
type watch struct {
	parts []part
	began time.Time
	out   io.Writer // Nil where there is no terminal.
	n     int       // Connections that there shall be.

	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // Guards what follows.
	phase  string
	series []Point
}

func startWatch(parts []part, cfg Config, began time.Time, out io.Writer) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{parts: parts, began: began, n: cfg.Connections, cancel: cancel, done: make(chan struct{})}
	if cfg.Progress {
		w.out = out
	}
	go w.run(ctx)
	return w
}

// enter says what the run does now.
func (w *watch) enter(phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = phase
}

// stop may be called more than once.
func (w *watch) stop() {
	w.cancel()
	<-w.done
}

func (w *watch) points() []Point {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.series)
}

func (w *watch) run(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, at := moment{}, time.Now()
	for {
		select {
		case <-ctx.Done():
			if w.out != nil {
				_, _ = fmt.Fprint(w.out, "\r\x1b[K")
			}
			return
		case <-tick.C:
		}
		now, whole := w.look(ctx)
		if !whole {
			continue // A part that is too busy to answer: its counts come with the next point.
		}
		w.add(now, last, time.Since(at).Seconds())
		last, at = now, time.Now()
	}
}

// look asks all parts at once.
func (w *watch) look(ctx context.Context) (sum moment, whole bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	moments, errs := make([]moment, len(w.parts)), make([]error, len(w.parts))
	var wait sync.WaitGroup
	for i, p := range w.parts {
		wait.Go(func() { moments[i], errs[i] = p.look(ctx) })
	}
	wait.Wait()
	sum.Deliver, whole = generator.NewCoarseHistogram(), true
	for i, m := range moments {
		sum.Up += m.Up
		sum.Live.Add(m.Live)
		sum.Deliver.Add(m.Deliver)
		whole = whole && errs[i] == nil
	}
	return sum, whole
}

func (w *watch) add(now, last moment, seconds float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	deliver := latency(now.Deliver)
	p := Point{
		AtS: time.Since(w.began).Seconds(), Phase: w.phase, Connections: now.Up, InFlight: now.Live.InFlight,
		Acked:      float64(now.Live.Acked-last.Live.Acked) / seconds,
		Delivered:  float64(now.Live.Delivered-last.Live.Delivered) / seconds,
		DeliverP50: deliver.P50, DeliverP99: deliver.P99, DeliverMax: deliver.Max,
	}
	w.series = append(w.series, p)
	if w.out == nil {
		return
	}
	line := fmt.Sprintf("%s: %d of %d connected", w.phase, now.Up, w.n)
	if now.Live.Acked > 0 {
		line += fmt.Sprintf("  %.0f acked/s  %.0f delivered/s  p99 %.1f ms  %d in flight  %d refused",
			p.Acked, p.Delivered, p.DeliverP99, p.InFlight, now.Live.Refused)
	}
	if now.Live.Reconciled > 0 {
		line += fmt.Sprintf("  %d devices compared", now.Live.Reconciled)
	}
	_, _ = fmt.Fprint(w.out, "\r\x1b[K"+line)
}

// pause waits for d, or less where ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
