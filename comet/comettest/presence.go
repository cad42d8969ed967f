package comettest

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/presence"
)

// Presence is a registry in memory that can be made to fail.
type Presence struct {
	mu          sync.Mutex
	down        bool
	mute        bool // what is asked for is done, and not answered
	late        time.Duration
	beaten      bool
	hold        chan struct{}
	owed        int // changes that are late and not done yet
	incarnation int
	epoch       uint64
	generation  uint64
	holder      map[string]uint64 // node → epoch
	entries     map[presence.User]map[string]presence.Entry
	rooms       map[presence.RoomID]map[string]uint64

	Registers   int // entries registered
	Unregisters int
	lookups     int // users looked up
}

var _ presence.Registry = (*Presence)(nil)

// NewPresence makes an empty registry.
func NewPresence() *Presence {
	return &Presence{holder: make(map[string]uint64), entries: make(map[presence.User]map[string]presence.Entry), rooms: make(map[presence.RoomID]map[string]uint64)}
}

// SetDown makes every call fail, or work again.
func (p *Presence) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// SetMute makes registrations that are carried out fail for whoever asked.
func (p *Presence) SetMute(mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = mute
}

// SetLate makes every change of devices and rooms fail for whoever asks for it, and be made d later all the same; 0: no more.
func (p *Presence) SetLate(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = d
}

// HoldAnswers keeps back the answers to registrations until release is called.
func (p *Presence) HoldAnswers() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hold := make(chan struct{})
	p.hold = hold
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.hold = nil
		close(hold)
	}
}

func (p *Presence) held() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hold
}

// SetBeaten has the next device that registers find that it has registered elsewhere since.
func (p *Presence) SetBeaten() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beaten = true
}

// Owes reports how many changes are late and not made yet.
func (p *Presence) Owes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owed
}

// change makes a change, now or late.
func (p *Presence) change(do func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.down:
		return presence.ErrUnavailable
	case p.late == 0:
		do()
		return nil
	}
	p.owed++
	time.AfterFunc(p.late, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.owed--
		do()
	})
	return presence.ErrUnavailable
}

// Wipe loses all data, as a Redis that restarts empty does.
func (p *Presence) Wipe() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.incarnation++
	clear(p.holder)
	clear(p.entries)
	clear(p.rooms)
}

// Entry is the entry of a device; ok says whether it counts: whether it stands under its node's epoch.
func (p *Presence) Entry(app, user, device string) (e presence.Entry, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok = p.entries[presence.User{App: app, User: user}][device]
	return e, ok && p.holder[e.Node] == e.Epoch && e.Epoch != 0
}

// Len is how many entries count.
func (p *Presence) Len() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, devices := range p.entries {
		for _, e := range devices {
			if p.holder[e.Node] == e.Epoch {
				n++
			}
		}
	}
	return n
}

// Plant puts in an entry of another node, and has that node live.
func (p *Presence) Plant(u presence.User, e presence.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation = max(p.generation, e.Generation)
	p.holder[e.Node] = e.Epoch
	p.put(u, e)
}

// Remove takes a device's entry away.
func (p *Presence) Remove(u presence.User, device string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.entries[u], device)
}

func (p *Presence) put(u presence.User, e presence.Entry) {
	if p.entries[u] == nil {
		p.entries[u] = make(map[string]presence.Entry)
	}
	p.entries[u][e.Device] = e
}

