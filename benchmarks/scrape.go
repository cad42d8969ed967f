package benchmarks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is what the tiers said at one time, in the order of their URLs.
type sample struct {
	at    time.Time
	tiers []tierSample
}

type tierSample struct{ rss, cpu, gcs, goroutines, started, heapIdle, heapReleased, redis, reads float64 }

// scrape reads /metrics of every tier at once.
func scrape(ctx context.Context, urls []string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s := sample{at: time.Now(), tiers: make([]tierSample, len(urls))}
	errs := make([]error, len(urls))
	var wait sync.WaitGroup
	for i, url := range urls {
		wait.Go(func() { s.tiers[i], errs[i] = scrapeTier(ctx, url) })
	}
	wait.Wait()
	return s, errors.Join(errs...)
}

func scrapeTier(ctx context.Context, url string) (t tierSample, err error) {
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	url = strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/metrics") + "/metrics"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return t, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return t, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read.
	if resp.StatusCode != http.StatusOK {
		return t, fmt.Errorf("%s: %s", url, resp.Status)
	}
	if t, err = parseMetrics(resp.Body); err != nil {
		return t, fmt.Errorf("%s: %w", url, err)
	}
	return t, nil
}

// parseMetrics picks the few metrics that a report needs out of the text format.
func parseMetrics(r io.Reader) (t tierSample, err error) {
	want := map[string]*float64{
		"process_resident_memory_bytes": &t.rss, "process_cpu_seconds_total": &t.cpu,
		"go_gc_duration_seconds_count": &t.gcs, "go_goroutines": &t.goroutines, "process_start_time_seconds": &t.started,
		"go_memstats_heap_idle_bytes": &t.heapIdle, "go_memstats_heap_released_bytes": &t.heapReleased,
	}
	seen := 0
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		into := want[name]
		if into == nil {
			if err := t.add(name, value); err != nil {
				return t, err
			}
			continue
		}
		if *into, err = strconv.ParseFloat(value, 64); err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		if into == &t.rss || into == &t.cpu {
			seen++
		}
	}
	if err := lines.Err(); err != nil {
		return t, err
	}
	if seen < 2 {
		return t, errors.New("no process_resident_memory_bytes and process_cpu_seconds_total")
	}
	return t, nil
}

// add counts what comes in several series.
func (t *tierSample) add(series, value string) error {
	var into *float64
	switch name, labels, _ := strings.Cut(series, "{"); name {
	case "halley_presence_redis_commands_total":
		into = &t.redis
	case "halley_store_seconds_count":
		if slices.ContainsFunc(storeReads, func(op string) bool { return strings.Contains(labels, `op="`+op+`"`) }) {
			into = &t.reads
		}
	}
	if into == nil {
		return nil
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return fmt.Errorf("%s: %w", series, err)
	}
	*into += n
	return nil
}

// storeReads are the operations of the store that read.
var storeReads = []string{"range", "head", "members", "intervals", "cursor", "list"}

func (s sample) sum(of func(tierSample) float64) (total float64) {
	for _, t := range s.tiers {
		total += of(t)
	}
	return total
}

// spare is memory that the tiers hold and do not use: what they fill next does not show in their RSS.
func (s sample) spare() float64 {
	return s.sum(func(t tierSample) float64 { return t.heapIdle - t.heapReleased })
}

// sameProcesses reports whether each tier is still the process that it was.
func (s sample) sameProcesses(o sample) bool {
	for i := range s.tiers {
		if s.tiers[i].started != o.tiers[i].started {
			return false
		}
	}
	return true
}

func (s sample) rss() float64 { return s.sum(func(t tierSample) float64 { return t.rss }) }
func (s sample) cpu() float64 { return s.sum(func(t tierSample) float64 { return t.cpu }) }
