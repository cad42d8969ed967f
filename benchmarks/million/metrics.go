package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// metrics are sums over nodes: of each name, its series added up. A bucket of the pauses keeps its bound.
type metrics map[string]float64

const (
	pauseBucket = `halley_gc_pause_seconds_bucket{le="`
	connected   = "halley_comet_connections"
	heapLive    = "go_memstats_heap_alloc_bytes"
	stackInUse  = "go_memstats_stack_inuse_bytes"
	rssBytes    = "process_resident_memory_bytes"
	redisCalls  = "halley_presence_redis_commands_total"
	storeCalls  = "halley_store_seconds_count"
	storeReads  = "store_reads" // Those of storeCalls that read.
	notices     = "halley_job_userlog_notices_total"
	framesTaken = "halley_comet_frames_received_total"
)

// scrape reads the metrics of some nodes, a few at a time: fifty at once would be a load of their own.
func scrape(ctx context.Context, urls []string) (metrics, error) {
	sum := metrics{}
	errs := make([]error, len(urls))
	slots := make(chan struct{}, 4)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i, url := range urls {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			body, err := get(ctx, url+"/metrics")
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", url, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			sum.add(body)
		})
	}
	wait.Wait()
	return sum, errors.Join(errs...)
}

// add takes the text format in.
func (m metrics) add(text []byte) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue
		}
		series := line[:at]
		if strings.HasPrefix(series, pauseBucket) {
			m[series] += value
			continue
		}
		name, labels, _ := strings.Cut(series, "{")
		m[name] += value
		if name == storeCalls {
			for _, op := range []string{"range", "head", "members", "intervals", "cursor", "list"} {
				if strings.Contains(labels, `op="`+op+`"`) {
					m[storeReads] += value
				}
			}
		}
	}
}

// minus is what was added since o.
func (m metrics) minus(o metrics) metrics {
	d := maps.Clone(m)
	for name, value := range o {
		d[name] -= value
	}
	return d
}

// Pauses are those of the garbage collector. A value is the bound below which it lies.
type Pauses struct {
	Count    int64   `json:"count"`
	P99Ms    float64 `json:"p99_ms"`
	MaxMs    float64 `json:"max_ms"`
	Above5Ms int64   `json:"above_5ms"`
}

// pauses reads the histogram.
func (m metrics) pauses() (p Pauses) {
	type bucket struct{ bound, upTo float64 }
	var list []bucket
	for series, n := range m {
		text, is := strings.CutPrefix(series, pauseBucket)
		if !is {
			continue
		}
		if bound, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64); err == nil {
			list = append(list, bucket{bound, n})
		}
	}
	slices.SortFunc(list, func(a, b bucket) int {
		if a.bound < b.bound {
			return -1
		}
		return 1
	})
	if len(list) == 0 {
		return p
	}
	all := list[len(list)-1].upTo
	p.Count, p.Above5Ms = int64(all), int64(all)
	for i, b := range list {
		if b.upTo >= 0.99*all && p.P99Ms == 0 {
			p.P99Ms = b.bound * 1000
		}
		if b.bound == 5e-3 {
			p.Above5Ms = int64(all - b.upTo)
		}
		if i == 0 && b.upTo > 0 || i > 0 && b.upTo > list[i-1].upTo {
			p.MaxMs = b.bound * 1000
		}
	}
	return p
}
