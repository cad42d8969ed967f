package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const takeoversMetric = "halley_logic_takeovers_total"

// takeovers counts them over all nodes while they come and go: a counter that fell belongs to a new process. What a process did
// after it was last asked is not counted.
type takeovers struct {
	admins []string
	last   map[string]float64
	sum    float64
}

// run asks every second until ctx ends.
func (t *takeovers) run(ctx context.Context) {
	t.last = map[string]float64{}
	for {
		t.ask(ctx)
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

func (t *takeovers) ask(ctx context.Context) {
	for _, admin := range t.admins {
		n, err := scrape(ctx, admin, takeoversMetric)
		if err != nil {
			continue // It is dead or paused.
		}
		if n < t.last[admin] {
			t.last[admin] = 0
		}
		t.sum += n - t.last[admin]
		t.last[admin] = n
	}
}

const scrapeTimeout = 500 * time.Millisecond

// scrape reads one plain counter of a node.
func scrape(ctx context.Context, admin, name string) (value float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close() //nolint:errcheck // what counts was read.
	lines := bufio.NewScanner(io.LimitReader(res.Body, 4<<20))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			_, err := fmt.Sscan(rest, &value)
			return value, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", admin, name)
}
