package comet

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/presence"
)

// verifier checks tokens off the event loops: a signature costs more than a loop has to give, and a key set may have to be
// fetched. Several run; each takes what is queued, so that a storm costs one wake-up per batch.
func (c *Comet) verifier(ctx context.Context) {
	var batch []*admission
	for {
		if batch = c.tokens.take(ctx, batch, verifyBatch); len(batch) == 0 {
			return
		}
		for i, a := range batch {
			batch[i] = nil
			a.identity, a.fault = c.auth.Verify(a.token)
			a.token = ""
			if a.fault == nil {
				a.fault = a.identity.check()
			}
			if a.fault != nil || a.purpose == purposeRefresh {
				c.giveBack(a)
				continue
			}
			id := &a.identity
			if len(a.sealed) > 0 {
				a.ticket = c.redeem(a.sealed, id, time.Now())
			}
			a.registration = presence.Registration{
				User:  presence.User{App: id.App, User: id.User},
				Entry: presence.Entry{Device: id.Device, Node: c.node, Conn: a.id, Codec: a.codec},
			}
			if !c.registrar.register(a) {
				c.giveBack(a) // unregistered; a sweep makes up for it
			}
		}
	}
}

// verifyBatch is small: the others' tokens wait meanwhile.
const verifyBatch = 16

// giveBack returns an admission to its loop.
func (c *Comet) giveBack(a *admission) {
	c.loops[loopOf(a.id)].post(func(in *inbox) bool {
		in.results = append(in.results, a)
		return true
	})
}

// registrar is the one goroutine that writes to presence: what is queued leaves in one pipeline. While the backend does not
// answer it asks for nothing: sessions go on unregistered, and the lease keeper has them registered when it does again.
type registrar struct {
	comet *Comet
	tasks *queue[*task]
	// up says that the backend answers, has done with whatever it was asked without an answer, and the lease is held. The lease keeper
	// sets it, a failure here clears it.
	up atomic.Bool
	// missed says that there may be live sessions without a registration; their loops set it.
	missed atomic.Bool
	// fresh says that removals were lost, so entries of gone sessions stand under the lease: only a new epoch clears them.
	fresh atomic.Bool

	mu      sync.Mutex // up is set under it
	settled time.Time  // when the backend has done with the last call that failed

	// Owned by the goroutine.
	regs       []presence.Registration
	admissions []*admission
	removals   []presence.Registration // not done yet
	checks     [][]presence.Registration
}

// task is one of a registration, a removal and a look at entries, or, where it is none, a reminder of the removals that wait.
type task struct {
	admission *admission
	removal   *presence.Registration
	check     []presence.Registration
}

// registrarBatch bounds one pipeline.
const registrarBatch = 512

func newRegistrar(c *Comet) *registrar {
	r := &registrar{comet: c, tasks: newQueue[*task](c.cfg.PendingPresence)}
	r.up.Store(true) // Until the first beat, before anybody connects: so that a node which starts without presence says so.
	return r
}

// register queues a registration; false means that too many wait.
func (r *registrar) register(a *admission) bool { return r.tasks.push(&task{admission: a}) }

// unregister queues a removal. Where the queue is full it is dropped, and the lease begun anew, which ends all entries of
// sessions that are gone.
func (r *registrar) unregister(reg presence.Registration) {
	reg.Replaced = nil
	if !r.tasks.push(&task{removal: &reg}) {
		r.fresh.Store(true)
	}
}

// remind has removals done that waited for the backend. A full queue needs no reminder.
func (r *registrar) remind() { r.tasks.push(&task{}) }

