package drain_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/halley-im/halley/pkg/drain"
)

// node notes what it is asked for.
type node struct {
	status drain.Status
	err    error
	asked  []string
}

// Drain implements drain.Work.
func (n *node) Drain() error {
	n.asked = append(n.asked, "drain")
	n.status.Draining = n.err == nil
	return n.err
}

// Undrain implements drain.Work.
func (n *node) Undrain() error {
	n.asked = append(n.asked, "undrain")
	n.status.Draining = false
	return n.err
}

// Rebalance implements drain.Work.
func (n *node) Rebalance(sessions int) error {
	n.status.Sessions.Moving = sessions
	return n.err
}

// Status implements drain.Work.
func (n *node) Status() drain.Status { return n.status }

func TestAWishReachesTheNodeAndItsProgressComesBack(t *testing.T) {
	n := &node{status: drain.Status{Node: "comet-1", Tier: "comet", Sessions: &drain.Sessions{Held: 4000, Rate: 200}}}
	server := httptest.NewServer(drain.Handler(func() drain.Work { return n }))
	defer server.Close()
	c := drain.NewClient(strings.TrimPrefix(server.URL, "http://"))
	ctx := context.Background()
	s, err := c.Drain(ctx)
	if err != nil || !s.Draining || s.Left() != 4000 || s.Estimate(s.Left()).Seconds() != 20 {
		t.Errorf("drain: %+v %v", s, err)
	}
	if s, err = c.Undrain(ctx); err != nil || s.Draining {
		t.Errorf("undrain: %+v %v", s, err)
	}
	if s, err = c.Rebalance(ctx, 17); err != nil || s.Sessions.Moving != 17 {
		t.Errorf("rebalance: %+v %v", s, err)
	}
	if s, err = c.Status(ctx); err != nil || s.Node != "comet-1" {
		t.Errorf("status: %+v %v", s, err)
	}
	if !slices.Equal(n.asked, []string{"drain", "undrain"}) {
		t.Errorf("asked for %v", n.asked)
	}
}

func TestWhatTheNodeDoesNotDoIsSaid(t *testing.T) {
	n := &node{err: drain.ErrNotHere}
	var work drain.Work
	server := httptest.NewServer(drain.Handler(func() drain.Work { return work }))
	defer server.Close()
	c := drain.NewClient(server.URL)
	if _, err := c.Drain(context.Background()); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("while starting: %v", err)
	}
	work = n
	if _, err := c.Drain(context.Background()); err == nil || !strings.Contains(err.Error(), drain.ErrNotHere.Error()) {
		t.Errorf("a tier without work: %v", err)
	}
	if _, err := c.Rebalance(context.Background(), -1); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("a number that cannot be: %v", err)
	}
}

// A page that the operator looks at can send GET and POST to any address, but neither changes a node.
func TestNoPageOfAnotherOriginCanDrain(t *testing.T) {
	n := &node{}
	h := drain.Handler(func() drain.Work { return n })
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodHead} {
		for _, path := range []string{"/node/drain", "/node/rebalance?sessions=1"} {
			out := httptest.NewRecorder()
			h.ServeHTTP(out, httptest.NewRequest(method, path, http.NoBody))
			if out.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, out.Code)
			}
		}
	}
	if len(n.asked) != 0 {
		t.Errorf("asked for %v", n.asked)
	}
}

func TestExcessAboveTheAverage(t *testing.T) {
	comet := func(held int, draining bool) drain.Status {
		return drain.Status{Tier: "comet", Draining: draining, Sessions: &drain.Sessions{Held: held}}
	}
	logic := drain.Status{Tier: "logic", Partitions: &drain.Partitions{Held: 16}}
	for _, c := range []struct {
		nodes []drain.Status
		want  []int
	}{
		{[]drain.Status{comet(900, false), comet(900, false), comet(0, false)}, []int{300, 300, 0}},
		{[]drain.Status{comet(10, false), comet(9, false)}, []int{0, 0}}, // nobody is moved for nothing
		{[]drain.Status{comet(100, false), comet(50, true), logic}, []int{0, 0, 0}},
		{[]drain.Status{logic}, []int{0}},
		{nil, []int{}},
	} {
		if got := drain.Excess(c.nodes); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.nodes, got, c.want)
		}
	}
}
