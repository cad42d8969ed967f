package trim_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/job/internal/jobtest"
	"github.com/halley-im/halley/job/trim"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// fixture is a log with one block a minute, and two followers that have seen nothing.
type fixture struct {
	*testing.T
	w             *jobtest.Writer
	reg           *prometheus.Registry
	history, user *bus.Follower
}

func setUp(t *testing.T, blocks, size int, maxBytes int64) *fixture {
	c := bustest.Connect(t, bustest.StartEmbedded(t))
	bustest.Create(t, c, bus.LogConfig{Partitions: 1, Replicas: 1, MaxBytes: maxBytes})
	w := jobtest.NewWriter(t, c, 0)
	f := &fixture{T: t, w: w, reg: prometheus.NewRegistry()}
	for i := range blocks {
		r := jobtest.Message("g:x", uint64(i+1))
		r.Body = make([]byte, size)
		w.Time = jobtest.Start.Add(time.Duration(i) * time.Minute)
		w.Block(r)
	}
	f.history = f.follow("history", false)
	f.user = f.follow("userlog", true)
	return f
}

func (f *fixture) follow(name string, userOnly bool) *bus.Follower {
	f.Helper()
	fo, err := f.w.Log.Follow(jobtest.Context(f.T), name, bus.FollowOptions{UserOnly: userOnly})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(fo.Close)
	return fo
}

// done acknowledges history's blocks up to seq.
func (f *fixture) done(seq uint64) {
	f.Helper()
	var at uint64
	bustest.Until(f.T, "blocks arrive", func() bool {
		ds, err := f.history.Fetch(jobtest.Context(f.T), int(seq-at), 1<<24, 100*time.Millisecond)
		if err != nil {
			f.Fatal(err)
		}
		for _, d := range ds {
			if err := d.Ack(); err != nil {
				f.Fatal(err)
			}
			at = d.Seq
		}
		return at == seq
	})
	bustest.Until(f.T, "the floor is there", func() bool {
		floor, _, err := f.history.Floor(jobtest.Context(f.T))
		return err == nil && floor == seq
	})
}

func (f *fixture) pass(keep int) bus.LogState {
	f.Helper()
	cfg := trim.Default()
	cfg.KeepMinutes = keep
	if err := cfg.Validate(); err != nil {
		f.Fatal(err)
	}
	f.reg = prometheus.NewRegistry()
	tr := trim.New(cfg, bustest.Log(f.T), f.reg)
	followers := []trim.Follower{{Name: "history", Follower: f.history}, {Name: "userlog", Follower: f.user}}
	if err := tr.Pass(jobtest.Context(f.T), f.w.Log, followers); err != nil {
		f.Fatal(err)
	}
	st, err := f.w.Log.State(jobtest.Context(f.T))
	if err != nil {
		f.Fatal(err)
	}
	return st
}

func (f *fixture) firstIs(keep int, want uint64) {
	f.Helper()
	if st := f.pass(keep); st.First != want {
		f.Fatalf("the log begins at %d, want %d", st.First, want)
	}
}

func TestNothingIsTrimmedThatIsNotDone(t *testing.T) {
	f := setUp(t, 100, 10, 64<<20)
	f.firstIs(10, 1)
	f.done(30)
	f.firstIs(10, 31) // old enough, and done
	for follower, want := range map[string]float64{"history": 70, "userlog": 0} {
		if got := f.gauge("halley_job_lag_blocks", follower); got != want {
			t.Errorf("lag of %s is %v, want %v", follower, got, want)
		}
	}
}

// gauge reads what the last pass set.
func (f *fixture) gauge(name, follower string) float64 {
	f.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == follower {
				return m.GetGauge().GetValue()
			}
		}
	}
	f.Fatalf("no %s of %s", name, follower)
	return 0
}

func TestTheSlowerFollowerDecides(t *testing.T) {
	f := setUp(t, 50, 10, 64<<20)
	r := jobtest.Message("g:x", 51)
	r.Joined = []string{"alice"}
	at := f.w.Block(r) // userlog owes this
	for i := uint64(52); i <= 100; i++ {
		f.w.Time = f.w.Time.Add(time.Minute)
		f.w.Block(jobtest.Message("g:x", i))
	}
	f.done(100)
	// Before its first delivery the server has no place for the follower at all, so nothing may go.
	f.firstIs(10, 1)
	ds, err := f.user.Fetch(jobtest.Context(t), 1, 1<<20, bustest.Wait)
	if err != nil || len(ds) != 1 || ds[0].Seq != at {
		t.Fatalf("%v, %v", ds, err)
	}
	if st := f.pass(10); st.First > at {
		t.Fatalf("the log begins at %d, and block %d is not done", st.First, at)
	}
	if err := ds[0].Ack(); err != nil {
		t.Fatal(err)
	}
	bustest.Until(t, "the floor passes", func() bool {
		floor, _, err := f.user.Floor(jobtest.Context(t))
		return err == nil && floor == 100
	})
	f.firstIs(10, 91) // one block in a minute and a microsecond: 90 is older than ten minutes before 100
}

func TestKeepIsKeptWhereThereIsRoom(t *testing.T) {
	f := setUp(t, 100, 10, 64<<20)
	f.done(100)
	f.firstIs(60, 40)
	f.firstIs(60, 40) // again: another node
	f.firstIs(10, 90)
}

func TestTheNewestBlockStays(t *testing.T) {
	f := setUp(t, 3, 10, 64<<20)
	f.w.Time = f.w.Time.Add(24 * time.Hour)
	last := f.w.Block(jobtest.Message("g:x", 4))
	f.done(last)
	f.firstIs(10, last)
	f.firstIs(10, last)
}

func TestUnderPressureLessIsKeptButNeverLessThanTenMinutes(t *testing.T) {
	// 100 blocks of 9 kB in 1 MiB: 90 %.
	f := setUp(t, 100, 9_300, 1<<20)
	f.done(100)
	st := f.pass(24 * 60)
	if used := float64(st.Bytes) / float64(st.MaxBytes); used > 0.7 || used < 0.65 {
		t.Fatalf("%.2f of the log are used after trimming, want just below 0.7", used)
	}
	if st.First > 40 {
		t.Fatalf("the log begins at %d: more was trimmed than pressure asks for", st.First)
	}

	// The same within ten minutes: nothing may go.
	g := setUp(t, 1, 10, 1<<20)
	for i := range 95 {
		r := jobtest.Message("g:x", uint64(i+2))
		r.Body = make([]byte, 10_000)
		g.w.Time = jobtest.Start.Add(time.Duration(i) * 6 * time.Second)
		g.w.Block(r)
	}
	g.done(96)
	g.firstIs(24*60, 1)
}

func TestBlockThatCannotBeReadIsNotTrimmed(t *testing.T) {
	f := setUp(t, 20, 10, 64<<20)
	f.w.Raw([]byte("not a block"), false)
	f.done(21)
	tr := trim.New(trim.Default(), bustest.Log(t), prometheus.NewRegistry())
	if err := tr.Pass(jobtest.Context(t), f.w.Log, []trim.Follower{{Name: "history", Follower: f.history}}); err == nil {
		t.Fatal("trimmed by the time of a block without one")
	}
}
