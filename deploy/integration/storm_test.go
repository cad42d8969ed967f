//go:build integration

package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// completeWithin bounds how long a device may lack something after its comet was killed; what is aimed at is a tenth of it.
const completeWithin = 200 * time.Second

// TestACometKilledWithTenThousandDevices kills a comet that holds 10,000 of the devices that talk. They come back to the other one, once
// each, and have everything again.
func TestACometKilledWithTenThousandDevices(t *testing.T) {
	c := startTiers(t)
	c.ackWithin = completeWithin
	// Nine targets in turn, five of them the comet that is killed. Two processes, for a process has 20,000 descriptors.
	const generators, each = 2, 9000
	targets := make([]string, 9)
	for i := range targets {
		targets[i] = c.comet(1 + i%2)
	}
	enough := make(chan struct{})
	results := make([]result, generators)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			results[i] = c.benchUntil(t, "comet with 10,000 devices killed", []string{
				"storm", "-n", fmt.Sprint(each), "--cuts", "0", "--rate", "100", "--warmup", "0s", "--duration", "10m",
				"--seed", fmt.Sprint(90 + i), "--target", strings.Join(targets, ","),
			}, enough)
		})
	}
	finish := sync.OnceFunc(func() {
		close(enough)
		wg.Wait()
	})
	defer finish()
	killed := 0 // 10,000, but for those whose first try failed, and who went elsewhere.
	untilWithin(t, 3*time.Minute, "everyone is connected", func() bool {
		killed = c.sessions(t, "comet-1")
		return killed+c.sessions(t, "comet-2") == generators*each
	})
	pause(t, 5*time.Second)
	begin := time.Now()
	if err := c.tiers("kill", "comet-1"); err != nil {
		t.Fatal(err)
	}
	untilWithin(t, completeWithin, "everyone is connected again", func() bool { return c.sessions(t, "comet-2") == generators*each })
	t.Logf("all %d connected again after %v", killed, time.Since(begin).Round(time.Millisecond))
	pause(t, 5*time.Second)
	finish()
	reconnects := 0
	for _, r := range results {
		reconnects += r.Reconnects
		t.Logf("complete again, ms: p50 %.0f, p90 %.0f, p99 %.0f, max %.0f", r.CompleteMs["p50"], r.CompleteMs["p90"], r.CompleteMs["p99"], r.CompleteMs["max"])
		if r.CompleteMs["max"] > float64(completeWithin.Milliseconds()) || r.Away != 0 {
			t.Errorf("a device was not complete for %.0f ms, %d are not yet", r.CompleteMs["max"], r.Away)
		}
	}
	if reconnects != killed {
		t.Errorf("%d reconnects of %d devices", reconnects, killed)
	}
}
