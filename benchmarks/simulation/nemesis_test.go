package simulation

import (
	"fmt"
	"slices"
	"time"
)

// fault is what the nemesis does.
type fault int

const (
	pauseOwner fault = iota // Longer than its lease, often.
	pauseAny
	killOwner
	handOver
	logDown
	leasesDown
	storeDown
	presenceDown
	cutDevices
	cutNode // What devices ask for through it arrives late.
	pauseJob
	killJob
	faults
)

var faultNames = [faults]string{
	"pause the owner", "pause a process", "kill the owner", "hand over", "log without a leader", "leases without a leader", "store down",
	"presence down", "cut devices off", "cut a node off", "pause a job", "kill a job",
}

// often: what is about owners comes more often, for it is what the write path is made for.
var often = []fault{
	pauseOwner, pauseOwner, pauseOwner, pauseAny, killOwner, killOwner, handOver, handOver, logDown, leasesDown, storeDown, presenceDown, cutDevices,
	cutDevices, cutNode, cutNode, pauseJob, killJob, killJob,
}

// oftenLate is what makes copies of writes late.
var oftenLate = []fault{cutNode, cutNode, cutDevices, handOver, handOver, killOwner, pauseOwner}

// nemesis breaks things for so long, and leaves all of them broken.
func (w *world) nemesis(d *dice, span time.Duration) {
	w.wait(d.between(time.Millisecond, time.Second))
	until := time.Now().Add(span)
	for n := 0; time.Now().Before(until); n++ {
		f := often[d.n(len(often))]
		if w.turnover {
			f = oftenLate[d.n(len(oftenLate))]
		}
		w.count(func(c *counts) { c.byFault[f]++ })
		w.step("nemesis: %s", faultNames[f])
		switch f {
		case pauseOwner, pauseAny:
			w.pauseFor(w.victim(d, f == pauseOwner), d.mostly(time.Second, 7*time.Second))
		case killOwner:
			w.kill(w.victim(d, true), fmt.Sprint("n", n), d.mostly(500*time.Millisecond, 3*time.Second))
		case handOver:
			if p := w.victim(d, true); p != nil {
				p.mu.Lock()
				p.yield()
				p.mu.Unlock()
			}
		case logDown:
			w.log.down.set(d.mostly(500*time.Millisecond, 5*time.Second))
		case leasesDown:
			w.leases.down.set(d.mostly(500*time.Millisecond, 5*time.Second))
		case storeDown:
			w.store.down.set(d.mostly(time.Second, 12*time.Second))
		case presenceDown:
			w.presentF.set(d.mostly(200*time.Millisecond, 2*time.Second))
		case cutDevices:
			w.cutSome(d, 3)
		case cutNode:
			w.nodes[d.n(len(w.nodes))].cut.set(d.between(500*time.Millisecond, 8*time.Second))
			w.cutSome(d, 9) // Some of its devices go elsewhere, and ask again.
		case pauseJob:
			w.stop(w.aJob(d), d.mostly(time.Second, 7*time.Second))
		case killJob:
			w.killJob(w.aJob(d), fmt.Sprint("job n", n), d.mostly(500*time.Millisecond, 3*time.Second))
		}
		if !w.wait(d.mostly(1500*time.Millisecond, 4*time.Second)) {
			return
		}
	}
}

// victim is a process: the one that serves, if so wanted and there is one.
func (w *world) victim(d *dice, owner bool) *proc {
	w.mu.Lock()
	defer w.mu.Unlock()
	if owner {
		for _, p := range w.procs {
			if p.reigns() {
				return p
			}
		}
	}
	if len(w.procs) == 0 {
		return nil
	}
	return w.procs[d.n(len(w.procs))]
}

// silence is how long a process says nothing before its links count as broken.
const silence = 3 * time.Second

// notice has nodes resync where a process fell silent without a goodbye, as links do.
func (w *world) notice(p *proc) {
	w.later(silence, func() {
		if p.silent() {
			for _, n := range w.nodes {
				n.Lost()
			}
		}
	})
}

func (w *world) pauseFor(p *proc, d time.Duration) {
	if w.stop(p, d) {
		w.notice(p)
	}
}

// stop has a process stand still; false: it is dead, or does already.
func (w *world) stop(p *proc, d time.Duration) bool {
	if p == nil || !p.pause() {
		return false
	}
	w.step("nemesis: %s stands still for %v", p.name, d)
	w.later(d, func() {
		w.step("nemesis: %s goes on", p.name)
		p.goOn()
	})
	return true
}

func (w *world) kill(p *proc, successor string, after time.Duration) {
	if p == nil {
		return
	}
	w.step("nemesis: %s is killed", p.name)
	p.die()
	w.notice(p)
	w.later(after, func() { w.launch(successor) })
}

// cutSome cuts devices off that do not stay.
func (w *world) cutSome(d *dice, most int) {
	for range 1 + d.n(most) {
		to := w.devices[d.n(len(w.devices))]
		off := d.between(time.Millisecond, 3*time.Second)
		if to.stays && w.is(storm) && !w.turnover {
			continue
		}
		select {
		case to.cut <- off:
		default:
		}
	}
}

// heal ends everything that is broken.
func (w *world) heal() {
	w.weather.Store(int32(calm))
	for _, f := range []*faultyUntil{&w.log.down, &w.leases.down, &w.store.down, &w.presentF} {
		f.clear()
	}
	for _, n := range w.nodes {
		n.cut.clear() // What it holds comes when the cut would have ended.
	}
	w.log.mu.Lock()
	w.log.most = max(w.log.most, 1<<20) // Somebody has given it more disk.
	w.log.mu.Unlock()
	w.mu.Lock()
	procs := slices.Concat(w.procs, w.jobs)
	w.mu.Unlock()
	for _, p := range procs {
		p.goOn()
	}
	w.step("nemesis: all is healed")
}
