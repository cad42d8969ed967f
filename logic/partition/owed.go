package partition

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// While presence does not answer, deliveries go where users were last, and who is elsewhere is owed word of them: to compare its heads,
// as soon as presence says where it is. Only those whom a look-up concerned are told, for a time-out of a moment must not have all the
// sessions there are ask at once. Once presence has been away for pollEvery all nodes are asked for them, and again and again until it is
// back; where there are too many, or rooms are concerned, for everybody.

const (
	// pollEvery is how often those who are owed compare their heads while presence does not answer.
	pollEvery = 5 * time.Second
	// owedEvery is how often it is tried to tell those who are owed.
	owedEvery = time.Second
	// owedSpread is how long the devices of those who are told wait at most before they ask.
	owedSpread = time.Second
	// maxOwed bounds the users who are remembered; beyond it all are told.
	maxOwed = 4096
	// owedParcel is how many are looked up at once.
	owedParcel = 256
)

// owed are users who may lack something that was committed.
type owed struct {
	users map[presence.User]struct{}
	all   bool // Or everybody: there were too many, or a room changed of which only its nodes know.
}

func (o *owed) any() bool { return o.all || len(o.users) > 0 }

// remember takes users in, who with those that are there are within the bound.
func (o *owed) remember(users []presence.User) {
	if o.all || len(users) == 0 {
		return
	}
	if o.users == nil {
		o.users = make(map[presence.User]struct{})
	}
	for _, user := range users {
		o.users[user] = struct{}{}
	}
}

func (o *owed) add(p *parcel) {
	if p.ephemeral || o.all {
		return
	}
	for i := range p.deliveries {
		d := &p.deliveries[i]
		if d.large || len(d.leaves) > 0 || d.control != nil || len(o.users)+len(d.users) > maxOwed {
			*o = owed{all: true}
			return
		}
		if o.users == nil {
			o.users = make(map[presence.User]struct{})
		}
		for _, user := range d.users {
			o.users[presence.User{App: d.app, User: user}] = struct{}{}
		}
	}
}

// known takes what became of a parcel's look-up, and reports whether it can be delivered.
func (s *stage) known(p *parcel, err error) bool {
	if err == nil {
		if s.failing && len(s.users)+len(s.rooms.ids) > 0 { // Otherwise nothing was asked.
			s.log.Info("presence answers again", "owed_users", len(s.owed.users), "owed_all", s.owed.all)
			s.failing = false
		}
		return true
	}
	s.metrics.lookupFailed.Inc()
	s.owed.add(p)
	stale, dropped := errors.Is(err, presence.ErrStale) && !p.word, 0
	if !stale && !p.word {
		dropped = 1 + s.drop()
	}
	if !s.failing {
		s.failing, s.since = true, time.Now()
		s.log.Warn("presence look-up failed; deliveries go where users were last",
			"users", len(s.users), "rooms", len(s.rooms.ids), "dropped", dropped, "err", err)
	}
	if !p.word { // Of those who are owed, a parcel is a part.
		s.poll()
	}
	return stale
}

// drop forgets what waits: each look-up would fail after a time-out of its own.
func (s *stage) drop() int {
	for n := 0; ; n++ {
		select {
		case p, open := <-s.parcels:
			if !open {
				return n
			}
			s.owed.add(&p)
			s.metrics.dropped.Inc()
		default:
			return n
		}
	}
}

// poll has nodes find those who are owed when it is time.
func (s *stage) poll() {
	if !s.failing || time.Since(s.since) < pollEvery || !s.owed.any() {
		return
	}
	s.log.Warn("presence does not answer; nodes resync", "users", len(s.owed.users), "all", s.owed.all)
	s.since = time.Now()
	s.skip()
}

// skip has the sessions of those who are owed compare heads with everything that was committed before, wherever they are.
func (s *stage) skip() {
	owing := s.owed
	if s.owed = (owed{}); owing.all {
		s.sender.Skip()
		return
	}
	users := make(link.Users, len(owing.users))
	for user := range owing.users {
		users.Add(user.App, user.User)
	}
	s.sender.SkipUsers(users)
}

// settle tells those who are owed, or finds that presence still does not say where they are.
func (s *stage) settle() {
	if s.owed.all && !s.failing {
		s.skip()
		return
	}
	users := slices.SortedFunc(maps.Keys(s.owed.users), func(a, b presence.User) int {
		return cmp.Or(strings.Compare(a.App, b.App), strings.Compare(a.User, b.User))
	})
	s.owed.users = nil
	for at := 0; at < len(users); at += owedParcel {
		p := parcel{word: true}
		next := min(at+owedParcel, len(users))
		for i, user := range users[at:next] {
			delay := owedSpread.Milliseconds() * int64(at+i) / int64(len(users))
			p.deliveries = append(p.deliveries, delivery{
				app: user.App, users: []string{user.User}, command: envelopev1.Command_COMMAND_RESYNC,
				body: &envelopev1.Resync{DelayMs: uint32(delay)},
			})
		}
		if s.deliver(&p); !s.failing {
			continue
		}
		s.owed.remember(users[next:])
		break
	}
	s.poll()
}
