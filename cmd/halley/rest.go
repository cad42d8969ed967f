package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A process that has let many clients in holds more memory than they need: what connecting left behind lies there until the heap has grown
// by gc_percent, which with idle clients is never. So at rest it is collected, and what is free goes back to the system.

// restInterval is how long a process must have been at rest. A collection costs milliseconds for each 10 MB; this bounds how many there are.
const restInterval = 30 * time.Second

// heapReading is what the runtime says of the heap, in bytes.
type heapReading struct {
	allocated uint64 // Since the start.
	live      uint64 // As the last collection found it.
	objects   uint64 // The live ones, and those that died since.
	free      uint64 // Spans that hold nothing, and were not given back.
}

// worthwhile reports whether the process was at rest since before, and whether enough would come of a collection.
func (h heapReading) worthwhile(before heapReading) bool {
	const least = 4 << 20
	dead := h.objects - min(h.objects, h.live)
	return h.allocated-before.allocated <= h.live/4 && dead+h.free >= max(least, (h.objects+h.free)/8)
}

func readHeap() heapReading {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	return heapReading{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}

// collects reports whether the garbage collector is on.
func collects() bool {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64() <= math.MaxInt32
}

// giveBack returns memory to the system whenever the process is at rest, until ctx ends.
func giveBack(ctx context.Context, every time.Duration) {
	if !collects() {
		return // Whoever turned it off wants no collection.
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	before := readHeap()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := readHeap()
		if now.worthwhile(before) {
			debug.FreeOSMemory()
			now = readHeap()
		}
		before = now
	}
}
