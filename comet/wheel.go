package comet

// wheel is a timing wheel: one deadline per slot of the registry, in ticks. Setting one is O(1) and allocates nothing; a
// deadline beyond the wheel's turn waits in the farthest slot and is set anew from there.
//
// Invariant: due[id] is 0 exactly when id is in no list; otherwise id is in the list of at[id].
type wheel struct {
	now   uint32
	early uint32             // nothing is in a list before its tick
	heads [wheelSlots]uint32 // 1 + id; 0: empty
	nodes []wheelNode
}

type wheelNode struct {
	next, prev uint32 // 1 + id; 0: none
	due        uint32 // the deadline's tick
	at         uint32 // the tick whose list holds the node
}

// wheelSlots times a tick is one turn: 409.6 s, above the one and a half heartbeats that nearly all deadlines are.
const wheelSlots = 4096

// set gives id the deadline due, instead of any it had. A deadline that is not after now is taken as the next tick.
func (w *wheel) set(id, due uint32) {
	for uint32(len(w.nodes)) <= id {
		w.nodes = append(w.nodes, wheelNode{})
	}
	w.cancel(id)
	due = max(due, w.now+1)
	w.insert(id, due)
}

func (w *wheel) insert(id, due uint32) {
	at := min(due, w.now+wheelSlots-1)
	w.early = min(w.early, at)
	head := &w.heads[at%wheelSlots]
	w.nodes[id] = wheelNode{next: *head, due: due, at: at}
	if *head != 0 {
		w.nodes[*head-1].prev = id + 1
	}
	*head = id + 1
}

// cancel takes id's deadline away, if it has one.
func (w *wheel) cancel(id uint32) {
	if uint32(len(w.nodes)) <= id || w.nodes[id].due == 0 {
		return
	}
	n := w.nodes[id]
	if n.prev != 0 {
		w.nodes[n.prev-1].next = n.next
	} else {
		w.heads[n.at%wheelSlots] = n.next
	}
	if n.next != 0 {
		w.nodes[n.next-1].prev = n.prev
	}
	w.nodes[id] = wheelNode{}
}

// advance moves on to now and calls fire for every deadline up to it, each of which is then gone. fire may set and cancel any
// id.
func (w *wheel) advance(now uint32, fire func(id uint32)) {
	for w.now < now {
		w.now++
		head := &w.heads[w.now%wheelSlots]
		for *head != 0 {
			id := *head - 1
			due := w.nodes[id].due
			w.cancel(id)
			if due > w.now { // it was beyond the turn
				w.insert(id, due)
				continue
			}
			fire(id)
		}
	}
}

// next is the tick of the next list that something is in, or the one that is so many ahead if there is none before.
func (w *wheel) next(most uint32) uint32 {
	w.early = w.now + 1
	for w.early < w.now+most && w.heads[w.early%wheelSlots] == 0 {
		w.early++
	}
	return w.early
}

// pass moves on without looking for deadlines, as far as it is known that there are none.
func (w *wheel) pass(now uint32) { w.now = max(w.now, min(now, max(w.early, 1)-1)) }
