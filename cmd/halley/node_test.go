package main

import (
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/halley-im/halley/pkg/drain"
)

// fakeNode drains and moves a part of its sessions at each question.
type fakeNode struct {
	mu     sync.Mutex
	status drain.Status
	began  int
}

func fake(t *testing.T, s drain.Status) (*fakeNode, string) {
	t.Helper()
	n := &fakeNode{status: s}
	server := httptest.NewServer(drain.Handler(func() drain.Work { return n }))
	t.Cleanup(server.Close)
	return n, server.URL
}

// Drain implements drain.Work.
func (n *fakeNode) Drain() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Draining = true
	n.began++
	return nil
}

// Undrain implements drain.Work.
func (n *fakeNode) Undrain() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Draining = false
	return nil
}

// Rebalance implements drain.Work.
func (n *fakeNode) Rebalance(sessions int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Sessions.Moving = sessions
	return nil
}

// Status implements drain.Work.
func (n *fakeNode) Status() drain.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.status
	if s := n.status.Sessions; s != nil {
		copied := *s
		out.Sessions = &copied
		switch {
		case n.status.Draining:
			s.Held /= 2
		case s.Moving > 0:
			gone := (s.Moving + 1) / 2
			s.Moving, s.Held = s.Moving-gone, s.Held-gone
		}
	}
	return out
}

func comets(held int) drain.Status {
	return drain.Status{Tier: "comet", Sessions: &drain.Sessions{Held: held, Rate: 10}}
}

func TestNodeDrainShowsTheProgressUntilItIsDone(t *testing.T) {
	s := comets(70)
	s.Node = "comet-1-0a1b2c3d"
	n, admin := fake(t, s)
	out, errs, code := call(t, "node", "drain", "--every", "5ms", "--admin", admin, "comet-1")
	if code != exitOK || n.began != 1 {
		t.Fatalf("exit %d, %d drains: %s%s", code, n.began, out, errs)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if lines[0] != "comet-1-0a1b2c3d (comet): draining, 70 sessions, at 10/s about 7s" || !strings.HasSuffix(lines[len(lines)-1], "draining, 0 sessions") {
		t.Errorf("progress:\n%s", out)
	}
	if out, _, code = call(t, "node", "drain", "--admin", admin); code != exitOK || !strings.Contains(out, "draining, 0 sessions") {
		t.Errorf("asked again: exit %d, %s", code, out)
	}
	if out, _, code = call(t, "node", "undrain", "--admin", admin); code != exitOK || strings.Contains(out, "draining") {
		t.Errorf("undrain: exit %d, %s", code, out)
	}
}

func TestNodeNamesOneOfSeveral(t *testing.T) {
	a, b := comets(1), comets(1)
	a.Node, b.Node = "comet-1-0a1b2c3d", "comet-2-0a1b2c3d"
	first, adminA := fake(t, a)
	second, adminB := fake(t, b)
	if _, errs, code := call(t, "node", "drain", "--admin", adminA, "--admin", adminB); code != exitFailure || !strings.Contains(errs, "which node? these answer: "+a.Node+", "+b.Node) {
		t.Errorf("without a name: exit %d, %s", code, errs)
	}
	if _, errs, code := call(t, "node", "drain", "comet-3", "--admin", adminA, "--admin", adminB); code != exitFailure || !strings.Contains(errs, "0 nodes are called comet-3") {
		t.Errorf("a name that nobody has: exit %d, %s", code, errs)
	}
	if first.began+second.began != 0 {
		t.Fatal("a node was drained that nobody meant")
	}
	if _, errs, code := call(t, "node", "drain", "comet-2", "--admin", adminA, "--admin", adminB); code != exitOK || first.began != 0 || second.began != 1 {
		t.Errorf("exit %d, drained %d and %d: %s", code, first.began, second.began, errs)
	}
}

func TestNodeRebalanceMovesWhatIsAboveTheAverage(t *testing.T) {
	full, adminFull := fake(t, comets(90))
	half, adminHalf := fake(t, comets(60))
	fresh, adminFresh := fake(t, comets(0))
	out, errs, code := call(t, "node", "rebalance", "--every", "5ms", "--admin", adminFull, "--admin", adminHalf, "--admin", adminFresh)
	if code != exitOK || full.status.Sessions.Held != 50 || half.status.Sessions.Held != 50 || fresh.status.Sessions.Held != 0 {
		t.Errorf("exit %d, sessions %d %d %d\n%s%s", code, full.status.Sessions.Held, half.status.Sessions.Held, fresh.status.Sessions.Held, out, errs)
	}
	if !strings.Contains(out, "40 above the average") {
		t.Errorf("says\n%s", out)
	}
	// With a node that does not answer the average is unknown, and nobody is moved.
	full.status.Sessions.Held = 1000
	if _, _, code := call(t, "node", "rebalance", "--every", "5ms", "--admin", adminFull, "--admin", adminHalf, "--admin", "127.0.0.1:1"); code != exitFailure || full.status.Sessions.Moving != 0 {
		t.Errorf("exit %d, %d to be moved", code, full.status.Sessions.Moving)
	}
}

func TestNodeCommandsOnARunningServe(t *testing.T) {
	s := serve(t, t.TempDir())
	admin := s.endpoints().Admin
	out, errs, code := call(t, "node", "status", "--admin", admin)
	if code != exitOK || !strings.Contains(out, "(serve): ") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if out, errs, code = call(t, "node", "drain", "--admin", admin); code != exitOK {
		t.Fatalf("drain: exit %d: %s%s", code, out, errs)
	}
	if status, body := s.get(admin + "/readyz"); status != 503 || !strings.Contains(body, "draining") {
		t.Errorf("while drained: %d %s", status, body)
	}
	if out, errs, code = call(t, "node", "undrain", "--admin", admin); code != exitOK {
		t.Fatalf("undrain: exit %d: %s%s", code, out, errs)
	}
	if status, body := s.get(admin + "/readyz"); status != 200 {
		t.Errorf("after undrain: %d %s", status, body)
	}
	if _, err := s.end(os.Interrupt); err != nil {
		t.Errorf("ended with %v\n%s", err, s.errs)
	}
}
