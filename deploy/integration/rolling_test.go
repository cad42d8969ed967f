//go:build integration

package integration

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/drain"
)

// TestRollingRestartUnderLoad stops and starts every node, one after the other, and drains a logic node and takes it back, while people
// talk. Nobody loses anything, and nobody reconnects more than once for each comet that was stopped.
func TestRollingRestartUnderLoad(t *testing.T) {
	c := startTiers(t)
	const devices = 200
	began, enough, ended := time.Now(), make(chan struct{}), make(chan result, 1)
	go func() {
		ended <- c.benchUntil(t, "rolled", []string{
			"p2p", "-n", fmt.Sprint(devices), "--outstanding", "1", "--duration", "5m", "--warmup", "0s", "--seed", "71",
		}, enough)
	}()
	finish := sync.OnceValue(func() result {
		close(enough)
		return <-ended
	})
	defer finish()
	held := func() int { return c.sessions(t, "comet-1") + c.sessions(t, "comet-2") }
	until(t, "everyone is connected", func() bool { return held() == devices })

	for _, node := range []string{"job-1", "job-2", "logic-1", "logic-2"} {
		c.restart(t, node)
	}
	c.drainAndTakeBack(t, "logic-1")
	closed := 0
	for _, node := range []string{"comet-1", "comet-2"} {
		closed += c.sessions(t, node)
		c.restart(t, node)
		until(t, "everyone is back", func() bool { return held() == devices })
	}
	if closed < devices {
		t.Errorf("the comets held %d sessions when they were stopped, of %d: not everyone was moved once", closed, devices)
	}
	r := finish()
	t.Logf("all nodes restarted in %v; %d sessions closed, %d reconnects", time.Since(began).Round(time.Millisecond), closed, r.Reconnects)
	if r.Reconnects > closed {
		t.Errorf("%d reconnects for %d sessions that were closed: some device came back more than once for one comet", r.Reconnects, closed)
	}
}

// restart is SIGTERM and a new process.
func (c *tiersUnderTest) restart(t *testing.T, node string) {
	t.Helper()
	begin := time.Now()
	if err := c.tiers("stop", node); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	if err := c.tiers("start", node); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: stopped in %v, ready again in %v", node, stopped.Sub(begin).Round(time.Millisecond), time.Since(stopped).Round(time.Millisecond))
}

// drainAndTakeBack does what an operator does around work on a machine.
func (c *tiersUnderTest) drainAndTakeBack(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	admin := c.client(node)
	before, err := admin.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	out, err := exec.CommandContext(ctx, c.binary, "node", "drain", "--every", "50ms", "--admin", admin.Admin()).CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "draining, 0 partitions\n") {
		t.Fatalf("node drain: %v\n%s", err, out)
	}
	t.Logf("%s handed %d partitions over in %v", node, before.Left(), time.Since(begin).Round(time.Millisecond))
	if out, err = exec.CommandContext(ctx, c.binary, "node", "undrain", "--admin", admin.Admin()).CombinedOutput(); err != nil {
		t.Fatalf("node undrain: %v\n%s", err, out)
	}
	until(t, "the node has its share again", func() bool {
		s, err := admin.Status(ctx)
		return err == nil && s.Left() > 0
	})
}

// client speaks to the admin port of a node.
func (c *tiersUnderTest) client(node string) *drain.Client {
	for i, name := range []string{"comet-1", "comet-2", "logic-1", "logic-2", "job-1", "job-2"} {
		if name == node {
			return drain.NewClient(c.admins()[i])
		}
	}
	panic("no node is called " + node)
}

// sessions is how many a comet holds.
func (c *tiersUnderTest) sessions(t *testing.T, comet string) int {
	t.Helper()
	s, err := c.client(comet).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Left()
}

// until polls, for as long as a machine under load may take.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	untilWithin(t, time.Minute, what, ok)
}

func untilWithin(t *testing.T, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(bound)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", bound, what)
		}
		pause(t, 50*time.Millisecond)
	}
}
