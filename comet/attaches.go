package comet

// attaches are the sessions of a loop that are on their way into their rooms, when something is due for each, and whose question waits
// for its turn.
type attaches struct {
	of    map[uint32]*attach // by slot
	paced int                // questions on their way that the pace is for
	due   []*attach          // who asks again once the pace allows it, in order
	times []*attach          // a heap by when something is due for each, the earliest first
}

func newAttaches() attaches { return attaches{of: make(map[uint32]*attach)} }

// get is the attach of a session, nil where there is none.
func (a *attaches) get(s *session) *attach {
	if at := a.of[s.slot]; at != nil && at.id == s.id() {
		return at
	}
	return nil
}

// put has at be the session's, in place of any that its slot had.
func (a *attaches) put(s *session, at *attach) {
	a.drop(s.slot)
	at.id = s.id()
	a.of[s.slot] = at
}

// drop forgets the slot's.
func (a *attaches) drop(slot uint32) {
	if at := a.of[slot]; at != nil {
		a.landed(at)
		a.disarm(at)
		at.gone = true
		delete(a.of, slot)
	}
}

// sent notes that the question is on its way. Who connects is not paced: the gates before it are.
func (a *attaches) sent(at *attach) {
	a.landed(at)
	at.flying = true
	if at.paced = at.waiting == nil; at.paced {
		a.paced++
	}
}

// landed notes that the question is not on its way any more, and reports whether it was.
func (a *attaches) landed(at *attach) bool {
	flew := at.flying
	if flew && at.paced {
		a.paced--
	}
	at.flying, at.paced = false, false
	return flew
}

// later has the attach ask in its turn.
func (a *attaches) later(at *attach) {
	if !at.queued {
		at.queued = true
		a.due = append(a.due, at)
	}
}

// turn is whose turn it is to ask; nil: nobody waits for it.
func (a *attaches) turn() *attach {
	for len(a.due) > 0 {
		at := a.due[0]
		a.due[0] = nil
		if a.due = a.due[1:]; len(a.due) == 0 {
			a.due = nil
		}
		at.queued = false
		if !at.gone {
			return at
		}
	}
	return nil
}

// arm has the attach looked at when something is due for it.
func (a *attaches) arm(at *attach, now uint32) {
	next := never
	if at.waiting != nil || at.resync {
		next = at.deadline
	}
	if at.request != 0 && !at.queued {
		next = min(next, at.again)
	}
	if at.gone || next == never {
		a.disarm(at)
		return
	}
	at.armed = max(next, now+1)
	if at.place == 0 {
		a.times = append(a.times, at)
		at.place = len(a.times)
	}
	a.fix(at.place - 1)
}

// next is one for which something is due by now; nil: there is none left. It has to be armed again.
func (a *attaches) next(now uint32) *attach {
	if len(a.times) == 0 || a.times[0].armed > now {
		return nil
	}
	at := a.times[0]
	a.disarm(at)
	return at
}

func (a *attaches) disarm(at *attach) {
	if at.place == 0 {
		return
	}
	i, last := at.place-1, len(a.times)-1
	a.swap(i, last)
	a.times[last] = nil
	a.times = a.times[:last]
	if at.place, at.armed = 0, 0; i < last {
		a.fix(i)
	}
	if last == 0 {
		a.times = nil // A storm's memory goes with it.
	}
}

// fix has the one at i, alone of all perhaps out of order, come to its place.
func (a *attaches) fix(i int) {
	for i > 0 && a.times[i].armed < a.times[(i-1)/2].armed {
		a.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		down := 2*i + 1
		if right := down + 1; right < len(a.times) && a.times[right].armed < a.times[down].armed {
			down = right
		}
		if down >= len(a.times) || a.times[i].armed <= a.times[down].armed {
			return
		}
		a.swap(i, down)
		i = down
	}
}

func (a *attaches) swap(i, j int) {
	a.times[i], a.times[j] = a.times[j], a.times[i]
	a.times[i].place, a.times[j].place = i+1, j+1
}
