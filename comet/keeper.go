package comet

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/presence"
)

// keeper is the one goroutine that enters and leaves rooms in presence, for all loops. A room is left some time after its last member
// here, for devices come back; entered again under a new lease; and what presence does not take is tried again.
type keeper struct {
	comet      *Comet
	tasks      *queue[roomTask]
	rooms      atomic.Int64  // for the metric
	leaveAfter time.Duration // how long a room is kept without a member

	// Owned by the goroutine.
	kept    map[presence.RoomID]*keptRoom
	todo    map[presence.RoomID]struct{} // to be entered
	leaving map[presence.RoomID]time.Time
	epoch   uint64    // of the lease that rooms are entered under
	settled time.Time // when presence has done with the last call that failed
}

// roomTask says that a loop has a first member of a room, or none any more.
type roomTask struct {
	id    presence.RoomID
	loop  int
	enter bool
}

// enteredRoom is the keeper's answer.
type enteredRoom struct {
	id    presence.RoomID
	epoch uint64
}

// keptRoom is a room that this node is in, or wants to be, or is about to leave.
type keptRoom struct {
	loops   map[int]struct{}
	entered uint64 // epoch of the lease that it was entered under, answered or not
	doubt   bool   // it was to be entered or left, and there was no answer
}

const (
	defaultLeaveAfter = 10 * time.Second
	// keeperTick is how often the keeper looks at what is to be tried again, or left.
	keeperTick = 200 * time.Millisecond
)

func newKeeper(c *Comet) *keeper {
	return &keeper{
		comet: c, leaveAfter: defaultLeaveAfter, tasks: newQueue[roomTask](c.cfg.PendingPresence), kept: make(map[presence.RoomID]*keptRoom),
		todo: make(map[presence.RoomID]struct{}), leaving: make(map[presence.RoomID]time.Time),
	}
}

// run works until ctx ends. The end of the lease takes the node out of all rooms.
func (k *keeper) run(ctx context.Context) {
	again := time.NewTimer(keeperTick)
	defer again.Stop()
	var batch []roomTask
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.tasks.wake:
		case <-again.C:
		}
		for batch = k.tasks.poll(batch, registrarBatch); len(batch) > 0; batch = k.tasks.poll(batch, registrarBatch) {
			for _, t := range batch {
				k.take(t)
			}
		}
		k.renew()
		if !time.Now().Before(k.settled) {
			k.enter(ctx)
			k.leave(ctx)
		}
		k.rooms.Store(int64(len(k.kept)))
		if len(k.todo)+len(k.leaving) > 0 {
			again.Reset(keeperTick)
		}
	}
}

// leased has the keeper look at the lease.
func (k *keeper) leased() { k.tasks.signal() }

func (k *keeper) take(t roomTask) {
	r := k.kept[t.id]
	if r == nil {
		if !t.enter {
			return
		}
		r = &keptRoom{loops: make(map[int]struct{})}
		k.kept[t.id] = r
	}
	if !t.enter {
		if delete(r.loops, t.loop); len(r.loops) == 0 {
			delete(k.todo, t.id)
			k.leaving[t.id] = time.Now().Add(k.leaveAfter)
		}
		return
	}
	r.loops[t.loop] = struct{}{}
	delete(k.leaving, t.id)
	if r.entered != 0 && r.entered == k.comet.lease.current() && !r.doubt {
		k.tell(t.loop, []enteredRoom{{t.id, r.entered}})
		return
	}
	k.todo[t.id] = struct{}{}
}

// renew finds a new lease: under it the node is in no room yet.
func (k *keeper) renew() {
	epoch := k.comet.lease.current()
	if epoch == k.epoch {
		return
	}
	k.epoch = epoch
	for id, r := range k.kept {
		if len(r.loops) > 0 {
			k.todo[id] = struct{}{}
		}
	}
}

// enter enters what is to be entered, in batches, until one fails.
func (k *keeper) enter(ctx context.Context) {
	for len(k.todo) > 0 && k.epoch != 0 && ctx.Err() == nil {
		rooms := make([]presence.Room, 0, min(len(k.todo), registrarBatch))
		for id := range k.todo {
			if rooms = append(rooms, presence.Room{RoomID: id, Node: k.comet.node, Epoch: k.epoch}); len(rooms) == registrarBatch {
				break
			}
		}
		if !k.call(ctx, "enter rooms", rooms, k.comet.presence.EnterRoom) {
			return
		}
		byLoop := make(map[int][]enteredRoom)
		for _, room := range rooms {
			delete(k.todo, room.RoomID)
			for loop := range k.kept[room.RoomID].loops {
				byLoop[loop] = append(byLoop[loop], enteredRoom{room.RoomID, room.Epoch})
			}
		}
		for loop, done := range byLoop {
			k.tell(loop, done)
		}
	}
}

// leave leaves rooms that nobody came back to.
func (k *keeper) leave(ctx context.Context) {
	now := time.Now()
	var rooms []presence.Room
	for id, at := range k.leaving {
		if now.Before(at) {
			continue
		}
		rooms = append(rooms, presence.Room{RoomID: id, Node: k.comet.node, Epoch: k.kept[id].entered})
		if len(rooms) == registrarBatch {
			break
		}
	}
	if len(rooms) == 0 || !k.call(ctx, "leave rooms", rooms, k.comet.presence.LeaveRoom) {
		return
	}
	for _, room := range rooms {
		delete(k.leaving, room.RoomID)
		delete(k.kept, room.RoomID)
	}
}

func (k *keeper) call(ctx context.Context, what string, rooms []presence.Room, f func(context.Context, []presence.Room) error) bool {
	start := time.Now()
	for _, room := range rooms {
		r := k.kept[room.RoomID]
		r.entered, r.doubt = room.Epoch, true
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	if err := f(ctx, rooms); err != nil {
		k.settled = start.Add(k.comet.settle)
		k.comet.log.Debug("presence does not answer; trying again", "during", what, "rooms", len(rooms), "error", err)
		return false
	}
	for _, room := range rooms {
		k.kept[room.RoomID].doubt = false
	}
	return true
}

func (k *keeper) tell(loop int, done []enteredRoom) {
	k.comet.loops[loop].post(func(in *inbox) bool {
		in.entered = append(in.entered, done...)
		return true
	})
}
