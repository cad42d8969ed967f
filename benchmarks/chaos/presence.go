package main

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"
)

// presenceWithin is the promise: so long after a change, presence tells the truth.
const presenceWithin = 15 * time.Second

// checkPresence compares what presence holds of each user with the devices that run, and again when a third of them have been
// stopped. It returns what was still untrue when the time was over.
func (f *fleet) checkPresence(ctx context.Context, a *api) (untrue []string, took time.Duration) {
	untrue, took = f.presenceIs(ctx, a, func(*device) bool { return true })
	if len(untrue) > 0 {
		return untrue, took
	}
	for i, d := range f.devices {
		if i%3 == 0 {
			d.stop()
		}
	}
	untrue, second := f.presenceIs(ctx, a, func(d *device) bool { return d.index%3 != 0 })
	return untrue, max(took, second)
}

// presenceIs waits until presence has exactly the devices that run.
func (f *fleet) presenceIs(ctx context.Context, a *api, runs func(*device) bool) (untrue []string, took time.Duration) {
	began := time.Now()
	want := map[string]int{}
	for _, d := range f.devices {
		if runs(d) {
			want[d.user]++
		}
	}
	for {
		last := time.Since(began) > presenceWithin
		untrue = untrue[:0]
		for _, user := range f.users {
			n, err := a.online(ctx, user)
			if err != nil {
				untrue = append(untrue, fmt.Sprintf("presence of %s: %v", user, err))
			} else if n != want[user] {
				untrue = append(untrue, fmt.Sprintf("%s has %d devices, presence says %d", user, want[user], n))
			}
		}
		if len(untrue) == 0 || last || !sleep(ctx, 300*time.Millisecond) {
			return untrue, time.Since(began)
		}
	}
}

// presenceEvery is how often presence is asked for everybody while the system is hurt.
const presenceEvery = 500 * time.Millisecond

// watch compares presence with the devices while the system is hurt. It says nothing of who has a slow device: that learns of its own
// connection when it has read what came before.
type watch struct {
	f     *fleet
	users []string    // Of whom it says something.
	blind func() bool // Nobody can know now.

	mu      sync.Mutex
	differs map[view]*difference // guarded by mu
	longest time.Duration        // guarded by mu
	untrue  []string             // guarded by mu
}

// view is a user as one node sees him.
type view struct{ host, user string }

// difference is how long presence and one user's devices have not been the same.
type difference struct {
	agreed time.Duration // They were, or it was not known.
	told   bool
}

func newWatch(f *fleet, blind func() bool) *watch {
	w := &watch{f: f, blind: blind, differs: map[view]*difference{}}
	slow := map[string]bool{}
	for _, d := range f.devices {
		slow[d.user] = slow[d.user] || d.slow
	}
	for _, user := range f.users {
		if !slow[user] {
			w.users = append(w.users, user)
		}
	}
	return w
}

// run asks until ctx ends.
func (w *watch) run(ctx context.Context, a *api) {
	for n := 0; sleep(ctx, presenceEvery); n++ {
		known := !w.blind()
		host := a.hosts[n%len(a.hosts)]
		for _, user := range w.users {
			before, since := w.f.connected(user)
			asked := time.Since(w.f.began)
			var present int
			if known { // One that does not answer does not answer for the others either.
				var err error
				present, err = a.present(ctx, host, user)
				known = err == nil && !w.blind()
			}
			after, later := w.f.connected(user)
			w.see(view{host, user}, asked, max(since, later), known && before == after, present, before)
		}
	}
}

// see takes one answer, and when the devices last changed.
func (w *watch) see(v view, asked, changed time.Duration, known bool, present, connected int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.differs[v]
	if d == nil {
		d = &difference{agreed: asked}
		w.differs[v] = d
	}
	if !known || present == connected {
		d.agreed, d.told = asked, false
		return
	}
	took := asked - max(d.agreed, changed)
	w.longest = max(w.longest, took)
	if took > presenceWithin && !d.told {
		d.told = true
		w.untrue = append(w.untrue, fmt.Sprintf("%s has %d devices connected, %s says %d, for %.1f s at %.1f s",
			v.user, connected, v.host, present, took.Seconds(), asked.Seconds()))
	}
}

// connected is how many of a user's devices are, and since when that is so.
func (f *fleet) connected(user string) (n int, since time.Duration) {
	for _, d := range f.devices {
		if d.user != user {
			continue
		}
		d.mu.Lock()
		if d.connected {
			n++
		}
		since = max(since, d.since)
		d.mu.Unlock()
	}
	return n, since
}

// present is what presence holds of a user by the word of one node.
func (a *api) present(ctx context.Context, host, user string) (devices int, err error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	var answer struct {
		Devices []struct{ Device string }
	}
	_, err = a.ask(ctx, host, "/v1/users/"+url.PathEscape(user)+"/presence", &answer)
	return len(answer.Devices), err
}