// run works until ctx ends, and then takes what sessions left behind out of presence, in the time that is left for it.
func (r *registrar) run(ctx context.Context) {
	var batch []*task
	for {
		if batch = r.tasks.take(ctx, batch, registrarBatch); len(batch) == 0 {
			break
		}
		r.work(context.WithoutCancel(ctx), batch)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for ctx.Err() == nil {
		if batch = r.tasks.poll(batch, registrarBatch); len(batch) == 0 {
			break
		}
		r.work(ctx, batch)
	}
}

const (
	flushTimeout    = 2 * time.Second
	registryTimeout = time.Second
)

func (r *registrar) work(ctx context.Context, batch []*task) {
	for i, t := range batch {
		batch[i] = nil
		switch {
		case t.admission != nil:
			r.admissions = append(r.admissions, t.admission)
		case t.removal != nil:
			r.removals = append(r.removals, *t.removal)
		case t.check != nil:
			r.checks = append(r.checks, t.check)
		}
	}
	r.registerAll(ctx)
	r.removeAll(ctx)
	for _, regs := range r.checks {
		r.checkAll(ctx, regs)
	}
	clear(r.checks)
	r.checks = r.checks[:0]
}

func (r *registrar) registerAll(ctx context.Context) {
	if len(r.admissions) == 0 {
		return
	}
	epoch := r.comet.lease.current()
	for _, a := range r.admissions {
		a.registration.Entry.Epoch = epoch
		r.regs = append(r.regs, a.registration)
	}
	asked := r.up.Load()
	done := asked && r.try(ctx, "register", r.comet.presence.Register)
	for i, a := range r.admissions {
		if done {
			a.registration, a.registered = r.regs[i], true
		} else {
			a.inDoubt = asked
		}
		r.comet.giveBack(a)
	}
	clear(r.admissions)
	clear(r.regs)
	r.admissions, r.regs = r.admissions[:0], r.regs[:0]
}

// removeAll removes what can be removed. While the backend is away removals wait, in bounds.
func (r *registrar) removeAll(ctx context.Context) {
	for len(r.removals) > 0 && r.up.Load() {
		n := min(len(r.removals), registrarBatch)
		r.regs = append(r.regs[:0], r.removals[:n]...)
		if !r.try(ctx, "unregister", r.comet.presence.Unregister) {
			break
		}
		r.removals = append(r.removals[:0], r.removals[n:]...)
	}
	r.regs = r.regs[:0]
	if len(r.removals) > r.comet.cfg.PendingPresence {
		r.fresh.Store(true)
	}
	if len(r.removals) == 0 || r.fresh.Load() {
		clear(r.removals)
		r.removals = r.removals[:0]
	}
}

// try calls the registry with regs.
func (r *registrar) try(ctx context.Context, what string, call func(context.Context, []presence.Registration) error) bool {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	if err := call(ctx, r.regs); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.settled = start.Add(r.comet.settle)
		if r.up.Swap(false) {
			r.comet.log.Warn("presence does not answer; sessions go on unregistered", "during", what, "error", err)
		}
		return false
	}
	return true
}

// isSettled reports whether nothing that failed may be done by the backend still. What was registered or removed before would be undone.
func (r *registrar) isSettled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !time.Now().Before(r.settled)
}

// answers notes that the backend answers, and reports whether that is news. It is not while a call that failed is unsettled.
func (r *registrar) answers() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !time.Now().Before(r.settled) && !r.up.Swap(true)
}

// users counts sessions per user on this node, where a limit is set. A user is a hash with a secret seed, for names would be most of
// what an idle session costs here: that two users share a count is as good as impossible, and cannot be brought about.
type users struct {
	limit int
	seed  maphash.Seed
	mu    sync.Mutex
	count map[uint64]uint32
}

func newUsers(limit int) *users {
	return &users{limit: limit, seed: maphash.MakeSeed(), count: make(map[uint64]uint32)}
}

func (u *users) key(app, user string) uint64 {
	return maphash.Comparable(u.seed, presence.User{App: app, User: user})
}

// add counts a session; false means that the user has as many as it may. One in whose place it comes is about to leave.
func (u *users) add(app, user string, replaces bool) bool {
	if u.limit == 0 {
		return true
	}
	key := u.key(app, user)
	u.mu.Lock()
	defer u.mu.Unlock()
	most := u.limit
	if replaces {
		most++
	}
	if int(u.count[key]) >= most {
		return false
	}
	u.count[key]++
	return true
}

func (u *users) remove(app, user string) {
	key := u.key(app, user)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count[key]--; u.count[key] == 0 {
		delete(u.count, key)
	}
}
