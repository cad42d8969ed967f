package comet

import (
	"net"
	"slices"
	"testing"
	"time"
)

func TestMeterAllowsABurstAndThenItsRate(t *testing.T) {
	var m meter
	m.set(100, 50)
	now, allowed := time.Hour, 0 // after a rest
	for m.take(now) == 0 {
		allowed++
	}
	if allowed != 50 {
		t.Errorf("%d at once, want the burst of 50", allowed)
	}
	if wait := m.take(now); wait != 10*time.Millisecond {
		t.Errorf("the next may come in %v, want 10ms", wait)
	}
	allowed = 0
	for end := now + 10*time.Second; now < end; now += time.Millisecond {
		if m.take(now) == 0 {
			allowed++
		}
	}
	if allowed < 999 || allowed > 1000 {
		t.Errorf("%d in ten seconds at 100 per second", allowed)
	}
	var unlimited meter
	unlimited.set(0, 0)
	for range 1000 {
		if unlimited.take(0) != 0 {
			t.Fatal("no limit, and yet refused")
		}
	}
}

func TestWhoCountsAsOneAddress(t *testing.T) {
	key := func(ip string) addressKey { return addressOf(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1}) }
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"2001:db8::1", "192.0.2.1", false},
	} {
		if same := key(c.a) == key(c.b); same != c.same {
			t.Errorf("%s and %s are one: %v, want %v", c.a, c.b, same, c.same)
		}
	}
}

func TestAnAddressWithoutConnectionsIsForgotten(t *testing.T) {
	a := addresses{limit: 2, count: make(map[addressKey]uint32)}
	var got []bool
	for _, address := range []addressKey{1, 1, 1, 2} {
		got = append(got, a.add(address))
	}
	if !slices.Equal(got, []bool{true, true, false, true}) {
		t.Fatalf("the limit of two does not hold: %v", got)
	}
	a.remove(1)
	if !a.add(1) {
		t.Error("no room after one left")
	}
	a.remove(1)
	a.remove(1)
	a.remove(2)
	if len(a.count) != 0 {
		t.Errorf("left behind: %v", a.count)
	}
}

func TestGuardsJudge(t *testing.T) {
	g := guards{heapShare: 0.8, cpuShare: 0.9}
	calm := usage{live: 80, limit: 100, cpu: 0.5}
	if heap, cpu := g.judge(calm); heap || cpu {
		t.Error("refused though calm")
	}
	if heap, _ := g.judge(usage{live: 81, limit: 100}); !heap {
		t.Error("81 of 100 bytes are above 80 %")
	}
	if heap, _ := g.judge(usage{live: 1 << 40}); heap {
		t.Error("there is no limit to be a share of")
	}
	busy := usage{cpu: 0.95}
	for range busyReadings - 1 {
		if _, cpu := g.judge(busy); cpu {
			t.Fatal("a burst is no overload")
		}
	}
	if _, cpu := g.judge(busy); !cpu {
		t.Error("busy for five seconds, and yet open")
	}
	if _, cpu := g.judge(calm); cpu {
		t.Error("shut though calm again")
	}
	off := guards{}
	for range 2 * busyReadings {
		if heap, cpu := off.judge(usage{live: 100, limit: 100, cpu: 1}); heap || cpu {
			t.Fatal("off, and yet refused")
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	read := usageReader()
	end := time.Now().Add(50 * time.Millisecond)
	for time.Now().Before(end) { // use a processor
	}
	if u := read(); u.cpu <= 0 || u.cpu > 1.5 {
		t.Errorf("share of the processors: %v", u.cpu)
	}
}

// TestThePaceIsKeptWhicheverLoopsSpend: over the time, as many sessions may go as the rate says, never more, even where all sessions lie
// on one loop.
func TestThePaceIsKeptWhicheverLoopsSpend(t *testing.T) {
	for _, rate := range []int{1, 7, 100, 2000} {
		for _, spending := range []int{1, 2, 4} {
			c := &Comet{loops: make([]*eventLoop, 4)}
			f := &c.farewell
			f.comet, f.rate, f.drained = c, rate, true
			var closed int64
			const seconds = 60
			for range seconds * 10 {
				f.tick(tickLength)
				for range spending {
					for n := int64(0); n < f.share.Load() && f.take(); n++ {
						closed++
					}
				}
			}
			most, least := int64(rate*seconds), int64(rate*seconds)*95/100-1
			if closed > most || closed < least {
				t.Errorf("rate %d, %d of 4 loops with sessions: %d closed in %d s, want %d to %d", rate, spending, closed, seconds, least, most)
			}
		}
	}
}

// TestWhatRestedGivesNoBurst: the time before sessions were to go is not theirs, however long the clock rested.
func TestWhatRestedGivesNoBurst(t *testing.T) {
	c := &Comet{loops: []*eventLoop{{}, {}}}
	f := &c.farewell
	f.comet, f.rate = c, 1000
	if f.tick(time.Second) {
		t.Error("sessions are to go, and nobody said so")
	}
	f.drained = true
	f.tick(time.Second)
	if got := f.credit.Load(); got > 100 {
		t.Errorf("%d may go at once, at 1000 a second and 100 ms a tick", got)
	}
}
