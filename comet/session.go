package comet

import (
	"math"
	"math/rand/v2"

	"github.com/halley-im/halley/comet/transport"
	"github.com/halley-im/halley/pkg/presence"
)

// phase of a session.
type phase uint8

const (
	phaseFree       phase = iota // the slot has no session
	phaseOpening                 // the transport's opening, then Connect, must come within the hello timeout
	phaseConnecting              // the token is being verified, then presence registered
	phaseLive                    // Hello was sent
	phaseRefused                 // not let in; it is told so when it speaks, or after the linger time
	phaseClosing                 // the last frame was written; the device's FIN or the linger time ends it
)

// flags of a session.
type flags uint8

const (
	flagRegistered flags = 1 << iota // presence knows the session under its generation and the node's current epoch
	flagRefreshing                   // a Refresh is being verified
	flagBacklogged                   // listed in loop.backlogged
	flagFin                          // FIN was sent
	flagCounted                      // counted in the user's sessions
	flagRefused                      // never let in: counted among the refusals, not the connections
	flagInDoubt                      // presence may know the session: it was asked to register it, and did not answer
	flagResumed                      // let in by a ticket; its rooms are to be confirmed with its next question to its user's log
)

// session is one connection of one device. Sessions lie in pages, not one by one on the heap, and an idle one is this struct,
// one string and the engine's connection: no goroutine, timer, closure or buffer. Its size is gated by a test.
//
// All fields belong to the session's loop.
type session struct {
	conn transport.Conn
	// text is "u:" + user + device in one allocation: the user's log, the user and the device are parts of it.
	text string
	app  *string // interned
	// state is the transport's.
	state      transport.State
	generation uint64 // of the presence entry
	slot       uint32
	salt       uint32 // changes with every session of the slot, so that an old id finds nobody
	expires    uint32 // end of the token, seconds since 1970; 0: never. In phaseRefused how long to stay away, ms
	retires    uint32 // tick of its greatest age; 0: never
	seen       uint32 // tick of the last frame; in phaseOpening of the accept, in phaseClosing the tick to give up at
	tokens     int32  // of the rate limit, in tenths of a frame
	refilled   uint32 // tick of the last refill
	need       uint32 // bytes that must be there before another look at the input is of use
	touched    uint32 // 1 + index in loop.touched during a delivery
	early      uint16 // frames refused before Hello; in phaseRefused the close code
	loop       uint8
	listener   uint8
	userLen    uint8
	phase      phase
	flags      flags
}

const userLogPrefix = "u:"

func (s *session) userLog() string { return s.text[:len(userLogPrefix)+int(s.userLen)] }
func (s *session) user() string {
	return s.text[len(userLogPrefix) : len(userLogPrefix)+int(s.userLen)]
}
func (s *session) device() string { return s.text[len(userLogPrefix)+int(s.userLen):] }

func (s *session) is(f flags) bool { return s.flags&f != 0 }

// name sets who the session belongs to.
func (s *session) name(app *string, user, device string) {
	s.app, s.userLen = app, uint8(len(user))
	s.text = userLogPrefix + user + device
}

func (s *session) presenceUser() presence.User { return presence.User{App: *s.app, User: s.user()} }

// The id of a session: 7 bits of loop, 32 of salt, 24 of slot.
const (
	slotBits  = 24
	maxSlots  = 1 << slotBits
	saltShift = slotBits
	loopShift = saltShift + 32 // maxLoops keeps the highest bit free
)

func (s *session) id() uint64 {
	return uint64(s.loop)<<loopShift | uint64(s.salt)<<saltShift | uint64(s.slot)
}

func loopOf(id uint64) int { return int(id >> loopShift) }

// registry holds a loop's sessions. A look-up is two slice indexes; pages never move, so pointers stay good, and are never
// freed: a node that held many sessions will again.
type registry struct {
	loop  uint8
	pages []*[pageSize]session
	free  []uint32
	live  int
}

const pageSize = 256

// add returns a new session in phaseOpening, or nil if all slots are taken.
func (r *registry) add() *session {
	if len(r.free) == 0 && !r.grow() {
		return nil
	}
	slot := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.live++
	s := r.at(slot)
	s.phase = phaseOpening
	return s
}

func (r *registry) grow() bool {
	first := uint32(len(r.pages) * pageSize)
	if first >= maxSlots {
		return false
	}
	page := new([pageSize]session)
	r.pages = append(r.pages, page)
	for i := pageSize - 1; i >= 0; i-- {
		page[i].loop, page[i].slot = r.loop, first+uint32(i)
		// Ids must not repeat after a restart either: an answer to a session of the last process must not reach another user.
		page[i].salt = rand.Uint32() | 1
		r.free = append(r.free, first+uint32(i))
	}
	return true
}

// remove frees the slot.
func (r *registry) remove(s *session) {
	salt := s.salt + 1
	if salt == 0 {
		salt = 1
	}
	*s = session{loop: s.loop, slot: s.slot, salt: salt}
	r.free = append(r.free, s.slot)
	r.live--
}

func (r *registry) at(slot uint32) *session { return &r.pages[slot/pageSize][slot%pageSize] }

// slots is the number of slots ever used; every slot below it can be given to at.
func (r *registry) slots() uint32 { return uint32(len(r.pages) * pageSize) }

// get returns the session of an id, nil if it is gone.
func (r *registry) get(id uint64) *session {
	slot := uint32(id) & (maxSlots - 1)
	if slot >= r.slots() {
		return nil
	}
	s := r.at(slot)
	if s.phase == phaseFree || uint64(s.salt) != id>>saltShift&math.MaxUint32 { // above the salt stands the loop
		return nil
	}
	return s
}
