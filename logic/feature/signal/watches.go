package signal

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// Lasts is how long a watch lasts unless it is renewed. It bounds what a change of ownership, of membership or the death of a
// process leaves behind: a member who is removed is told of the others for so long at most.
const Lasts = 60 * time.Second

const (
	// A user counts once for each conversation that it is watched in.
	maxOfSession = 1_000
	// Over all sessions of a user, those included that are gone and not missed yet: a device that connects again and again must not
	// take the room of all others.
	maxOfUser    = 5_000
	maxOfProcess = 100_000

	// A session that presence does not know this long after it asked is gone, or in trouble of its own.
	arriving = 10 * time.Second

	// An answer is on its way for so long: until then a push could overtake it and leave the session with what is older.
	answering = 2 * time.Second
	answered  = 500 * time.Millisecond
)

// Watches knows which sessions are told who comes and goes, for all partitions of a process. Requests are judged by the
// partitions; here nobody asks any more who may see whom. Its methods wait for nothing but a mutex; Run polls and tells.
type Watches struct {
	// static
	presence presence.Registry
	sender   link.Sender
	log      *slog.Logger
	gauge    prometheus.Gauge

	mu       sync.Mutex
	subjects map[presence.User]*subject
	sessions map[address]*session
	count    int // of grants

	// Owned by Run.
	users  []presence.User
	found  [][]presence.Entry
	failed int // polls in a row
}

// address is where a session is reached.
type address struct {
	node string
	conn uint64
}

// subject is a user who is watched, or who has sessions that watch.
type subject struct {
	presence.User
	watchers map[*session]*watch
	sessions map[*session]struct{}
}

// session is one that watches.
type session struct {
	address
	owner *subject
	codec link.Codec
	// generation is presence's, 0 until a poll has seen the session there. It is told nothing before: nobody else who comes
	// to have its connection's number may be.
	generation uint64
	asked      time.Time // last
	watches    map[*subject]*watch
	grants     int
}

// watch is one user watched by one session.
type watch struct {
	grants []grant
	// What the session was told last.
	told told
	// settled is when the answer has certainly left.
	settled time.Time
}

// grant is the conversation that a watch was judged in, and until when that holds.
type grant struct {
	conversation string
	until        time.Time
}

type told struct {
	something, online, degraded bool
}

// NewWatches makes one without watches. Nothing is started.
func NewWatches(registry presence.Registry, sender link.Sender, log *slog.Logger, metrics prometheus.Registerer) *Watches {
	w := &Watches{
		presence: registry, sender: sender, log: log, subjects: map[presence.User]*subject{}, sessions: map[address]*session{},
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_logic_watches", Help: "Users whose presence is watched, once for each session and conversation.",
		}),
	}
	metrics.MustRegister(w.gauge)
	return w
}

// add begins or renews the watches of r's session: all of them or, beyond a bound, none.
func (w *Watches) add(r *link.Request, users []presence.User) *protocol.Error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.session(r)
	more := 0
	for i, user := range users {
		if s.grant(w.subjects[user], r.Conversation) == nil && !slices.Contains(users[:i], user) {
			more++
		}
	}
	switch {
	case s.grants+more > maxOfSession:
		w.forgetIdle(s)
		return protocol.Errorf(protocol.CodeBusy, "a session may watch %d users", maxOfSession)
	case s.owner.grants()+more > maxOfUser:
		w.forgetIdle(s)
		return protocol.Errorf(protocol.CodeBusy, "a user may watch %d users from all of its sessions", maxOfUser)
	case w.count+more > maxOfProcess:
		w.forgetIdle(s)
		return protocol.Errorf(protocol.CodeBusy, "too many users are watched here")
	}
	now := time.Now()
	s.asked = now
	for _, user := range users {
		target := w.subject(user)
		one := s.watches[target]
		if one == nil {
			one = &watch{}
			s.watches[target], target.watchers[s] = one, one
		}
		one.settled = now.Add(answering)
		if g := s.grant(target, r.Conversation); g != nil {
			g.until = now.Add(Lasts)
			continue
		}
		one.grants = append(one.grants, grant{strings.Clone(r.Conversation), now.Add(Lasts)})
		s.grants++
		w.counted(1)
	}
	return nil
}

