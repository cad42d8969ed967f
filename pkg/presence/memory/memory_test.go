package memory

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/presencetest"
)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestSuite(t *testing.T) {
	presencetest.Run(t, func(*testing.T) presencetest.Harness {
		c := &clock{now: time.Now()}
		r := New(c.Now)
		return presencetest.Harness{Registry: r, Other: r, Advance: c.Advance}
	})
}

// A node that vanished leaves its sessions' entries; renewals of the others clear them away.
func TestSweepForgetsWhatDeadNodesLeft(t *testing.T) {
	c := &clock{now: time.Now()}
	r := New(c.Now)
	ctx := t.Context()
	dead, _ := r.Acquire(ctx, "comet-dead")
	live, _ := r.Acquire(ctx, "comet-live")
	for i := range 2000 {
		regs := []presence.Registration{{User: presence.User{App: "main", User: fmt.Sprint("u", i)}}}
		regs[0].Entry = presence.Entry{Device: "phone", Node: "comet-dead", Epoch: dead}
		if i%4 == 0 {
			regs[0].Entry.Node, regs[0].Entry.Epoch = "comet-live", live
		}
		if err := r.Register(ctx, regs); err != nil {
			t.Fatal(err)
		}
	}
	for range shards/sweepPerRenew + 3 {
		c.Advance(presence.RenewEvery)
		if err := r.Renew(ctx, "comet-live", live); err != nil {
			t.Fatal(err)
		}
	}
	users := 0
	for i := range r.shards {
		users += len(r.shards[i].users)
	}
	if users != 500 {
		t.Fatalf("%d users are kept, want the 500 of the live node", users)
	}
}

func fill(t testing.TB, n int) (*Registry, []presence.User) {
	t.Helper()
	// The clock costs what it costs and stands still: a busy machine may need longer for a million than a lease lasts.
	start := time.Now()
	r := New(func() time.Time { _ = time.Now(); return start })
	epoch, _ := r.Acquire(context.Background(), "comet-1")
	users := make([]presence.User, n)
	for i := range users {
		users[i] = presence.User{App: "main", User: fmt.Sprintf("user-%07d", i)}
		// Devices are named by UUIDs in the worst case.
		e := presence.Entry{
			Device: fmt.Sprintf("0199c5e2-7a00-7000-8000-%012d", i), Node: "comet-1", Epoch: epoch, Conn: uint64(i),
			Codec: link.CodecProto,
		}
		if err := r.Register(context.Background(), []presence.Registration{{User: users[i], Entry: e}}); err != nil {
			t.Fatal(err)
		}
	}
	return r, users
}

func TestLookupAllocatesNothing(t *testing.T) {
	r, users := fill(t, 1000)
	dst := make([][]presence.Entry, 0, 8)
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		dst, _ = r.Lookup(t.Context(), users[i:i+8], dst)
		i = (i + 8) % 992
	}); n != 0 {
		t.Fatalf("%v allocations per look-up, want none", n)
	}
}

// bytesPerDevice is the budget of a connected device whose names take 48 bytes. Maps grow in steps: it holds for the worst number of users.
const bytesPerDevice = 320

func TestADeviceFitsItsBudget(t *testing.T) {
	const n = 60_000
	before := observetest.Heap()
	r, users := fill(t, n)
	per := float64(observetest.Heap()-before)/n - 32 - 16 // Without the test's own list of users and their strings.
	t.Logf("%.0f bytes for each device", per)
	if per > bytesPerDevice {
		t.Errorf("a device takes %.0f bytes, the budget is %d", per, bytesPerDevice)
	}
	runtime.KeepAlive(r)
	runtime.KeepAlive(users)
}

// BenchmarkLookup reads one user of a million with one device each, and reports what a device costs.
func BenchmarkLookup(b *testing.B) {
	const n = 1_000_000
	before := observetest.Heap()
	r, users := fill(b, n)
	perDevice := float64(observetest.Heap()-before)/n - 32 - 16 // Without the benchmark's own list of users and their strings.
	dst := make([][]presence.Entry, 0, 1)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		dst, _ = r.Lookup(b.Context(), users[i:i+1], dst)
		if len(dst[0]) != 1 {
			b.Fatal("a user is missing")
		}
		i = (i + 7919) % n
	}
	b.ReportMetric(perDevice, "B/device")
}

func BenchmarkRegister(b *testing.B) {
	r, users := fill(b, 100_000)
	regs := make([]presence.Registration, 1)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		regs[0] = presence.Registration{User: users[i], Entry: presence.Entry{Device: "phone", Node: "comet-1", Conn: uint64(i)}}
		_ = r.Register(b.Context(), regs)
		_ = r.Unregister(b.Context(), regs)
		i = (i + 7919) % len(users)
	}
}
