package traffic

import (
	"math"
	"testing"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
)

// dueIn sums what is due from one time to another, asked for every gap.
func dueIn(s *schedule, from, to, gap time.Duration) (n int) {
	for now := from; now <= to; now += gap {
		for {
			at, due, ok := s.next(now)
			if !ok {
				break
			}
			if at > now {
				panic("due before its time")
			}
			n += due
		}
	}
	return n
}

func TestAScheduleGivesOutItsRate(t *testing.T) {
	for _, rate := range []float64{0.5, 3, 333, 1000, 2500, 70_001} {
		for _, gap := range []time.Duration{time.Millisecond, 37 * time.Millisecond, 10 * time.Second} {
			s := newSchedule(&Config{Rate: rate, Tick: time.Millisecond}, 1, 0)
			if n := dueIn(s, 0, 10*time.Second-1, gap); math.Abs(float64(n)-10*rate) > max(1, rate*gap.Seconds()+1) {
				t.Errorf("%g a second, looked at every %v: %d in 10 s", rate, gap, n)
			}
		}
	}
}

// TestPartsSendWhatTheWholeWould cuts a schedule in parts that begin apart.
func TestPartsSendWhatTheWholeWould(t *testing.T) {
	first := map[time.Duration]int{}
	for part := range 10 {
		s := newSchedule(&Config{Rate: 100, Tick: time.Millisecond}, 0.1, float64(part)/10)
		n := 0
		for {
			at, due, ok := s.next(999 * time.Millisecond)
			if !ok {
				break
			}
			if due > 0 && n == 0 {
				first[at]++
			}
			n += due
		}
		if n != 10 {
			t.Errorf("part %d sends %d of 10", part, n)
		}
	}
	if len(first) != 10 {
		t.Errorf("parts begin together: %v", first)
	}
}

func TestPhases(t *testing.T) {
	cfg := &Config{Tick: time.Millisecond, Phases: []Phase{
		{For: 10 * time.Second, From: 100, To: 100},
		{For: 10 * time.Second, From: 100, To: 1100},
		{For: 10 * time.Second},
		{For: 10 * time.Second, From: 50, To: 50, Swing: 400},
	}}
	s := newSchedule(cfg, 0.5, 0)
	for i, p := range cfg.Phases {
		from := time.Duration(i) * 10 * time.Second
		want := p.Messages() / 2
		if n := dueIn(s, from, from+10*time.Second-1, time.Millisecond); math.Abs(float64(n)-want) > 3 {
			t.Errorf("phase %d: %d messages, want %.0f", i, n, want)
		}
	}
	if n := dueIn(s, 40*time.Second, 50*time.Second, time.Millisecond); n != 0 {
		t.Errorf("%d messages after the last phase", n)
	}
	if low, high := cfg.Phases[3].rate(0), cfg.Phases[3].rate(5*time.Second); low != 50 || high != 450 {
		t.Errorf("a day goes from %g to %g", low, high)
	}
}

// TestZipfMakesSomeBusier chooses senders with and without.
func TestZipfMakesSomeBusier(t *testing.T) {
	for zipf, want := range map[float64]func(first, last int) bool{
		0: func(first, last int) bool { return first == 1000 && last == 1000 },
		2: func(first, last int) bool { return first > 5000 && last < first/20 && last > 0 },
	} {
		fleet, err := generator.New(generator.Config{
			Workers: 1, Dialers: 1, Tick: time.Millisecond, Targets: []string{"127.0.0.1:1"}, Transport: generator.TCP, Seed: 1,
		}, 50)
		if err != nil {
			t.Fatal(err)
		}
		all, err := New(Config{
			Group: true, Conversations: 10, Members: 5, Senders: 3, Rate: 1, Zipf: zipf, Tick: time.Millisecond, Size: 32, App: "main",
		}, fleet)
		if err != nil {
			t.Fatal(err)
		}
		part := all.parts[0]
		b, sent, senders := newBusier(part, zipf), map[*conversation]int{}, map[*member]bool{}
		for range 10_000 {
			m := b.next()
			sent[m.conv]++
			senders[m] = true
		}
		if first, last := sent[part.conversations[0]], sent[part.conversations[9]]; !want(first, last) || len(senders) != 30 {
			t.Errorf("zipf %g: %d in the first conversation, %d in the last, %d senders", zipf, first, last, len(senders))
		}
	}
}