// answer makes what the session is told about the users, and notes it. What is not known is told as it was told last.
func (w *Watches) answer(from address, users []presence.User, entries [][]presence.Entry, known bool) []*signalv1.Presence {
	w.mu.Lock()
	defer w.mu.Unlock()
	settled := time.Now().Add(answered)
	s := w.sessions[from]
	out := make([]*signalv1.Presence, len(users))
	for i, user := range users {
		var one *watch
		if target := w.subjects[user]; s != nil && target != nil {
			one = s.watches[target]
		}
		now := told{something: true, degraded: !known}
		switch {
		case known:
			now.online = len(entries[i]) > 0
		case one != nil:
			now.online = one.told.online
		}
		if one != nil {
			one.told, one.settled = now, settled
		}
		out[i] = now.presence(user.User)
	}
	return out
}

// remove ends watches in r's conversation. Those of the same user in others go on.
func (w *Watches) remove(r *link.Request, users []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sessions[address{r.Node, r.Conn}]
	if s == nil {
		return
	}
	for _, user := range users {
		if target := w.subjects[presence.User{App: r.App, User: user}]; target != nil && s.watches[target] != nil {
			w.withdraw(s, target, func(g grant) bool { return g.conversation == r.Conversation })
		}
	}
}

func (t told) presence(user string) *signalv1.Presence {
	return &signalv1.Presence{User: user, Online: t.online, Degraded: t.degraded}
}

// session finds or makes the session of r. The strings of a request may be parts of something larger.
func (w *Watches) session(r *link.Request) *session {
	at := address{r.Node, r.Conn}
	owner := presence.User{App: r.App, User: r.User}
	if s := w.sessions[at]; s != nil {
		if s.owner.User == owner {
			return s
		}
		w.end(s) // The number of a connection that is gone.
	}
	at.node = strings.Clone(r.Node)
	s := &session{address: at, owner: w.subject(owner), codec: r.Codec, watches: map[*subject]*watch{}}
	w.sessions[at], s.owner.sessions[s] = s, struct{}{}
	return s
}

func (w *Watches) subject(user presence.User) *subject {
	if s := w.subjects[user]; s != nil {
		return s
	}
	user = presence.User{App: strings.Clone(user.App), User: strings.Clone(user.User)}
	s := &subject{User: user, watchers: map[*session]*watch{}, sessions: map[*session]struct{}{}}
	w.subjects[user] = s
	return s
}

// grants counts what all sessions of a user watch.
func (s *subject) grants() (n int) {
	for one := range s.sessions {
		n += one.grants
	}
	return n
}

func (s *session) grant(target *subject, conversation string) *grant {
	one := s.watches[target]
	if one == nil {
		return nil
	}
	for i := range one.grants {
		if one.grants[i].conversation == conversation {
			return &one.grants[i]
		}
	}
	return nil
}

// withdraw ends those grants of a watch; without any the watch ends, without any of those the session is forgotten.
func (w *Watches) withdraw(s *session, target *subject, those func(grant) bool) {
	one := s.watches[target]
	before := len(one.grants)
	one.grants = slices.DeleteFunc(one.grants, those)
	s.grants -= before - len(one.grants)
	w.counted(len(one.grants) - before)
	if len(one.grants) > 0 {
		return
	}
	delete(s.watches, target)
	delete(target.watchers, s)
	w.forget(target)
	w.forgetIdle(s)
}

// end forgets a session with all that it watches.
func (w *Watches) end(s *session) {
	for target := range s.watches {
		w.withdraw(s, target, func(grant) bool { return true })
	}
}

func (w *Watches) forgetIdle(s *session) {
	if len(s.watches) > 0 {
		return
	}
	delete(w.sessions, s.address)
	delete(s.owner.sessions, s)
	w.forget(s.owner)
}

func (w *Watches) forget(s *subject) {
	if len(s.watchers) == 0 && len(s.sessions) == 0 {
		delete(w.subjects, s.User)
	}
}

func (w *Watches) counted(n int) {
	if n != 0 {
		w.count += n
		w.gauge.Set(float64(w.count))
	}
}
