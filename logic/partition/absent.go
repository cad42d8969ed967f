package partition

import "hash/maphash"

// absent remembers ids that are of no conversation: the store has nothing of them, nor has the log. Nearly all of them are the logs of users
// who never were in a group and never got a message. Every device that connects or lacks something has such a log looked at, and without
// this each look would be a read of the store, most of all when all devices come back at once.
//
// What it says stays true for as long as the owner reigns, for what another wrote would have its appends refused, and an id is in here only
// while it has no cell. That holds as long as the store does not come to have what it did not have before: who puts back a store from a
// copy does so while no logic node runs. It keeps 128 bits of hashes with secret seeds in place of names: two names are taken for one less often
// than memory errs.
type absent struct {
	most  int // ids in a generation
	seeds [2]maphash.Seed
	// The older generation goes when the younger is full.
	young, old map[absentID]struct{}
}

type absentID [2]uint64

// newAbsent remembers the last half of most ids at least, and most at most.
func newAbsent(most int) absent {
	return absent{most: max(1, most/2), seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

func (a *absent) id(k key) absentID {
	return absentID{maphash.Comparable(a.seeds[0], k), maphash.Comparable(a.seeds[1], k)}
}

func (a *absent) add(k key) {
	if len(a.young) >= a.most {
		a.old, a.young = a.young, nil
	}
	if a.young == nil {
		a.young = make(map[absentID]struct{})
	}
	a.young[a.id(k)] = struct{}{}
}

// take reports whether the id is remembered, and forgets it: from now on its cell knows.
func (a *absent) take(k key) bool {
	id := a.id(k)
	_, young := a.young[id]
	_, old := a.old[id]
	delete(a.young, id)
	delete(a.old, id)
	return young || old
}
