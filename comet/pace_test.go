package comet

import (
	"math/rand/v2"
	"testing"
)

func TestAWalkGoesAtThePaceOfItsAnswers(t *testing.T) {
	p := newPace()
	now := ticksOf(attachTry)
	const grown = startWindow * 9 / 8
	for range startWindow {
		p.answered()
	}
	if p.window != grown {
		t.Errorf("%d after a window of answers, want %d", p.window, grown)
	}
	for range 1000 { // all that were on their way together
		p.refused(now)
	}
	if p.window != grown/2 {
		t.Errorf("%d after one second of refusals, want %d", p.window, grown/2)
	}
	for range 20 {
		now += ticksOf(attachTry)
		p.refused(now)
	}
	if p.window != leastWindow {
		t.Errorf("%d after many", p.window)
	}
	for range mostWindow * mostWindow {
		p.answered()
	}
	if p.window != mostWindow {
		t.Errorf("%d at most, want %d", p.window, mostWindow)
	}
}

func TestThoseWhoConnectAreNotPaced(t *testing.T) {
	l := &eventLoop{pace: newPace(), attaching: newAttaches()}
	var paced []*attach
	for slot := range uint32(10 * startWindow) {
		at := &attach{id: uint64(slot)}
		if slot%10 != 0 {
			at.waiting = &admission{}
		}
		l.attaching.of[slot] = at
		if want := startWindow - len(paced); int(l.mayAsk()) != want {
			t.Fatalf("%d with %d on their way, want %d", l.mayAsk(), len(paced), want)
		}
		if l.attaching.sent(at); at.paced {
			paced = append(paced, at)
		}
	}
	if got := l.mayAsk(); got != 0 {
		t.Errorf("%d with a window on its way", got)
	}
	l.attaching.sent(paced[0]) // Asked again before the answer.
	paced[1].waiting = &admission{}
	l.attaching.landed(paced[1])
	l.attaching.landed(paced[1])
	l.attaching.drop(uint32(paced[2].id))
	l.attaching.drop(uint32(paced[2].id))
	l.attaching.of[1].waiting = nil // It went live meanwhile.
	l.attaching.landed(l.attaching.of[1])
	if got := l.mayAsk(); got != 2 {
		t.Errorf("%d when two of them have landed", got)
	}
}

// TestAttachesAreLookedAtWhenSomethingIsDue: as often as by a look at all of them at each tick, whatever happens to them.
func TestAttachesAreLookedAtWhenSomethingIsDue(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	a := newAttaches()
	slots := uint32(50)
	for now := uint32(1); now < 3000; now++ {
		for range random.IntN(4) {
			slot := random.Uint32N(slots)
			at := a.of[slot]
			switch {
			case at == nil:
				at = &attach{id: uint64(slot), request: 1}
				a.of[slot] = at
			case random.IntN(8) == 0:
				a.drop(slot)
				continue
			}
			at.again, at.deadline = now+random.Uint32N(30), now+random.Uint32N(30)
			at.resync, at.request = random.IntN(2) == 0, random.Uint64N(2)
			a.arm(at, now)
		}
		due := map[*attach]bool{}
		for _, at := range a.of {
			if at.request != 0 && at.again <= now || at.resync && at.deadline <= now {
				due[at] = true
			}
		}
		for at := a.next(now); at != nil; at = a.next(now) {
			if !due[at] || at.gone {
				t.Fatalf("tick %d: %+v is not due", now, at)
			}
			delete(due, at)
			at.request, at.resync = 0, false
			a.arm(at, now)
		}
		for at := range due { // What was due only when it was changed is not before the next tick.
			if at.armed != now+1 {
				t.Fatalf("tick %d: %+v was passed over", now, at)
			}
		}
	}
	for slot := range slots {
		a.drop(slot)
	}
	if len(a.times) > 0 {
		t.Errorf("%d are to be looked at, and none is left", len(a.times))
	}
}

// BenchmarkTickOfManyAttaches is a tick while 19,000 sessions, as many as a process with 20,000 descriptors has, wait for what is due later.
func BenchmarkTickOfManyAttaches(b *testing.B) {
	l := &eventLoop{pace: newPace(), attaching: newAttaches()}
	for slot := range uint32(19_000) {
		at := &attach{id: uint64(slot), request: 1, again: 1 << 30}
		l.attaching.of[slot] = at
		l.attaching.arm(at, 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.tickAttaches()
	}
}
