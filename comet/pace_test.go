package comet

import "testing"

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

func TestAWalkGoesOnBehindThoseWhoConnect(t *testing.T) {
	l := &eventLoop{pace: newPace(), attaching: make(map[uint32]*attach)}
	if got := l.mayAsk(); got != startWindow {
		t.Errorf("%d with nobody asked for", got)
	}
	for slot := range uint32(10 * startWindow) {
		l.attaching[slot] = &attach{flying: true}
	}
	if got := l.mayAsk(); got != 1 {
		t.Errorf("%d with many on their way", got)
	}
}
