package main

import (
	"context"
	"fmt"
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