// Register implements presence.Registry.
func (p *Presence) Register(_ context.Context, regs []presence.Registration) error {
	asked := slices.Clone(regs) // What comes late is told nobody.
	if err := p.change(func() { p.register(asked) }); err != nil {
		return err
	}
	copy(regs, asked)
	if hold := p.held(); hold != nil {
		<-hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute {
		p.down = true
		return presence.ErrUnavailable
	}
	return nil
}

func (p *Presence) register(regs []presence.Registration) {
	for i := range regs {
		r := &regs[i]
		old, ok := p.entries[r.User][r.Entry.Device]
		live := ok && p.holder[old.Node] == old.Epoch
		if r.Entry.Generation == 0 && live && p.beaten {
			p.beaten, r.Stale = false, true
			continue
		}
		if r.Entry.Generation == 0 {
			p.generation++
			r.Entry.Generation = p.generation
		}
		p.generation = max(p.generation, r.Entry.Generation)
		if live && old.Generation > r.Entry.Generation {
			r.Stale = true
			continue
		}
		if live && (old.Node != r.Entry.Node || old.Conn != r.Entry.Conn) {
			r.Replaced = &old
		}
		p.put(r.User, r.Entry)
		p.Registers++
	}
}

// Unregister implements presence.Registry.
func (p *Presence) Unregister(_ context.Context, regs []presence.Registration) error {
	asked := slices.Clone(regs)
	return p.change(func() { p.unregister(asked) })
}

func (p *Presence) unregister(regs []presence.Registration) {
	for i := range regs {
		r := &regs[i]
		if e, ok := p.entries[r.User][r.Entry.Device]; ok && (e.Generation == r.Entry.Generation ||
			r.Entry.Generation == 0 && e.Node == r.Entry.Node && e.Epoch == r.Entry.Epoch && e.Conn == r.Entry.Conn) {
			delete(p.entries[r.User], r.Entry.Device)
			p.Unregisters++
		}
	}
}

// Lookup implements presence.Registry.
func (p *Presence) Lookup(_ context.Context, users []presence.User, _ [][]presence.Entry) ([][]presence.Entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, presence.ErrUnavailable
	}
	p.lookups += len(users)
	found := make([][]presence.Entry, len(users))
	for i, u := range users {
		for _, e := range p.entries[u] {
			if p.holder[e.Node] == e.Epoch && e.Epoch != 0 {
				found[i] = append(found[i], e)
			}
		}
	}
	return found, nil
}

// Lookups is how many users were looked up.
func (p *Presence) Lookups() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lookups
}

// Acquire implements presence.Leases.
func (p *Presence) Acquire(_ context.Context, node string) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return 0, presence.ErrUnavailable
	}
	p.epoch++
	p.holder[node] = p.epoch
	return p.epoch, nil
}

// Renew implements presence.Leases.
func (p *Presence) Renew(_ context.Context, node string, epoch uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.down:
		return presence.ErrUnavailable
	case p.holder[node] != epoch:
		return presence.ErrLost
	}
	return nil
}

// Release implements presence.Leases.
func (p *Presence) Release(_ context.Context, node string, epoch uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return presence.ErrUnavailable
	}
	if p.holder[node] == epoch {
		delete(p.holder, node)
	}
	return nil
}

// Incarnation implements presence.Leases.
func (p *Presence) Incarnation(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return "", presence.ErrUnavailable
	}
	return strconv.Itoa(p.incarnation), nil
}

// Held reports whether the node holds a lease.
func (p *Presence) Held(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holder[node] != 0
}

// EnterRoom implements presence.Rooms.
func (p *Presence) EnterRoom(_ context.Context, rooms []presence.Room) error {
	return p.change(func() {
		for _, r := range rooms {
			if p.rooms[r.RoomID] == nil {
				p.rooms[r.RoomID] = make(map[string]uint64)
			}
			p.rooms[r.RoomID][r.Node] = r.Epoch
		}
	})
}

// LeaveRoom implements presence.Rooms.
func (p *Presence) LeaveRoom(_ context.Context, rooms []presence.Room) error {
	return p.change(func() {
		for _, r := range rooms {
			if p.rooms[r.RoomID][r.Node] == r.Epoch {
				delete(p.rooms[r.RoomID], r.Node)
			}
		}
	})
}

// RoomNodes implements presence.Rooms; comet asks for none.
func (p *Presence) RoomNodes(context.Context, []presence.RoomID, [][]presence.RoomNode) ([][]presence.RoomNode, error) {
	return nil, presence.ErrUnavailable
}

// InRoom reports whether the node is in the room under the epoch that it holds.
func (p *Presence) InRoom(app, conversation, node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	epoch := p.rooms[presence.RoomID{App: app, Conversation: conversation}][node]
	return epoch != 0 && epoch == p.holder[node]
}
