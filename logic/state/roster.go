package state

import (
	"maps"
	"slices"
)

// roster holds the members of a conversation by name. Nearly all conversations have one or two: users' logs and direct ones, for which
// a map would take more than what is in it.
type roster struct {
	few  []entry
	many map[string]*Member // nil while there are few
}

type entry struct {
	user string
	*Member
}

const mostFew = 8

// newRoster has room for n.
func newRoster(n int) roster {
	if n > mostFew {
		return roster{many: make(map[string]*Member, n)}
	}
	return roster{few: make([]entry, 0, n)}
}

func (r *roster) empty() bool { return len(r.few)+len(r.many) == 0 }

// get returns nil where there is no such member.
func (r *roster) get(user string) *Member {
	if r.many != nil {
		return r.many[user]
	}
	for i := range r.few {
		if r.few[i].user == user {
			return r.few[i].Member
		}
	}
	return nil
}

// add takes a member that is not in it.
func (r *roster) add(user string, m *Member) {
	if r.many == nil && len(r.few) < mostFew {
		r.few = append(r.few, entry{user, m})
		return
	}
	if r.many == nil {
		r.many = make(map[string]*Member, 2*mostFew)
		for _, e := range r.few {
			r.many[e.user] = e.Member
		}
		r.few = nil
	}
	r.many[user] = m
}

// each calls fn for all, in no order.
func (r *roster) each(fn func(user string, m *Member)) {
	for _, e := range r.few {
		fn(e.user, e.Member)
	}
	for user, m := range r.many {
		fn(user, m)
	}
}

// drop removes those of whom fn says so.
func (r *roster) drop(fn func(m *Member) bool) {
	r.few = slices.DeleteFunc(r.few, func(e entry) bool { return fn(e.Member) })
	maps.DeleteFunc(r.many, func(_ string, m *Member) bool { return fn(m) })
}
