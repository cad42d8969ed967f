package natslink

import (
	"strings"
	"sync"
	"time"

	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// inLinks is the receiving end of a node's links.
type inLinks struct {
	node *Node
	// Those who send are comets.
	peer bool

	mu    sync.Mutex
	links map[string]*inLink // by DeliveryBatch.from
	skips map[string]*skips  // by the from of what goes to all nodes
	batch batch              // the one at hand
	since time.Time          // listening
}

// inLink is one numbered link with a process.
type inLink struct {
	from   string
	next   uint64 // the number that comes next
	skipTo uint64 // what is missing up to here does not come
	heard  time.Time
	asked  time.Time // when deliveries were asked for again; zero: not since the last one in order
	silent bool      // Lost was called for it
}

// skips is how often a process has lost deliveries for nodes unknown.
type skips struct {
	count uint64
	heard time.Time
}

func (s *inLinks) init(n *Node, peer bool) {
	s.node, s.peer = n, peer
	s.links, s.skips, s.since = make(map[string]*inLink), make(map[string]*skips), time.Now()
}

// onAll takes what a process says to all nodes. Skips from before its first word here may or may not concern this node: they
// count.
func (s *inLinks) onAll(m bus.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.batch
	if err := b.decode(m.Data); err != nil {
		s.node.n.log.Error("link: a word to all nodes cannot be read", "err", err)
		return
	}
	if b.taken {
		s.node.onTaken(b.Partition, b.Epoch)
		return
	}
	k := s.skips[b.from]
	if k == nil {
		k = new(skips)
		s.skips[strings.Clone(b.from)] = k
	}
	k.heard = time.Now()
	if b.last > k.count {
		alone := b.last == k.count+1 && len(b.users) > 0
		k.count = b.last
		if alone {
			s.lostTo(b.from, b.users)
		} else {
			s.lost(b.from, "skip")
		}
	}
}

func (s *inLinks) listening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
}

// onMessage takes one DeliveryBatch.
func (s *inLinks) onMessage(m bus.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.batch
	if err := b.decode(m.Data); err != nil {
		s.node.n.log.Error("link: a batch of deliveries cannot be read", "bytes", len(m.Data), "err", err)
		return // Its number is missing now.
	}
	if s.peer && !b.closes() {
		s.node.n.forged.Inc()
		s.node.n.log.Error("link: a comet sends more than the close of a replaced session; it is dropped", "from", b.from)
		return
	}
	l := s.links[b.from]
	if l == nil {
		if len(s.links) >= s.node.cfg.MaxNodes {
			return
		}
		// The first word of a process may be any number: what it sent since this node listens is asked for.
		l = &inLink{from: strings.Clone(b.from), next: 1}
		s.links[l.from] = l
	}
	now := time.Now()
	l.heard, l.silent = now, false
	switch {
	case b.number == 0:
		s.onControl(l, now)
	case b.number < l.next: // Sent again, and not needed.
	case b.number > l.next && b.number-1 > l.skipTo:
		s.again(l, now)
	default:
		l.next = b.number + 1
		l.asked = time.Time{}
		s.node.unanswered.answered(&b.Batch)
		s.node.deps.Receiver.Deliver(&b.Batch)
	}
	clear(b.Deliveries) // Whoever keeps frames keeps these, not this slice.
}

func (s *inLinks) onControl(l *inLink, now time.Time) {
	b := &s.batch
	if b.skipTo != 0 {
		if b.skipTo >= l.next && b.skipTo > l.skipTo {
			l.skipTo = b.skipTo
			if b.lost {
				s.lost(l.from, "ring")
			}
		}
		return // What there is of it follows.
	}
	if l.next <= l.skipTo {
		l.next = l.skipTo + 1
	}
	complete := l.next > b.last
	switch {
	case b.closing:
		if !complete {
			s.lost(l.from, "closing")
		}
		delete(s.links, l.from)
	case complete:
		s.status(l, false)
	default:
		s.again(l, now)
	}
}

// again asks for everything from l.next on.
func (s *inLinks) again(l *inLink, now time.Time) {
	if now.Sub(l.asked) < ms(s.node.cfg.RepeatAgainMs) {
		return
	}
	l.asked = now
	s.node.n.gaps.Inc()
	s.status(l, true)
}

func (s *inLinks) status(l *inLink, again bool) {
	process, _, _ := strings.Cut(l.from, "/")
	if !validToken(process) {
		return
	}
	data, err := (&linkv1.LinkStatus{
		Node: s.node.id, From: l.from, Have: l.next - 1, Again: again, UpMs: uint64(time.Since(s.since).Milliseconds()),
	}).MarshalVT()
	if err == nil {
		err = s.node.publish(protocol.SubjectProcess(process), "", data)
	}
	if err != nil {
		s.node.n.log.Debug("link: status was not sent", "process", process, "err", err) // The next heartbeat asks again.
	}
}

func (s *inLinks) lost(from, why string) {
	if s.peer {
		return // A session that its device has left ends by its heartbeat.
	}
	s.node.n.lost.WithLabelValues(why).Inc()
	s.node.n.log.Warn("link: deliveries are lost", "from", from, "why", why)
	s.node.deps.Receiver.Lost()
}

func (s *inLinks) lostTo(from string, users link.Users) {
	s.node.n.lost.WithLabelValues("users").Inc()
	s.node.n.log.Warn("link: deliveries to some users are lost", "from", from, "users", len(users))
	s.node.deps.Receiver.LostTo(users)
}

// watch finds processes that fell silent.
func (s *inLinks) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for from, l := range s.links {
		quiet := now.Sub(l.heard)
		if quiet > ms(s.node.cfg.SilenceMs) && !l.silent {
			l.silent = true
			s.lost(l.from, "silence")
		}
		if quiet > ms(s.node.cfg.ForgetMs) {
			delete(s.links, from)
		}
	}
	for from, k := range s.skips {
		if now.Sub(k.heard) > ms(s.node.cfg.ForgetMs) {
			delete(s.skips, from)
		}
	}
}
