package comet

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"sync/atomic"
	"syscall"
	"time"
)

// guards watch what the process uses. While it is too much, no connection is added to those that are there: these go on.
type guards struct {
	heapShare, cpuShare float64 // 0: off
	every               time.Duration
	read                func() usage

	heap, cpu atomic.Bool // too much of it is used

	busy int // owned by run: how often in a row the processors were above their share
}

// usage of the process.
type usage struct {
	live  uint64 // bytes that the last collection found in use
	limit uint64 // of memory, 0: there is none
	// cpu is the share of the processors it may use that it did use since the last reading.
	cpu float64
}

const (
	guardEvery = time.Second
	// busyReadings make the processor guard speak: a burst of a few seconds is what a node is for.
	busyReadings = 5
)

func (g *guards) set(heapPercent, cpuPercent int) {
	g.heapShare, g.cpuShare = float64(heapPercent)/100, float64(cpuPercent)/100
	g.every, g.read = guardEvery, usageReader()
}

// run watches until ctx ends.
func (g *guards) run(ctx context.Context, log *slog.Logger) {
	if g.heapShare == 0 && g.cpuShare == 0 {
		return
	}
	ticker := time.NewTicker(g.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		u := g.read()
		heap, cpu := g.judge(u)
		if g.heap.Swap(heap) != heap {
			tell(log, heap, "memory is short", "live_bytes", u.live, "limit_bytes", u.limit)
		}
		if g.cpu.Swap(cpu) != cpu {
			tell(log, cpu, "processors are busy", "share", u.cpu)
		}
	}
}

func tell(log *slog.Logger, shut bool, why string, args ...any) {
	if shut {
		log.Warn("no new connections: "+why, args...)
		return
	}
	log.Info("new connections again: no longer so that "+why, args...)
}

// judge says of a reading, and those before it, what is used too much.
func (g *guards) judge(u usage) (heap, cpu bool) {
	heap = g.heapShare > 0 && u.limit > 0 && float64(u.live) > g.heapShare*float64(u.limit)
	if g.cpuShare == 0 || u.cpu < g.cpuShare {
		g.busy = 0
		return heap, false
	}
	g.busy = min(g.busy+1, busyReadings)
	return heap, g.busy == busyReadings
}

// ready says why the node should get no new connections.
func (g *guards) ready() error {
	switch {
	case g.heap.Load():
		return errors.New("comet: memory is short")
	case g.cpu.Load():
		return errors.New("comet: processors are busy")
	}
	return nil
}

// usageReader reads what the process uses. Live memory, and not what is allocated: the collector lets garbage grow up to the limit.
func usageReader() func() usage {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	at, spent := time.Now(), cpuTime()
	return func() usage {
		var u usage
		runtimemetrics.Read(sample)
		if sample[0].Value.Kind() == runtimemetrics.KindUint64 {
			u.live = sample[0].Value.Uint64()
		}
		if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 { // a negative limit changes nothing
			u.limit = uint64(limit)
		}
		now, cpu := time.Now(), cpuTime()
		if passed := now.Sub(at); passed > 0 {
			u.cpu = float64(cpu-spent) / float64(passed) / float64(runtime.GOMAXPROCS(0))
		}
		at, spent = now, cpu
		return u
	}
}

// cpuTime is what the process has used of processors so far, in user and kernel.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
